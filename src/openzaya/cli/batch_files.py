"""The two files of a batch: its problems, and the answers that a restart finds."""

import fcntl
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from openzaya.core.config import to_mapping
from openzaya.core.errors import RequestError
from openzaya.core.files import write_whole

if TYPE_CHECKING:
    from openzaya.ttc.config import MarkovianRSAConfig

_QUESTIONS = ("question", "problem", "prompt")
_ID_CHARS = 12
"""Of a digest that names a problem: 48 bits."""
_SHOWN = 4
"""Changed settings that a refusal lists."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of the input."""

    id: str
    """As the line says; else a digest of the question, so that no other line changes it."""
    question: str
    answer: str | None
    error: str = ""
    """Why the line is no problem; empty for a sound one."""


def read_problems(name: str) -> list[Problem]:
    """Return the problems of a file; a line that holds none is kept with the reason.

    Raises RequestError for a file that cannot be read or is empty, and for an id given twice.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{name} cannot be read: {error}; give a file of JSON lines") from error
    problems: list[Problem] = []
    asked: Counter[str] = Counter()
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold other line breaks
        if not line.strip():
            continue
        problem = _problem(number, line, asked)
        if problem.id in seen:
            raise RequestError(
                f"line {number} of {name} has the id {problem.id!r}, as has line "
                f"{seen[problem.id]}; give each problem an id of its own, or none"
            )
        seen[problem.id] = number
        problems.append(problem)
    if not problems:
        raise RequestError(f"{name} holds no problems; give one JSON object a line")
    return problems


def _problem(number: int, line: str, asked: Counter[str]) -> Problem:
    """Read one line; `asked` counts the digests of questions without an id."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Problem(f"line {number}", "", None, f"line {number} is no JSON: {error}")
    if not isinstance(data, dict):
        return Problem(f"line {number}", "", None, f"line {number} is no JSON object")
    name = data.get("id")
    question = next((data[q] for q in _QUESTIONS if isinstance(data.get(q), str)), "")
    if not question.strip():
        name = f"line {number}" if name is None else str(name)
        return Problem(name, "", None, f"line {number} has no text in {', '.join(_QUESTIONS)}")
    if name is None:
        name = sha256(question.encode(errors="surrogatepass")).hexdigest()[:_ID_CHARS]
        asked[name] += 1
        name += f"-{asked[name]}" if asked[name] > 1 else ""
    answer = data.get("answer")
    return Problem(str(name), question, None if answer is None else str(answer))


def is_right(answer: str | None, expected: str) -> bool:
    """Say whether two answers are the same after the normalization that the vote uses."""
    from openzaya.ttc.answers import canonical, classes

    return answer is not None and len(set(classes((answer, expected), canonical))) == 1


