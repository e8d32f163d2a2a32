"""How many threads a run has: as many when it is resumed as when it began.

Their number decides how microbatches are cut and in which order sums are taken: the last bits.
"""

from pathlib import Path

import torch

from openzaya.core.files import write_whole

THREADS_FILE = "threads"


def threads_of(folder: Path) -> int:
    """Return the threads that a run in this folder began with, 0 when there is none."""
    path = folder / THREADS_FILE
    text = path.read_bytes().strip() if path.is_file() else b""
    return int(text) if text.isdigit() else 0


def record_threads(folder: Path) -> None:
    """Write down torch's threads in the folder of a run that begins, for when it is resumed."""
    write_whole(folder / THREADS_FILE, f"{torch.get_num_threads()}\n")
