"""The command as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"


def openzaya(*words: str, path: str = str(SRC), **kwargs) -> subprocess.CompletedProcess:
    """Run the command with modules from `path`; `kwargs` are those of subprocess.run."""
    return subprocess.run(
        [sys.executable, "-m", "openzaya", *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )
