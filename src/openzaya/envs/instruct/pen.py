"""The writer of witnesses: topical sentences, and edits that break as little as possible.

A witness is no model answer. It proves that a prompt can be kept: it passes the gate and every
checker of the prompt, and the problem stores it as its reference.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random

from openzaya.envs.instruct.edit import joined, paragraphs, prose_indices
from openzaya.envs.instruct.languages import languages
from openzaya.envs.instruct.reading import split_sentences
from openzaya.envs.instruct.topics import Topic

MAX_PLACES = 12
"""Most places tried for one edit."""
TRIES = 80
"""Most sentences looked at before one is taken that other constraints may dislike."""

SENTENCES = (
    "Much depends on how the {w} is treated at the start.",
    "Beginners often forget that the {w} needs time.",
    "Nothing here is as simple as the {w} may look.",
    "Every small change to the {w} can be felt later.",
    "People who know the {w} well rarely hurry.",
    "There is always more to learn about the {w}.",
    "Good results come when the {w} gets real attention.",
    "My own view of the {w} has changed over the years.",
    "Some say that the {w} is the heart of it all.",
    "Before anything else it helps to look at the {w}.",
    "After a while the {w} feels like an old friend.",
    "Without the {w} very little of this would work.",
    "Even an expert can be surprised by the {w}.",
    "It pays to keep a close eye on the {w}.",
    "Most of the trouble begins with the {w}.",
    "Few things matter as much as the {w} in the end.",
    "Try to think about the {w} from the other side.",
    "Once the {w} is right the rest will follow.",
    "Children tend to notice the {w} long before we do.",
    "When the {w} changes we have to change with it.",
    "You can ask others what they make of the {w}.",
    "Patience with the {w} is never wasted.",
    "Over time the {w} shows what it can do.",
    "Here the {w} plays a bigger part than many expect.",
    "We should not be afraid of the {w} at all.",
    "Perhaps the {w} deserves a little more praise.",
    "Look at the {w} once more before you go on.",
    "Then the {w} can do its quiet work.",
    "Both the old and the young have a use for the {w}.",
    "Such a thing as the {w} is easy to overlook.",
    "Long ago the {w} was far less common than now.",
    "Still the {w} remains the part that I like best.",
    "No two people will see the {w} in the same way.",
    "Half of the pleasure lies in the {w} itself.",
    "Take the {w} slowly and the rest gets easier.",
    "They told me that the {w} makes all the difference.",
    "Soon the {w} will seem quite natural.",
    "What the {w} needs most is a calm and steady hand.",
    "Others put the {w} first and think of the rest later.",
    "At first the {w} may seem rather strange.",
)
MENTIONS = (
    "Think of {w} for a moment as well.",
    "One more idea to add is {w}.",
    "Somebody once called it {w}.",
    "Many would rather speak of {w}.",
    "The right word might be {w}.",
    "In that sense {w} has its place.",
    "From there it is not far to {w}.",
    "Now and then we come back to {w}.",
    "I would not leave out {w} either.",
    "Maybe {w} is a fair name for it.",
    "All of this brings {w} to mind.",
    "Besides that we have {w} to think about.",
)


class Writer:
    """Meets `constraint.Pen`."""

    def __init__(
        self,
        topic: Topic,
        rng: Random,
        sentences: Sequence[str],
        broken: Callable[[str], int],
        allows: Callable[[str], bool],
    ) -> None:
        """`broken` counts what a text breaks; `allows` says which sentences are welcome."""
        self._topic = topic
        self._broken = broken
        self._allows = allows
        self._sentences = _stream(rng, list(sentences))
        self._mentions = _stream(rng, list(MENTIONS))
        self.text = joined([" ".join(self.sentence() for _ in range(3)) for _ in range(2)])
        """The text so far; at first two paragraphs of three sentences."""

    @property
    def topic(self) -> Topic:
        """What the reply is about."""
        return self._topic

    def sentence(self) -> str:
        """Return a fresh sentence on the topic that keeps what other constraints allow."""
        for _ in range(TRIES):
            sentence = next(self._sentences)
            if self._allows(sentence):
                return sentence
        return next(self._sentences)

    def mention(self, word: str) -> str:
        """Return a fresh sentence that contains a word or phrase."""
        for _ in MENTIONS:
            sentence = next(self._mentions).format(w=word)
            if self._allows(sentence):
                return sentence
        return next(self._mentions).format(w=word)

    def best(self, texts: list[str]) -> str:
        """Return the first of the texts that break the fewest constraints."""
        return min(texts, key=self._broken)

    def add(self, text: str, sentence: str) -> str:
        """Return the text with a sentence added where it breaks the fewest constraints."""
        parts = paragraphs(text)
        texts = []
        for index in prose_indices(parts)[:MAX_PLACES]:
            said = split_sentences(parts[index])
            for place in sorted({1, len(said), len(said) - 1, 0}, key=lambda at: (at == 0, at)):
                told = [*said[:place], sentence, *said[place:]]
                texts.append(joined([*parts[:index], " ".join(told), *parts[index + 1 :]]))
        return self.best(texts) if texts else self.block(text, sentence)

    def drop(self, text: str) -> str:
        """Return the text without the sentence that is missed least."""
        parts = paragraphs(text)
        texts = []
        for index in reversed(prose_indices(parts)):
            said = split_sentences(parts[index])
            for gone in range(len(said) - 1, -1, -1):
                rest = " ".join(said[:gone] + said[gone + 1 :])
                texts.append(joined([*parts[:index], rest, *parts[index + 1 :]]))
        return self.best(texts[: 3 * MAX_PLACES]) if texts else text

    def block(self, text: str, block: str) -> str:
        """Return the text with a paragraph of its own added where it breaks least."""
        parts = paragraphs(text)
        places = [*range(1, len(parts)), len(parts), 0][:MAX_PLACES]
        return self.best([joined([*parts[:at], block, *parts[at:]]) for at in places])


def bank(topic: Topic, language: str) -> list[str]:
    """Return the sentences that a witness in a language is made of."""
    if language != "English":
        return list(languages()[language].sentences)
    return [
        form.format(w=topic.nouns[(5 * at + turn) % len(topic.nouns)])
        for turn in range(4)
        for at, form in enumerate(SENTENCES)
    ]


def _stream(rng: Random, bank: list[str]) -> Iterator[str]:
    """Yield the sentences in random order, for ever; a template returns as late as possible."""
    period = min(len(bank), len(SENTENCES))
    rounds = [bank[start : start + period] for start in range(0, len(bank), period)]
    for part in rounds:
        rng.shuffle(part)
    while True:
        for part in rounds:
            yield from part
