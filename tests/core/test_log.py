"""Metrics that must be declared, files that survive a crash, spans that add up."""

import json
import math
from threading import Thread

import pytest

from openzaya.core import log
from openzaya.core.errors import DataError

log.declare("test/loss", "nat", "mean negative log-likelihood", healthy=(0.0, 5.0))
log.declare("test/norm", "1", "gradient norm")


def test_an_undeclared_metric_is_refused_before_anything_is_written(tmp_path):
    writer = log.MetricWriter(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="undeclared metrics test/los;"):
        writer.write(1, "sft", {"test/loss": 1.0, "test/los": 2.0})
    assert not writer.path.exists()


def test_each_step_is_on_disk_when_write_returns(tmp_path):
    writer = log.MetricWriter(tmp_path / "deep" / "metrics.jsonl")
    writer.write(1, "sft", {"test/loss": 1.5})
    assert log.read_metrics(writer.path) == [{"step": 1, "stage": "sft", "test/loss": 1.5}]
    writer.write(2, "sft", {"test/loss": math.nan, "test/norm": math.inf})
    second = json.loads(writer.path.read_text().splitlines()[1])
    assert second == {"step": 2, "stage": "sft", "test/loss": None, "test/norm": None}


def test_truncation_drops_later_steps_of_the_stage_and_a_torn_line(tmp_path):
    writer = log.MetricWriter(tmp_path / "metrics.jsonl")
    for stage, steps in (("pretrain", 4), ("sft", 3)):
        for step in range(1, steps + 1):
            writer.write(step, stage, {"test/loss": float(step)})
    with writer.path.open("a") as file:
        file.write('{"step": 4, "sta')
    assert writer.truncate_after(2, "sft") == 2
    seen = [(record["stage"], record["step"]) for record in log.read_metrics(writer.path)]
    assert seen == [*(("pretrain", step) for step in (1, 2, 3, 4)), ("sft", 1), ("sft", 2)]
    assert writer.truncate_after(1) == 4
    assert len(log.read_metrics(writer.path)) == 2


@pytest.mark.parametrize("line", [b"broken", b'{"step": "\xff"}'])
def test_a_broken_line_in_the_middle_is_an_error_and_changes_nothing(tmp_path, line):
    writer = log.MetricWriter(tmp_path / "metrics.jsonl")
    text = b'{"step": 1, "stage": "s"}\n' + line + b'\n{"step": 2, "stage": "s"}\n'
    writer.path.write_bytes(text)
    with pytest.raises(DataError, match="line 2 is not JSON"):
        writer.truncate_after(1)
    with pytest.raises(DataError, match="line 2 is not JSON"):
        log.read_metrics(writer.path)
    assert writer.path.read_bytes() == text


@pytest.mark.parametrize("line", ["12", '{"stage": "s"}', '{"step": "1", "stage": "s"}'])
def test_a_line_that_is_of_no_step_is_an_error_unless_it_is_the_last(tmp_path, line):
    writer = log.MetricWriter(tmp_path / "metrics.jsonl")
    good = '{"step": 1, "stage": "s"}\n'
    writer.path.write_text(f"{line}\n{good}")
    with pytest.raises(DataError, match="line 1 is not JSON of a step"):
        writer.truncate_after(1)
    writer.path.write_text(f"{good}{line}")
    assert writer.truncate_after(1) == 1
    assert writer.path.read_text() == good


def test_truncating_a_file_that_does_not_exist_is_nothing(tmp_path):
    writer = log.MetricWriter(tmp_path / "metrics.jsonl")
    assert writer.truncate_after(3) == 0
    assert not writer.path.exists()


def test_a_name_has_one_meaning():
    again = log.declare("test/loss", "nat", "mean negative log-likelihood", healthy=(0.0, 5.0))
    assert log.declared()["test/loss"] == again
    with pytest.raises(ValueError, match="already taken"):
        log.declare("test/loss", "bit", "mean negative log-likelihood")
    with pytest.raises(ValueError, match="already taken"):
        log.declare("step", "1", "optimizer steps")


def test_spans_count_for_every_collector_that_is_open(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(log, "perf_counter", lambda: float(next(clock)))
    with log.span("before"):
        pass
    with log.collect_spans() as outer:
        with log.span("a"), log.collect_spans() as inner, log.span("b"):
            pass
        with log.span("b"):
            pass
    assert outer.calls == {"a": 1, "b": 2}
    assert outer.seconds == {"a": 3.0, "b": 2.0}
    assert inner.calls == {"b": 1}


def test_a_span_is_counted_when_its_block_fails_and_in_any_thread():
    def work() -> None:
        with log.span("thread"):
            pass

    with log.collect_spans() as totals:
        with pytest.raises(KeyError), log.span("failing"):
            raise KeyError("x")
        threads = [Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert totals.calls == {"failing": 1, "thread": 4}
