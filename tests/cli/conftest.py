"""No test of the command line writes into the journal of whoever runs it."""

import pytest


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    """Keep the user's state in a folder of the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
