"""A run whose process is killed at random moments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_twenty_kills_repeat_no_finished_candidate_and_change_no_answer():
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "journal.py"), "chaos", "--kills", "20"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["kills"] == 20
    assert figures["finished_candidates_before_a_kill"] > 0
    assert figures["finished_candidates_asked_for_again"] == 0
    assert figures["results_that_differ"] == 0
    assert figures["calls_lost_per_kill"] <= 8
