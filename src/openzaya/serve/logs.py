"""The log of a server: one line a record, as text or as JSON, on stderr.

Records tell what happened by name and number. What clients or models wrote is in none of them: of
an exception only its type and the lines of code it passed are told, because messages may quote it.
"""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal

from openzaya.core import request_id

LogFormat = Literal["text", "json"]
FLOOD_S = 1.0
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; everything else was given as `extra`."""


@contextmanager
def log_to_stderr(form: LogFormat, level: int = logging.INFO) -> Iterator[None]:
    """Send all records to stderr; those of other packages from WARNING on.

    Afterwards all loggers are as they were: the process may outlive its server, and stderr with it.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(NoFlood())
    levels = {"": logging.WARNING, "openzaya": level, "uvicorn": logging.CRITICAL}
    before = {name: logging.getLogger(name).level for name in levels}
    root, handlers = logging.getLogger(), logging.getLogger().handlers
    root.handlers = [handler]
    for name, wanted in levels.items():
        logging.getLogger(name).setLevel(wanted)
    try:
        yield
    finally:
        root.handlers = handlers
        for name, known in before.items():
            logging.getLogger(name).setLevel(known)
        handler.close()


class NoFlood(logging.Filter):
    """Lets asyncio say once a second that no connection can be taken.

    Without file descriptors it says so thousands of times a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last = -FLOOD_S

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written."""
        if record.name != "asyncio" or not record.getMessage().startswith("socket.accept()"):
            return True
        is_new = not 0 <= record.created - self._last < FLOOD_S
        if is_new:
            self._last = record.created
        return is_new


def facts_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what a record tells, as plain values, the message first."""
    facts: dict[str, object] = {"message": message_of(record)}
    served = request_id.current.get()
    if served:
        facts["request"] = served
    facts |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
    if record.exc_info and record.exc_info[0] is not None:
        facts["error"] = record.exc_info[0].__name__
        facts["trace"] = lines_of(record.exc_info[2])
    return facts


def message_of(record: logging.LogRecord) -> str:
    """Return the message; asyncio puts exceptions and arguments into its own: those are cut off."""
    text = record.getMessage()
    return re.split(r"[\n:(<]", text, maxsplit=1)[0].strip() if record.name == "asyncio" else text


def lines_of(trace: TracebackType | None) -> list[str]:
    """Return where an exception passed, the place that raised it last."""
    found = []
    while trace is not None:
        found.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return found


def time_of(record: logging.LogRecord) -> str:
    """Return when a record was made, in UTC."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message, and what the record has besides."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        head = {"time": time_of(record), "level": record.levelname.lower(), "logger": record.name}
        return json.dumps({**head, **facts_of(record)}, default=str)


class TextLines(logging.Formatter):
    """Time, level, message, and what the record has besides as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a trace of ours may take several."""
        facts = facts_of(record)
        words = [time_of(record), record.levelname, str(facts.pop("message"))]
        return " ".join([*words, *(f"{name}={value!r}" for name, value in facts.items())])
