"""Where the command line keeps its journal of runs."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from openzaya.core.errors import ConfigError

if TYPE_CHECKING:
    from openzaya.ttc.journal import Journal

OFF = "none"


def default_journal() -> str:
    """Return the path of the user's own journal. Raises ConfigError for a user without a home."""
    state = os.environ.get("XDG_STATE_HOME")
    try:
        folder = Path(state) if state else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise ConfigError(
            "this user has no home folder to keep a journal in; set HOME or XDG_STATE_HOME, or "
            "name a journal (`--journal` of runs, `--set journal=` of solve and serve)"
        ) from error
    return str(folder / "openzaya" / "runs.sqlite")


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
        journal = Journal.open(where or default_journal(), writes=True)
    except (ConfigError, JournalError) as error:
        if where is not None:
            raise
        print(f"openzaya: this run is not recorded: {error}", file=sys.stderr)
        yield None
        return
    async with journal:
        yield journal
