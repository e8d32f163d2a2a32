"""How many threads a run has: as many when it is resumed as when it began.

Their number decides how microbatches are cut and in which order sums are taken: the last bits.
"""

from collections.abc import Callable
from pathlib import Path

THREADS_FILE = "threads"


def threads_of_run(folder: Path, wanted: int, choose: Callable[[], int]) -> int:
    """Return the number for the run in `folder`, and record it there for when it is resumed.

    `wanted` threads where that is not 0, else those that the run began with, else what `choose`
    makes of the machine's load now.
    """
    path = folder / THREADS_FILE
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    threads = wanted or (int(text) if text.isdigit() else 0) or choose()
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{threads}\n", encoding="utf-8")
    return threads
