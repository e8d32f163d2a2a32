"""What an answer may be and cost, and how the parts of the grader refuse one.

Nothing here looks at a clock: an answer that needs more than its share is refused by counting, so
a verdict is the same on a loaded machine.
"""

from dataclasses import dataclass

MAX_ANSWER_CHARS = 8_192
"""Characters of one candidate."""
MAX_DIGITS = 4_000
"""Digits of one candidate, all its numbers together."""
MAX_DEPTH = 80
"""Steps of the parser inside each other: a pair of brackets takes three, a function one."""
MAX_HEIGHT = 150
"""Levels of the tree, so that no walk over it can exhaust Python's stack."""
MAX_NODES = 2_000
MAX_ITEMS = 256
"""Elements of a list, a set, a matrix."""
MAX_EXPONENT = 4_000
"""Largest power, in size, that is worked out exactly, and decimal exponent that is read."""
MAX_BITS = 16_384
"""Bits of a numerator or denominator: somewhat more than `MAX_DIGITS` digits."""
MAX_WORK = 200_000
"""Units of work (see `Budget`) for one candidate."""
MAX_MARKERS = 8
"""Answer markers in a final region; more are a loop or a shotgun, not an answer."""
MAX_STATEMENTS = 200
"""Places that say `answer is`, those that turn out to be prose included."""
MAX_COMPARED_DIGITS = 100
"""Digits of a number that is compared with one that is only known numerically."""


class Refused(Exception):
    """The answer is wrong for the reason that the message gives. Never leaves this package."""


class Unreadable(Refused):
    """The answer does not belong to the grammar."""


class TooLarge(Refused):
    """The answer or its value is over a limit."""


class Undefined(Refused):
    """The value does not exist: division by zero, a logarithm of a negative number, ..."""


class Unevaluated(Refused):
    """The answer restates work that was to be done."""

    def __init__(self, message: str, operation: str) -> None:
        super().__init__(message)
        self.operation = operation


@dataclass(slots=True)
class Budget:
    """Counts work; one unit is about one operation on numbers of 64 digits."""

    left: int = MAX_WORK

    def spend(self, units: int) -> None:
        """Take `units` away. Raises TooLarge when nothing is left."""
        self.left -= units
        if self.left < 0:
            raise TooLarge("the answer needs more work than any answer should")
