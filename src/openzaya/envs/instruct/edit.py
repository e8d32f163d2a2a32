"""Small edits of a text that writers share; all work on the parts that `reading` sees."""

import re
from collections.abc import Callable, Sequence

from openzaya.envs.instruct.constraint import Pen
from openzaya.envs.instruct.reading import Reading, ends_sentence, is_block, split_sentences

FILLER = "thing"
"""What a writer puts in the place of a word that must go."""
MAX_EDITS = 60
"""Most sentences that one turn of a writer adds or drops."""
_LABEL = re.compile(r"(?:[\w;.]+ )?[\w;.]+:|P\.P?\.?S\.|--")


def paragraphs(text: str) -> list[str]:
    """Return what stands between blank lines."""
    return [part for part in re.split(r"\n{2,}", text.strip("\n")) if part]


def joined(parts: list[str]) -> str:
    """Return paragraphs as one text."""
    return "\n\n".join(part for part in parts if part.strip())


def is_prose(paragraph: str) -> bool:
    """Say whether sentences may be added to a paragraph: one line, no block, no label."""
    return not (
        "\n" in paragraph
        or not paragraph
        or is_block(paragraph)
        or _LABEL.match(paragraph)
        or not ends_sentence(paragraph.split()[-1])
    )


def prose_indices(parts: list[str]) -> list[int]:
    """Return which paragraphs are prose."""
    return [index for index, part in enumerate(parts) if is_prose(part)]


def map_prose(text: str, change: Callable[[list[str]], list[str]]) -> str:
    """Return the text with the sentences of every prose paragraph changed."""
    parts = paragraphs(text)
    for index in prose_indices(parts):
        parts[index] = " ".join(change(split_sentences(parts[index])))
    return joined(parts)


def swap_word(text: str, word: str, new: str) -> str:
    """Return the text with every occurrence of a word, in any case, replaced."""
    pattern = rf"(?<![^\W_])(?<![^\W_]['-]){re.escape(word)}(?![^\W_]|['-][^\W_])"
    return re.sub(pattern, lambda _: new, text, flags=re.IGNORECASE)


def capitalised(sentence: str) -> str:
    """Return a sentence with a capital first letter, the rest as it is."""
    return sentence[:1].upper() + sentence[1:]


def swap_mark(sentence: str, mark: str) -> str:
    """Return a sentence that ends in `mark` instead of its own end."""
    return sentence.rstrip(".!?\u2026\u0964") + mark


def without_words(text: str, unwanted: str) -> str:
    """Return the text with every word that matches the pattern `unwanted` left out."""
    return map_prose(
        text,
        lambda said: [
            " ".join(token for token in sentence.split() if not re.search(unwanted, token.lower()))
            for sentence in said
        ],
    )


def mention_missing(pen: Pen, offers: Sequence[str], count: int) -> str:
    """Mention words of the pool until `count` of them are there."""
    text = pen.text
    missing = [word for word in offers if word not in Reading(text).counts]
    for word in missing[: max(0, count)]:
        text = pen.add(text, pen.mention(word))
    return text


def regroup(text: str, count: int, pen: Pen) -> str:
    """Return the text with `count` paragraphs: prose is split, added or put together."""
    parts = paragraphs(text)
    while len(parts) < count:
        longest = max(prose_indices(parts), key=lambda i: len(parts[i]), default=None)
        said = [] if longest is None else split_sentences(parts[longest])
        if longest is None or len(said) < 2:
            parts = paragraphs(pen.block(joined(parts), pen.sentence()))
            continue
        half = len(said) // 2
        parts[longest : longest + 1] = [" ".join(said[:half]), " ".join(said[half:])]
    while len(parts) > count:
        prose = prose_indices(parts)
        pairs = [i for i in prose if i + 1 in prose]
        if not pairs:
            break
        merged = [joined([*parts[:i], f"{parts[i]} {parts[i + 1]}", *parts[i + 2 :]])
                  for i in pairs]  # fmt: skip
        parts = paragraphs(pen.best(merged))
    return joined(parts)


def grown(pen: Pen, enough: Callable[[Reading], bool]) -> str:
    """Return the pen's text with sentences added until it is enough."""
    text = pen.text
    for _ in range(MAX_EDITS):
        if enough(Reading(text)):
            break
        text = pen.add(text, pen.sentence())
    return text


def shrunk(pen: Pen, little: Callable[[Reading], bool]) -> str:
    """Return the pen's text with sentences dropped until it is little enough."""
    text = pen.text
    for _ in range(MAX_EDITS):
        if little(Reading(text)):
            break
        text = pen.drop(text)
    return text
