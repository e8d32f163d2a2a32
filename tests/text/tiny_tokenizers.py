"""Byte-level tokenizers without merges: one with bare markers, one with whole fragments as ids."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from openzaya.text.tokenizer import TextTokenizer

MARKERS = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<zyphra_tool_call>")
FRAGMENTS = (
    "<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "\n</think>\n\n",
    "<|im_end|>\n",
    "\n\nCandidate reasoning 1:\n",
)


def backend(fragments=(), markers=MARKERS):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*markers, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in markers])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in fragments])
    return tokenizer


BARE = TextTokenizer(backend())
FRAGMENTED = TextTokenizer(backend(FRAGMENTS))
