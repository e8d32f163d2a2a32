"""One Ctrl-C ends a command whenever it comes, also while others' modules are imported."""

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from cli.command import SRC, openzaya

from openzaya.cli import main as cli
from openzaya.cli.interrupts import ctrl_c, end_imports

STOPPED = "openzaya: stopped by Ctrl-C\n"
SWALLOWS = """
import os, signal, sys, time
print("imported", file=sys.stderr)
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except BaseException:
    pass
raise RuntimeError("it went on")
"""
"""A module that does with Ctrl-C what torch does while it imports numpy."""


def run(folder: Path, *words: str, ignoring: bool = False) -> subprocess.CompletedProcess:
    """Run the command with the modules of a folder before all others."""
    answer = signal.SIG_IGN if ignoring else signal.SIG_DFL
    return openzaya(
        *words,
        path=f"{folder}:{SRC}",
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, answer),
    )


@pytest.mark.parametrize(
    ("module", "verb"), [("torch", "doctor"), ("torch", "speedrun"), ("difflib", "plan")]
)
def test_while_a_module_is_imported_that_would_swallow_it(tmp_path, module, verb):
    """One that a verb imports, and one that the command itself begins with."""
    (tmp_path / f"{module}.py").write_text(SWALLOWS)
    done = run(tmp_path, verb)
    assert done.stderr == f"imported\n{STOPPED}"
    assert done.returncode == 130


def test_where_it_is_ignored_it_stays_ignored(tmp_path):
    """As a shell ignores it for what it starts in the background."""
    (tmp_path / "torch.py").write_text(SWALLOWS.replace("time.sleep(5)", "pass"))
    done = run(tmp_path, "doctor", ignoring=True)
    assert "it went on" in done.stderr


def test_elsewhere_it_is_an_exception_and_the_handler_of_before_comes_back(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)

    def dispatch(_words):
        assert signal.getsignal(signal.SIGINT) is end_imports
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cli, "dispatch", dispatch)
    assert cli.main(["plan"]) == 130
    assert capsys.readouterr().err == STOPPED
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_changes():
    def work():
        with ctrl_c(end_imports):
            seen.append(signal.getsignal(signal.SIGINT))

    seen, before = [], signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
