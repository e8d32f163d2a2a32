"""One trainer a folder; SIGTERM asks once and then insists."""

import os
import signal
import threading
import time

import pytest

from openzaya.core.errors import CheckpointError
from openzaya.train.lock import RunLock, StopSignal


def in_child(work):
    """Run `work` in a forked process; return its wait status."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def test_a_second_trainer_is_refused_and_told_who_holds_the_folder(tmp_path):
    def second():
        try:
            RunLock(tmp_path).__enter__()
        except CheckpointError as error:
            return 0 if f"in use by pid {os.getppid()} on " in str(error) else 2
        return 3

    with RunLock(tmp_path):
        assert in_child(second) == 0
        with pytest.raises(CheckpointError, match="in use"), RunLock(tmp_path):
            pass
    with RunLock(tmp_path):
        pass


def test_a_killed_trainer_leaves_no_lock(tmp_path):
    def die():
        RunLock(tmp_path).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert in_child(die) == signal.SIGKILL
    with RunLock(tmp_path):
        assert (tmp_path / "LOCK").read_text().startswith(f"pid {os.getpid()} on ")


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="choose another folder"), RunLock(tmp_path / "file"):
        pass


def test_the_first_sigterm_is_a_request_and_the_second_ends_the_process():
    def stubborn():
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            if not stop.requested:
                return 2
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        return 3

    assert in_child(stubborn) == signal.SIGTERM


def test_sigusr1_is_a_request_however_often_it_comes():
    def patient():
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)
            return 5 if stop.requested else 2

    assert os.waitstatus_to_exitcode(in_child(patient)) == 5


def test_the_handler_of_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_signals_are_left_alone():
    def work():
        with StopSignal() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM)))

    seen, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
