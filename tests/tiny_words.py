"""A tokenizer of a few letters with the template's markers, for tests that need text."""

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from openzaya.text.tokenizer import TextTokenizer

SPECIAL = ["<pad>", "<unk>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"]
LETTERS = ["a", "b", "c", " ", "\n", "user", "assistant"]


def tiny_tokenizer() -> TextTokenizer:
    """Return a tokenizer of 13 ids."""
    words = {word: i for i, word in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in ("user", "assistant")])
    return TextTokenizer(tokenizer)
