"""The report of a supervisor is read as if an enemy had written it."""

import pytest

from openzaya.sandbox import protocol
from openzaya.sandbox.exchange import Exchange
from openzaya.sandbox.executor import Limits, Request, Status

REQUEST = Request(source="", fetch=("a", "b"), limits=Limits(cpu_s=1, wall_s=4))


def judged(report: bytes, **said) -> protocol.Result:
    """Return the result of a report."""
    exchange = Exchange(report=bytearray(report), **said)
    return protocol.result(exchange, REQUEST, backend="test", policy="p")


def test_a_whole_report_becomes_a_result():
    result = judged(b"exit 0 0.5 0.7 1000 0.0\n1 3\nxyzend\n")
    assert (result.status, result.exit_code) == (Status.OK, 0)
    assert (result.cpu_s, result.wall_s, result.peak_bytes) == (0.5, 0.7, 1000)
    assert dict(result.files) == {"b": b"xyz"}


@pytest.mark.parametrize(
    "report",
    [
        b"",
        b"exit 0 0.5 0.7 1000 0.0",
        b"exit 0 0.5 0.7 1000 0.0\n",
        b"exit 0 0.5 0.7 1000 0.0\nend",
        b"exit 0 0.5 0.7 1000\nend\n",
        b"exit zero 0.5 0.7 1000 0.0\nend\n",
        b"fine 0 0.5 0.7 1000 0.0\nend\n",
        b"exit 0 0.5 0.7 1000 0.0\n0 5\nxyzend\n",
        b"exit 0 0.5 0.7 1000 0.0\n2 0\nend\n",
        b"exit 0 0.5 0.7 1000 0.0\n-1 0\nend\n",
        b"exit 0 0.5 0.7 1000 0.0\n0 -3\nend\n",
        b"exit 0 nan 0.7 1000 0.0\nend\n",
        b"exit 0 0.5 -1 1000 0.0\nend\n",
        b"exit 0 0.5 0.7 inf 0.0\nend\n",
        b"\xff\xfe\nend\n",
    ],
)
def test_a_report_that_is_not_whole_is_our_failure(report):
    result = judged(report)
    assert result.status is Status.INFRA
    assert "no report" in result.reason


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (b"exit 256 0.1 0.1 1 0", Status.EXIT),
        (b"exit 35072 0.1 0.1 1 0", Status.EXIT),  # code 137
        (b"exit 9 0.1 0.1 1 0", Status.SIGNAL),
        (b"exit 139 0.1 0.1 1 0", Status.SIGNAL),  # signal 11 with a core
        (b"exit 31 0.1 0.1 1 0", Status.POLICY),
        (b"exit 0 1.01 1.1 1 0", Status.TIME_CPU),
        (b"cpu 0 1.01 1.1 1 0", Status.TIME_CPU),
        (b"wall 0 0.1 4.1 1 0", Status.TIME_WALL),
        (b"wall 0 0.1 4.1 1 0.9", Status.TIME_WALL),
        (b"wall 0 0.1 4.1 1 1.1", Status.INFRA),  # it waited a quarter of its time for a processor
        (b"wall 0 1.5 4.1 1 3.0", Status.TIME_CPU),
        (b"memory 0 0.1 0.1 1 0", Status.MEMORY),
        (b"files 0 0.1 0.1 1 0", Status.MEMORY),
        (b"exit 256 0.1 0.1 520000000 0", Status.MEMORY),
        (b"exit 0 0.1 0.1 520000000 0", Status.OK),
        (b"asked 0 0.1 0.1 1 0", Status.INFRA),
    ],
)
def test_each_end_has_its_status(report, status):
    result = judged(report + b"\nend\n")
    assert result.status is status, result
    assert bool(result.reason) is (status is not Status.OK)


def test_too_much_output_wins_over_every_other_end():
    result = judged(b"asked 0 0.1 0.1 1 0\nend\n", overflow="stderr")
    assert (result.status, "stderr" in result.reason) == (Status.OUTPUT, True)
