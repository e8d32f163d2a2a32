"""Talking to a box through pipes: nothing blocks, nothing is kept beyond its limit."""

import os
import threading
import time
from dataclasses import replace

import pytest

from openzaya.sandbox import exchange as module
from openzaya.sandbox.exchange import Bounds, Pipes, exchange


@pytest.fixture
def pipes():
    """Return our ends of five pipes, and the box's ends by name."""
    names = ("stdin", "control", "stdout", "stderr", "report")
    made = {name: os.pipe() for name in names}
    into = {"stdin", "control"}
    ours = Pipes(**{name: ends[name in into] for name, ends in made.items()})
    return ours, {name: ends[name not in into] for name, ends in made.items()}


def bounds(output_bytes=1000, seconds=20.0) -> Bounds:
    return Bounds(output_bytes=output_bytes, report_bytes=1000, deadline=time.monotonic() + seconds)


def end(theirs) -> None:
    for handle in theirs.values():
        os.close(handle)


def obey(theirs) -> threading.Thread:
    """Be a box that ends when it is told to."""

    def box():
        while os.read(theirs["control"], 100):
            pass
        end(theirs)

    thread = threading.Thread(target=box)
    thread.start()
    return thread


def test_megabytes_in_both_directions_at_once_do_not_block(pipes):
    ours, theirs = pipes
    data = bytes(range(256)) * 8192

    def echo():
        while piece := os.read(theirs["stdin"], 65536):
            view = memoryview(piece)
            while view:
                view = view[os.write(theirs["stdout"], view) :]
        end(theirs)

    thread = threading.Thread(target=echo)
    thread.start()
    said = exchange(ours, data, b"order", bounds(len(data)))
    thread.join()
    assert bytes(said.stdout) == data
    assert (said.overflow, said.late, said.hung) == ("", False, False)


def test_a_stream_is_cut_at_its_limit_and_the_box_is_told_to_end(pipes):
    ours, theirs = pipes
    os.write(theirs["stderr"], b"x" * 1500)
    thread = obey(theirs)
    said = exchange(ours, b"", b"order", bounds())
    thread.join()
    assert (bytes(said.stderr), said.overflow) == (b"x" * 1000, "stderr")
    assert not said.late


def test_a_reader_that_is_gone_is_no_failure(pipes):
    ours, theirs = pipes
    os.close(theirs.pop("stdin"))
    os.write(theirs["report"], b"done")
    threading.Timer(0.05, end, [theirs]).start()
    assert bytes(exchange(ours, b"x" * 10**6, b"order", bounds()).report) == b"done"


def test_a_box_that_nobody_wants_any_more_is_told_to_end(pipes):
    ours, theirs = pipes
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    thread = obey(theirs)
    began = time.monotonic()
    said = exchange(ours, b"", b"order", replace(bounds(), stop=stop))
    thread.join()
    assert time.monotonic() - began < 10
    assert (said.late, said.hung) == (True, False)


def test_a_box_that_never_ends_is_called_hung(pipes, monkeypatch):
    ours, theirs = pipes
    monkeypatch.setattr(module, "FIRM_S", 0.05)
    said = exchange(ours, b"", b"order", bounds(seconds=0.05))
    assert (said.late, said.hung) == (True, True)
    end(theirs)
