"""Where the command line keeps its journal of runs."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openzaya.ttc.journal import Journal

OFF = "none"


def default_journal() -> str:
    """Return the path of the user's own journal."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return str(Path(state) / "openzaya" / "runs.sqlite")


@asynccontextmanager
async def open_journal(where: str | None) -> "AsyncIterator[Journal | None]":
    """Yield the journal at a path or URL; None where it is switched off.

    The default one is a convenience: where it cannot be had, a line says so and work goes on.
    """
    from openzaya.ttc.journal import Journal, JournalError

    if where == OFF:
        yield None
        return
    try:
        journal = Journal.open(where or default_journal())
    except JournalError as error:
        if where is not None:
            raise
        print(f"openzaya: this run is not recorded: {error}", file=sys.stderr)
        yield None
        return
    async with journal:
        yield journal
