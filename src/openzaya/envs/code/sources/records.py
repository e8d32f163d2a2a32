"""Read the files of a data set and the fields of its records; bad records are counted, not fatal.

Files are JSON lines (.jsonl, .json, also with .gz) or parquet, for which pyarrow must be installed.
Nothing in a record is ever executed or unpickled here.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from openzaya.core.errors import DataError
from openzaya.envs.code.comparators import Comparator, Comparison
from openzaya.envs.code.problem import Problem, Test
from openzaya.envs.code.values import Json, parse_value
from openzaya.sandbox.executor import MIB, Limits

MAX_RECORD_BYTES = 2**28
"""Longer lines are skipped: a contest problem with all its tests has some megabytes."""
DECIMAL = re.compile(r"(?<!\S)[+-]?[0-9]+\.[0-9]+(?!\S)")
MAX_CPU_S = 30.0
MAX_MEMORY_BYTES = 4096 * MIB

Record = dict[str, Any]


class SkipError(Exception):
    """A record that cannot become a problem; its text is the reason that is counted."""


@dataclass(slots=True)
class Report:
    """What became of the records of a data set."""

    num_read: int = 0
    num_kept: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """How many records were skipped, by reason."""
    tests_dropped: Counter[str] = field(default_factory=Counter)
    """How many single tests, or programs, were left out of problems that were kept, by reason."""

    def __str__(self) -> str:
        lines = [f"{self.num_kept} problems from {self.num_read} records"]
        lines += [f"  skipped {count}: {reason}" for reason, count in self.skipped.most_common()]
        lines += [f"  left out {n}: {reason}" for reason, n in self.tests_dropped.most_common()]
        return "\n".join(lines)


Converter = Callable[[Record, Report], Problem]
Loader = Callable[[Iterable[Record], Report], Iterator[Problem]]


def read_files(paths: Iterable[Path], report: Report) -> Iterator[Record]:
    """Yield the records of all files. Raises DataError for a file that cannot be read at all."""
    for path in paths:
        if not path.is_file():
            raise DataError(f"there is no file {path}; download the data set first")
        reader = read_parquet if path.suffix == ".parquet" else read_lines
        for record in reader(path, report):
            report.num_read += 1
            yield record


def read_lines(path: Path, report: Report) -> Iterator[Record]:
    """Yield the objects of a JSON-lines file; a line that is none is counted and skipped."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        while line := stream.readline(MAX_RECORD_BYTES + 1):
            if len(line) > MAX_RECORD_BYTES:
                raise DataError(
                    f"{path} has a line over {MAX_RECORD_BYTES} bytes; is it JSON lines?"
                )
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                yield record
            else:
                report.num_read += 1
                report.skipped["the line is no JSON object"] += 1


def read_parquet(path: Path, report: Report) -> Iterator[Record]:  # noqa: ARG001 - as read_lines
    """Yield the rows of a parquet file, a batch in memory at a time."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{path} is a parquet file, which needs pyarrow: pip install 'openzaya[data]', or "
            "convert it to JSON lines"
        ) from None
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=16):
        yield from cast("list[Record]", batch.to_pylist())


def each(convert: Converter) -> Loader:
    """Return the loader that turns every record into one problem, or counts why not."""

    def load(records: Iterable[Record], report: Report) -> Iterator[Problem]:
        for record in records:
            problem = kept(convert, record, report)
            if problem is not None:
                yield problem

    return load


def kept(convert: Converter, record: Record, report: Report) -> Problem | None:
    """Return the record's problem, or None after counting why there is none."""
    try:
        problem = convert(record, report)
    except SkipError as skip:
        report.skipped[str(skip)] += 1
        return None
    except DataError as error:
        report.skipped[f"does not fit the schema: {type_of(error)}"] += 1
        return None
    except (AttributeError, KeyError, TypeError, ValueError):
        # the fields come from others: whatever else is in them is the record's fault
        report.skipped["a field is of another type than the set's card says"] += 1
        return None
    report.num_kept += 1
    return problem


def type_of(error: DataError) -> str:
    """Return an error's text without the record's name, so that equal reasons count together."""
    return str(error).rpartition("': ")[2][:80]


def text_of(record: Record, name: str) -> str:
    """Return a text field that must be there and not be blank."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise SkipError(f"no {name}")
    return value


def text_or(record: Record, *names: str) -> str:
    """Return the first of some text fields that is there, or an empty text."""
    found = (record.get(name) for name in names)
    return next((str(value) for value in found if value not in (None, "")), "")


def unpacked(record: Record, name: str) -> Any:
    """Return a field that may be JSON inside a text; None when it is absent or blank."""
    value = record.get(name)
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise SkipError(f"{name} is no JSON") from None


def list_of(value: object, name: str) -> list[Any]:
    """Return a list; anything else skips the record."""
    if not isinstance(value, list):
        raise SkipError(f"{name} is no list")
    return value


def text_tests(inputs: object, outputs: object) -> tuple[Test, ...]:
    """Pair texts; a list of lines counts as the text of those lines."""
    given, expected = list_of(inputs, "inputs"), list_of(outputs, "outputs")
    if len(given) != len(expected):
        raise SkipError("inputs and outputs differ in number")
    return tuple(
        Test(input=joined(left), output=joined(right))
        for left, right in zip(given, expected, strict=True)
    )


def joined(value: object) -> str:
    """Return a text, or the text of some lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(f"{line}\n" for line in value)
    raise SkipError("a test is no text")


def tests_of_pairs(pairs: object, name: str) -> tuple[Test, ...]:
    """Return the tests of a list of {"input": text, "output": text}."""
    items = list_of(pairs or [], name)
    if not all(isinstance(item, dict) for item in items):
        raise SkipError(f"{name} is no list of objects")
    return text_tests([item.get("input") for item in items], [item.get("output") for item in items])


def rule_of(tests: Iterable[Test]) -> Comparator:
    """Return how contest sites compare texts: by words, and numbers loosely if any has a point.

    Where no expected number has one, words are compared as they are: 010 is not 10.
    """
    loose = any(DECIMAL.search(str(test.output)) for test in tests)
    return Comparator(kind=Comparison.NUMBERS if loose else Comparison.TOKENS)


def arguments_of(value: object) -> list[Json]:
    """Return positional arguments: a list as it is, a text as one JSON value a line."""
    if isinstance(value, list):
        return cast("list[Json]", value)
    if isinstance(value, str):
        try:
            return [parse_value(line) for line in value.split("\n") if line.strip()]
        except DataError:
            raise SkipError("an input is no JSON value a line") from None
    raise SkipError("an input is neither a list nor text")


def result_of(value: object) -> Json:
    """Return an expected value: text is JSON where it can be, and else itself."""
    if not isinstance(value, str):
        return cast(Json, value)
    try:
        return parse_value(value)
    except DataError:
        return value


def entry_of(name: str, starter: str) -> str:
    """Return what to call: a method of the class Solution where the starter has that class."""
    return f"Solution.{name}" if "class Solution" in starter else name


def limits_of(seconds: float | None, memory_bytes: float | None) -> Limits:
    """Return a source's limits, kept to what a sandbox gives; None: our own default."""
    cpu_s = 4.0 if not seconds or seconds <= 0 else min(float(seconds), MAX_CPU_S)
    memory = 512 * MIB if not memory_bytes or memory_bytes <= 0 else int(memory_bytes)
    return Limits(cpu_s=cpu_s, memory_bytes=min(max(memory, 64 * MIB), MAX_MEMORY_BYTES))
