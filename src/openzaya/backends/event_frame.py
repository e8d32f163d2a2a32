"""Reading events of a form that was met before, without json.

Nearly all events of all streams of a server differ in three places: their beginning, which names
the stream, their text, and their token ids. What json would read in 16 us, this reads in two. The
result is the same, and an event of any other form is left to json.
"""

import re
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]

from openzaya.backends.token_ids import count_ids

MAX_FRAMES = 8
"""Forms that are tried: a server has one for reasoning, one for content, and those with a role."""
MAX_MADE = 64
"""Forms made in a row that no event fitted: after them none is made any more."""

Found = tuple[str, str, str, int]
"""Field, text, the inside of the list of ids, and their number."""

# A key cannot stand inside of a text: there its quotes are escaped.
_CHOICES = re.compile(r'"choices"\s*:\s*\[')
_IDS = re.compile(r'"(?:response_)?token_ids"\s*:\s*\[([^\[\]]*)\]')


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the text and the ids of an event, from its list of choices on."""

    field: str
    """The field of the delta that holds the text."""
    before: str
    """Up to the text's opening quote."""
    between: str
    """From the text's closing quote to the bracket that opens the ids; without ids all the rest."""
    after: str
    """From the bracket that closes the ids; empty without ids."""

    def read(self, data: str, at: int) -> Found | None:
        """Return what an event says, None for one of another form.

        At `at` the list of choices begins, with `before`.
        """
        try:
            text, end = scanstring(data, at + len(self.before))
        except ValueError:
            return None
        if not self.after:
            is_same = len(data) - end == len(self.between) and data.endswith(self.between)
            return (self.field, text, "", 0) if is_same and text else None
        begin, stop = end + len(self.between), len(data) - len(self.after)
        if not (begin < stop and data.startswith(self.between, end) and data.endswith(self.after)):
            return None
        ids = data[begin:stop]
        num_ids = count_ids(ids)
        return (self.field, text, ids, num_ids) if text and num_ids else None


def head_of(data: str) -> str:
    """Return an event up to its list of choices; empty where that is not clear."""
    found = _CHOICES.search(data) if data.count('"choices"') == 1 else None
    return data[: found.end()] if found else ""


def frame_of(data: str, at: int, field: str, text: str, has_ids: bool) -> Frame | None:
    """Take apart an event whose `field` json read as `text`; None where that is not clear."""
    keys = [m.end() for m in re.finditer(rf'"{field}"\s*:\s*(?=")', data)]
    if len(keys) != 1 or keys[0] < at:
        return None
    told, end = scanstring(data, keys[0] + 1)
    if told != text:
        return None
    before, rest = data[at : keys[0] + 1], data[end:]
    if not has_ids:
        return Frame(field, before, rest, "")
    found = list(_IDS.finditer(rest))
    if len(found) != 1:
        return None
    return Frame(field, before, rest[: found[0].start(1)], rest[found[0].end(1) :])


class Frames:
    """The forms of a server's events, the one met last first."""

    def __init__(self) -> None:
        """Start without any."""
        self._frames: list[Frame] = []
        self._num_made = 0

    def read(self, data: str, at: int) -> Found | None:
        """Return what an event says, None for one of a form that is not known."""
        for number, frame in enumerate(self._frames):
            if not data.startswith(frame.before, at):
                continue
            found = frame.read(data, at)
            if found is not None:
                if number:
                    self._frames.insert(0, self._frames.pop(number))
                self._num_made = 0
                return found
        return None

    def learn(self, data: str, at: int, field: str, text: str, has_ids: bool) -> None:
        """Expect further events of the form that json just read."""
        if self.read(data, at) is not None or self._num_made >= MAX_MADE:
            return
        self._num_made += 1
        frame = frame_of(data, at, field, text, has_ids)
        if frame is not None:
            self._frames.insert(0, frame)
            del self._frames[MAX_FRAMES:]
