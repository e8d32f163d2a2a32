"""Language: the whole reply in one of ten languages other than English."""

from dataclasses import dataclass
from typing import Self

from openzaya.envs.instruct.constraint import Constraint, Draw, Example, Pen
from openzaya.envs.instruct.edit import joined
from openzaya.envs.instruct.languages import is_language, languages
from openzaya.envs.instruct.reading import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyLanguage(Constraint):
    """The reply is in another language."""

    language: str
    rarity = 2
    wordings = (
        "Write the whole reply in {language}.",
        "Reply in {language} only.",
        "Your reply must be in {language}, not in English.",
    )
    needs = frozenset[str]()
    bans = frozenset({"english"})
    claims = frozenset({"language"})
    turn = 1
    examples = (
        Example({"language": "German"}, "Das ist nicht der Weg.", "This is not the way."),
        Example({"language": "Spanish"}, "Esto no es lo que yo quiero.", "Questo non lo voglio."),
        Example({"language": "Russian"}, "\u042d\u0442\u043e \u0434\u043e\u043c.", "Eto dom."),
    )

    @classmethod
    def sample(cls, draw: Draw) -> Self:
        """One of the languages that can be told."""
        return cls(language=draw.rng.choice([name for name in languages() if name != "English"]))

    def check(self, reply: Reading) -> bool:
        """Mainly in that language."""
        return is_language(reply.text, self.language)

    def satisfy(self, pen: Pen) -> str:
        """Start over: the pen writes in that language."""
        return joined([" ".join(pen.sentence() for _ in range(4)) for _ in range(2)])

    def violate(self, text: str) -> str:
        """Reply in English."""
        return f"This is what it would be in the language of the task and of the user. {text[:9]}"