class AnswersFile:
    """The answers of a batch, one JSON object a line; one process at a time has it.

    An answer says what was asked and what it was made with, so that a restart keeps it for that
    question and these settings alone. Failures and a torn last line are left out when it begins.
    Nothing is changed before all is found to fit. Every method raises RequestError for a file that
    cannot be written.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file; raises RequestError for one that is no file of answers."""
        self.path = path
        self.kept: list[dict[str, Any]] = []
        """The answers to problems of the input, since `begin`."""
        self.others: list[dict[str, Any]] = []
        """The answers to anything else."""
        if str(path) == "-" or (path.exists() and not path.is_file()):
            raise RequestError(
                f"{path} is no file that a restart can read; name one for the answers"
            )
        self._file = self._open()
        try:
            self._file.seek(0)
            self._text = self._file.read()
            self._found = self._answers()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the file; whoever comes next may have it."""
        with suppress(OSError):  # told by `write`; closing tries once more what did not fit
            self._file.close()

    def _open(self) -> TextIO:
        try:
            file = self.path.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise self.unwritable(error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                return file
            raise BlockingIOError  # another batch began meanwhile, and wrote the file anew
        except OSError as error:
            file.close()
            if not isinstance(error, BlockingIOError):
                raise self.unwritable(error) from error
            raise RequestError(
                f"another batch is writing to {self.path}; wait for it, or name another file"
            ) from error

    def unwritable(self, error: OSError) -> RequestError:
        """Return what to say of an error of the file."""
        return RequestError(f"{self.path} cannot be written: {error}; name another file")

    def _answers(self) -> list[dict[str, Any]]:
        *whole, torn = self._text.split("\n")
        lines = [_told(text) for text in [*whole, torn] if text.strip()]
        if torn and lines[-1] is None:
            lines.pop()
        if None in lines:
            raise RequestError(
                f"{self.path} holds lines that are no answers of a batch, and would lose them; "
                "name another file for the answers"
            )
        found = [line for line in lines if line is not None and "answer" in line]
        if not all(isinstance(line.get("made_with"), dict) for line in found):
            raise RequestError(
                f"{self.path} holds answers that do not say what was asked and what made them, "
                "as an older openzaya wrote them; name another file for the answers"
            )
        return found

    def match(self, problems: Sequence[Problem]) -> list[Problem]:
        """Return the problems that have no answer yet, and tell answers from `others`.

        A kept answer is judged by the answer that the input expects now. Raises RequestError for
        an answer to a question that its problem does not ask any more.
        """
        wanted = {problem.id: problem for problem in problems if not problem.error}
        self.kept = [line for line in self._found if line["id"] in wanted]
        self.others = [line for line in self._found if line["id"] not in wanted]
        for line in self.kept:
            problem = wanted[line["id"]]
            if line.get("question") != problem.question:
                raise RequestError(
                    f"{self.path} answers another question under the id {problem.id!r}: found "
                    f"{_clip(line.get('question'))}, expected {_clip(problem.question)}; give the "
                    "problem a new id, or name another file for the answers"
                )
            line.pop("right", None)
            if problem.answer is not None:
                line["right"] = is_right(line["answer"], problem.answer)
        done = {line["id"] for line in self.kept}
        return [problem for problem in problems if problem.id not in done]

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Leave failures out of the file. Raises RequestError for answers of other settings."""
        for line in self.kept:
            if changed := _changes(line["made_with"], settings):
                more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
                raise RequestError(
                    f"{self.path} holds answers made with other settings "
                    f"({'; '.join(changed[:_SHOWN])}{more}); go on with theirs, or name another "
                    "file for the answers"
                )
        text = "".join(json.dumps(line) + "\n" for line in self._found)
        if text == self._text:
            return
        try:
            write_whole(self.path.resolve(), text)
        except OSError as error:
            raise self.unwritable(error) from error
        with self._file:
            self._file = self._open()

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line."""
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise self.unwritable(error) from error


def _told(text: str) -> dict[str, Any] | None:
    """Return a line of answers, None for anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(line, dict) and isinstance(line.get("id"), str) and "seconds" in line
    return line if is_ours else None


def made_with(config: "MarkovianRSAConfig", model: str, seed: int) -> dict[str, Any]:
    """Return what decides an answer beside the question; settings where they are not the paper's.

    Where the model is does not matter: a server may move.
    """
    plain = _plain_settings()
    changed = {name: v for name, v in to_mapping(config).items() if v != plain[name]}
    return {"model": model, "seed": seed, **changed}


def _plain_settings() -> dict[str, Any]:
    from openzaya.ttc.config import MarkovianRSAConfig

    return to_mapping(MarkovianRSAConfig())


def _changes(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return what differs between two `made_with`, a sentence each."""
    plain = _plain_settings()

    def said(settings: Mapping[str, Any], name: str) -> str:
        return json.dumps(settings.get(name, plain.get(name)))

    return [
        f"{name}: found {said(found, name)}, expected {said(expected, name)}"
        for name in sorted(found.keys() | expected.keys())
        if said(found, name) != said(expected, name)
    ]


def _clip(question: object) -> str:
    text = str(question)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
