"""The gate before any reward: a reply must have content of its own.

A format can be met without an answer. The gate asks for enough words that were not copied from the
prompt, in the right language, not a few words over and over, on the topic, and nothing hidden from
a human reader or aimed at a judge. It says nothing of quality: that is the reward model's part.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from openzaya.envs.instruct.languages import is_language, languages
from openzaya.envs.instruct.reading import Reading, words
from openzaya.envs.instruct.topics import Topic

MIN_WORDS = 30
"""Least number of own words; every prompt says so."""
COPIED_RUN = 6
"""This many words in a row that stand so in the prompt are copied, not own."""
MIN_FUNCTION_SHARE = 0.2
MIN_FUNCTION_WORDS = 6
LONG_SENTENCE_WORDS = 5
MIN_SENTENCE_SHARE = 1 / 7
"""Share of function words that half of the sentences of five words or more must have."""
MIN_NOVEL_WORDS = 12
"""Least number of different words that the prompt does not contain."""
WINDOW_WORDS = 100
MIN_DISTINCT_SHARE = 0.35
"""Share of different words in each window."""
MAX_SINGLE_LETTERS = 3
"""Consonants that stand alone, and one more for every 25 words: plan B, a blues in C, F and G."""
MIN_LETTER_SHARE = 0.5
MAX_WORD_CHARS = 40

_INVISIBLE_LETTERS = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u180b\u180c\u180d\u180e\ufffc"
)
_HIDDEN = re.compile(
    r"<!--|<\w{1,20}[ \t][^<>\n]{0,200}\b(?:hidden|style|class)\b"
    r"|^[ \t]*\[[^\]\n]{1,80}\]:[ \t]*(?:#|<|https?:|/)",
    re.IGNORECASE | re.MULTILINE,
)
_TO_THE_JUDGE = re.compile(
    r"<\|[a-z_]{1,30}\|>|</?think>|^[ \t]*(?:assistant|human|user|system)[ \t]*:"
    r"|\"(?:score|rating|verdict|reward|judge?ment|passed|grade)\"[ \t]*:"
    r"|\[\[?(?:rating|score|verdict)[ \t]*:"
    r"|\b(?:ignore|disregard|forget)[ ](?:all|any|the|your|every)?[ ]?(?:previous|prior|above)\b"
    r"|\b(?:give|award|grant|assign)[ ](?:me|it|this|the)\b[^.\n]{0,40}"
    r"\b(?:10|ten|100|full|maximum|highest|top|perfect)(?:[ -](?:10\b|ten\b|out[ ]of\b|score|rating"
    r"|reward|grade|mark|point|star|credit)|/|[ ]*$|[ ]*[.!,;])"
    r"|\ball[ ](?:the[ ])?(?:constraints|instructions|requirements)[ ](?:are|were|have[ ]been)"
    r"[ ](?:met|kept|followed|satisfied|fulfilled|respected|obeyed)\b",
    re.IGNORECASE | re.MULTILINE,
)
_LETTER_RUN = re.compile(r"([^\W\d_])\1{4}")
_CONSONANTS = frozenset("bcdfghjklmnpqrstuvwxz")
_VOWEL = re.compile(r"[aeiouy\d]|[^a-z'-]")


@dataclass(frozen=True, slots=True)
class Gate:
    """What the prompt asked, as far as the gate needs to know."""

    prompt: str
    topic: Topic
    language: str = "English"

    def refuse(self, reply: Reading) -> str | None:
        """Return why the reply gets nothing, or None when it has content of its own."""
        text = reply.text
        hidden = invisible(text)
        if hidden:
            return hidden
        if _HIDDEN.search(text):
            return "a part of the reply is hidden from a human reader"
        if _TO_THE_JUDGE.search(text):
            return "the reply speaks to a judge instead of the user"
        if _LETTER_RUN.search(text.lower()):
            return "a letter is repeated five times or more in a row"
        if _letters(text) < MIN_LETTER_SHARE * len("".join(text.split())):
            return "most of the reply is not letters"
        own = self.own_words(reply)
        return _too_thin(own, text) or self._off_topic(own, reply)

    def own_words(self, reply: Reading) -> list[str]:
        """Return the words outside of runs copied from the prompt."""
        if languages()[self.language].ranges:
            return [token for token in reply.text.split() if any(map(str.isalpha, token))]
        given, said = words(self.prompt), reply.words
        runs = {tuple(given[i : i + COPIED_RUN]) for i in range(len(given) - COPIED_RUN + 1)}
        copied_until, own = 0, []
        for index, word in enumerate(said):
            if tuple(said[index : index + COPIED_RUN]) in runs:
                copied_until = index + COPIED_RUN
            if index >= copied_until:
                own.append(word)
        return own

    def _off_topic(self, own: list[str], reply: Reading) -> str | None:
        """Say whether the language, the words or the topic are not those asked for."""
        if not is_language(reply.text, self.language):
            return f"the reply is not in {self.language}"
        if self.language != "English":
            return None
        function_words = languages()["English"].function_words
        used = [word for word in own if word in function_words]
        if len(used) < MIN_FUNCTION_SHARE * len(own) or len(set(used)) < MIN_FUNCTION_WORDS:
            return "the reply is a list of words rather than English sentences"
        if _mostly_bare(reply.sentences, function_words):
            return "most sentences are strings of words without any grammar"
        given = set(words(self.prompt))
        if len(set(own) - given) < MIN_NOVEL_WORDS:
            return "the reply adds hardly a word to the prompt"
        said, asked = set(map(stem, own)), set(map(stem, given))
        hits = said & set(map(stem, self.topic.nouns))
        if len(hits) < 2 or hits <= asked:
            return f"the reply is not about {self.topic.name}"
        return None


def _letters(text: str) -> int:
    """Return the number of letters, the marks of Indic vowels included."""
    if text.isascii():
        return sum(map(str.isalpha, text))
    return sum(unicodedata.category(character)[0] in "LM" for character in text)


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Return a word without its commonest endings, so that bake, baked and baking agree."""
    for ending in ("ing", "ers", "er", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            return word.removesuffix(ending)
    return word


def invisible(text: str) -> str | None:
    """Return a complaint about characters that a human reader cannot see, or None."""
    marks = 0
    for character in set(text) if text.isascii() else text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        unseen = category in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") and character not in "\n\t"
        tagged = "\U000e0100" <= character <= "\U000e01ef"
        if unseen or tagged or character in _INVISIBLE_LETTERS:
            return f"the reply contains the invisible character U+{ord(character):04X}"
        if marks > 2:
            return "the reply stacks combining characters"
    return None


def _mostly_bare(sentences: list[str], function_words: frozenset[str]) -> bool:
    """Say whether most sentences of some length have hardly a function word."""
    long = [said for said in map(words, sentences) if len(said) >= LONG_SENTENCE_WORDS]
    shares = [sum(word in function_words for word in said) / len(said) for said in long]
    return 2 * sum(share < MIN_SENTENCE_SHARE for share in shares) > len(shares)


def _too_thin(own: list[str], text: str) -> str | None:
    """Say whether there are too few words, or the same ones over and over."""
    if len(own) < MIN_WORDS:
        return f"the reply has {len(own)} words of its own, not {MIN_WORDS}"
    for start in range(0, max(1, len(own) - WINDOW_WORDS // 2), WINDOW_WORDS):
        window = own[start : start + WINDOW_WORDS]
        if len(set(window)) < MIN_DISTINCT_SHARE * len(window):
            return "the reply repeats the same few words"
    common, times = Counter(own).most_common(1)[0]
    if times > max(6, len(own) // 5):
        return f"every fifth word is {common[:20]!r}"
    most_letters = MAX_SINGLE_LETTERS + len(own) // 25
    if sum(len(word) == 1 and word in _CONSONANTS for word in own) > most_letters:
        return "the reply strings single letters together"
    if max(map(len, text.split())) > 2 * MAX_WORD_CHARS or max(map(len, own)) > MAX_WORD_CHARS:
        return "the reply contains a run of characters that is no word"
    odd = sum(len(word) > 3 and not _VOWEL.search(word) for word in own)
    if odd > 2 + len(own) // 50:
        return "the reply contains words without vowels"
    return None
