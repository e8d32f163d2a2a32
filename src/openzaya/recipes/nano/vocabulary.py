"""The nano tokenizer: bytes, plus one id for every constant fragment of the prompts.

Byte-level BPE without merges can write any text, digit by digit; added tokens make the chat
template, the aggregation prompt and the task names cost one token each. Deviation: D-015.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from openzaya.core.records import Message
from openzaya.recipes.nano.tasks import LEVELS
from openzaya.text.tails import aggregation_messages
from openzaya.text.tokenizer import TextTokenizer

SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
"""Ids 0 to 4; `<|im_end|>` ends a turn and a generation."""

TEMPLATE_PIECES = (
    "<|im_start|>user\n",
    "<|im_start|>system\n",
    "<|im_start|>assistant\n<think>\n",
    "<|im_end|>\n",
    "\n</think>\n\n",
)
"""Fragments of the chat template that always stand together."""

MAX_CANDIDATES = 8
"""Largest C that gets ids of its own; larger ones are spelled in bytes."""


def _aggregation_pieces() -> list[str]:
    """Return the constant text around the tails of THE aggregation prompt."""
    gap = "\0"
    pieces: dict[str, None] = {}
    for count in range(1, MAX_CANDIDATES + 1):
        shown = aggregation_messages((Message("user", gap),), [gap] * count)[-1].content
        pieces.update(dict.fromkeys(piece for piece in shown.split(gap) if piece))
    return list(pieces)


def build_tokenizer() -> TextTokenizer:
    """Return the nano tokenizer; the same code gives the same ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    pieces = [*TEMPLATE_PIECES, *_aggregation_pieces(), *(f"{task} " for task in LEVELS)]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    return TextTokenizer(tokenizer)
