"""Metrics that are declared before they are logged, and spans that time the code by name.

declare("rl/masked_fraction", "share", "masked tokens / tokens", healthy=(0.0, 0.2))
writer = MetricWriter(run_dir / "metrics.jsonl")
writer.write(12, "rl", {"rl/masked_fraction": 0.01})

with collect_spans() as totals:
    with span("rollout/decode"):
        ...
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

from openzaya.core.errors import DataError

RESERVED = ("step", "stage")


@dataclass(frozen=True, slots=True)
class Metric:
    """What a logged number means."""

    name: str
    unit: str
    formula: str
    healthy: tuple[float, float] | None = None
    """Closed range that needs no attention; None when any value is fine."""
    paper: str = ""
    """Section, figure or table of the paper."""


_registry: dict[str, Metric] = {}


def declare(
    name: str,
    unit: str,
    formula: str,
    healthy: tuple[float, float] | None = None,
    paper: str = "",
) -> Metric:
    """Register a metric and return it; the same declaration twice is fine, another one is not.

    Raises ValueError when the name is taken by a different metric or reserved.
    """
    metric = Metric(name, unit, formula, healthy, paper)
    known = _registry.setdefault(name, metric)
    if known != metric or name in RESERVED:
        raise ValueError(f"metric {name!r} is already taken by {known}")
    return metric


def declared() -> Mapping[str, Metric]:
    """Return all metrics declared so far, by name."""
    return dict(_registry)


class MetricWriter:
    """Appends one JSON line for every step to a file and flushes it, so a killed run keeps them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, stage: str, values: Mapping[str, float]) -> None:
        """Append `values`; raises ValueError for a name that nobody declared.

        A value that is not finite is written as null: JSON has no NaN.
        """
        unknown = [name for name in values if name not in _registry]
        if unknown:
            raise ValueError(
                f"undeclared metrics {', '.join(unknown)}; "
                "declare(name, unit, formula) them beside the code that computes them"
            )
        record: dict[str, Any] = {"step": step, "stage": stage}
        for name, value in values.items():
            record[name] = value if math.isfinite(value) else None
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def truncate_after(self, step: int, stage: str | None = None) -> int:
        """Drop the lines of later steps, and a torn last line, before a resumed run appends.

        With `stage`, only lines of that stage are dropped. Returns how many lines went away.
        The file is replaced in one move, so a crash leaves the old one or the new one.
        """
        if not self.path.exists():
            return 0
        kept: list[bytes] = []
        lines = self.path.read_bytes().splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                stays = record["step"] <= step or (stage is not None and record["stage"] != stage)
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):
                    continue
                raise DataError(
                    f"{self.path} line {number} is not JSON of a step ({error!r}); move the file "
                    "away to go on"
                ) from error
            if stays:
                kept.append(line)
        replacement = self.path.with_suffix(".jsonl.tmp")
        replacement.write_bytes(b"".join(line + b"\n" for line in kept))
        replacement.replace(self.path)
        return len(lines) - len(kept)


class RecordWriter:
    """Appends one JSON line for each record to a file and flushes it; for what is no number.

    Sets are written as sorted lists, and what JSON does not know as its text.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, record: Mapping[str, object]) -> None:
        """Append one record."""
        line = json.dumps(record, default=_plain)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file in their order; a torn last line is left out."""
    lines = Path(path).read_bytes().splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise DataError(f"{path} line {number} is not JSON: {error}") from error
    return records


class SpanTotals:
    """Wall time and number of calls by span name; safe to use from several threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._lock = Lock()

    def add(self, name: str, seconds: float) -> None:
        """Count one call of a span."""
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self.calls[name] = self.calls.get(name, 0) + 1


_collectors: list[SpanTotals] = []


@contextmanager
def collect_spans() -> Iterator[SpanTotals]:
    """Sum the spans of all threads while the block runs; collectors may be nested."""
    totals = SpanTotals()
    _collectors.append(totals)
    try:
        yield totals
    finally:
        _collectors.remove(totals)


@contextmanager
def span(name: str) -> Iterator[None]:
    """Time a block under `name` for the collectors that exist when it ends; else do nothing."""
    if not _collectors:
        yield
        return
    start = perf_counter()
    try:
        yield
    finally:
        seconds = perf_counter() - start
        for totals in list(_collectors):
            totals.add(name, seconds)
