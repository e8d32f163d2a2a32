"""The pool: whatever a function does, its call ends in time and the next one works."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openzaya.core.errors import ConfigError, RequestError, SandboxError
from openzaya.core.seeding import stream_seed
from openzaya.sandbox.pool import Ended, Pool, PoolLimits, shared_pool

HERE = "pool_functions:"
PACKAGES = ("openzaya", "pool_functions")
QUICK = PoolLimits(wall_s=0.4, cpu_s=1.0)
SRC = Path(__file__).parents[2] / "src"
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pool():
    with Pool(2, limits=QUICK, packages=PACKAGES, preload=("pool_functions",)) as pool:
        yield pool


def is_gone(pid, within_s=3.0):
    """Say whether a process ends in time; a zombie has ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_values_of_every_json_kind_come_back_as_they_were(pool):
    value = {"a": [1, 2.5, None, True, "\u00e9\ud800\x00"], "b": {}, "c": 10**400}
    outcome = pool.call(HERE + "echo", value)
    assert (outcome.ended, outcome.value) == (Ended.VALUE, value)


def test_long_arguments_are_fine_and_too_long_ones_refused(pool):
    text = "7" * 60_000
    assert pool.call(HERE + "echo", text).value == text
    with (
        Pool(1, limits=PoolLimits(argument_bytes=1000), packages=PACKAGES) as small,
        pytest.raises(RequestError, match="at most 1000"),
    ):
        small.call(HERE + "echo", "x" * 1000)


@pytest.mark.parametrize("ended_by", ["hang_in_c", "sleep"])
def test_what_hangs_is_killed_and_its_worker_replaced(pool, ended_by):
    arguments = (30,) if ended_by == "sleep" else ()
    before = pool.call(HERE + "pid").value
    began = time.monotonic()
    outcome = pool.call(HERE + ended_by, *arguments)
    took_s = time.monotonic() - began
    assert outcome.ended is Ended.TIMEOUT
    assert "0.4 s" in outcome.message
    assert QUICK.wall_s <= outcome.wall_s <= took_s < QUICK.wall_s + 0.5
    assert is_gone(before) or before in pool.pids
    assert pool.call(HERE + "echo", 1).value == 1


def test_the_pool_fills_up_again_by_itself(pool):
    pool.call(HERE + "leave", 1)
    deadline = time.monotonic() + 5
    while len(pool.pids) < 2 and time.monotonic() < deadline:
        list(ThreadPoolExecutor(2).map(lambda _: pool.call(HERE + "sleep", 0.05), range(2)))
    assert len(pool.pids) == 2
    killed = pool.pids[0]
    os.kill(killed, signal.SIGKILL)
    outcomes = [pool.call(HERE + "echo", 1).ended for _ in range(4)]
    assert outcomes.count(Ended.DIED) <= 1
    assert outcomes[-1] is Ended.VALUE
    deadline = time.monotonic() + 5
    while killed in pool.pids or len(pool.pids) < 2:
        assert time.monotonic() < deadline, "the pool did not fill up"
        pool.call(HERE + "echo", 1)
        time.sleep(0.01)


@pytest.mark.slow
def test_cpu_time_is_limited_apart_from_the_clock():
    limits = PoolLimits(wall_s=30, cpu_s=1)
    with Pool(1, limits=limits, packages=PACKAGES) as pool:
        assert pool.call(HERE + "spin_past_the_limit", 0.8).ended is Ended.VALUE
        # the limit counts from this call on, not from the worker's start
        assert pool.call(HERE + "spin_past_the_limit", 0.8).ended is Ended.VALUE
        outcome = pool.call(HERE + "spin_past_the_limit", 20)
    assert outcome.ended is Ended.TIMEOUT
    assert "CPU" in outcome.message
    assert outcome.wall_s < 25


@pytest.mark.parametrize("name", ["allocate", "allocate_bit_by_bit"])
def test_memory_is_limited(name):
    with Pool(1, limits=PoolLimits(memory_bytes=256 * 2**20), packages=PACKAGES) as pool:
        outcome = pool.call(HERE + name, *((4 * 2**30,) if name == "allocate" else ()))
        assert outcome.ended is Ended.MEMORY
        assert "256 MiB" in outcome.message
        assert pool.call(HERE + "allocate", 2**20).value == 2**20


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [("crash", (), "signal 11"), ("leave", (0,), "exit code 0"), ("leave", (7,), "exit code 7")],
)
def test_a_crash_is_no_value(pool, name, arguments, message):
    outcome = pool.call(HERE + name, *arguments)
    assert outcome.ended is Ended.DIED
    assert message in outcome.message
    assert pool.call(HERE + "echo", 2).value == 2


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fail", ("so it is",), "ValueError: so it is"),
        ("fail", ("\ud800" * 5000,), "ValueError: \ud800"),
        ("fail_to_say_why", (), "Mute"),
        ("say_goodbye", (), "SystemExit: 3"),
        ("recurse", (), "RecursionError"),
        ("number", (), "ValueError"),
        ("nest", (100_000,), "RecursionError"),
        ("long_text", (64 * 2**10,), "longer than 65536 bytes"),
        ("echo", (1, 2), "TypeError"),
    ],
)
def test_what_a_function_raises_is_told(pool, name, arguments, message):
    outcome = pool.call(HERE + name, *arguments)
    assert outcome.ended is Ended.RAISED
    assert message in outcome.message
    assert outcome.value is None


def test_prints_go_nowhere_and_files_stay_small(pool, tmp_path):
    assert pool.call(HERE + "print_much").value == "printed"
    assert pool.call(HERE + "write_file", str(tmp_path / "a"), 1000).value == 1000
    assert pool.call(HERE + "write_file", str(tmp_path / "b"), 2**20).ended is Ended.RAISED


def test_the_environment_stays_outside(pool, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    with Pool(1, packages=PACKAGES) as fresh:
        outcome = fresh.call(HERE + "environment")
    assert "OPENAI_API_KEY" not in outcome.value
    assert "canary" not in str(outcome.value)


def test_a_broken_frame_never_reaches_the_next_call(pool):
    assert pool.call(HERE + "forge").value in (None, "forged")
    for number in range(3):
        assert pool.call(HERE + "echo", number).value == number


@pytest.mark.parametrize(
    "name", ["os:system", "pool_functions", "pool_functions:a:b", "openzaya_evil:x", ":", ""]
)
def test_only_functions_of_our_packages_are_called(pool, name):
    with pytest.raises(RequestError, match="expected module:function"):
        pool.call(name)


def test_a_function_that_does_not_exist_is_an_error_of_ours(pool):
    with pytest.raises(RequestError, match="nothing_of_the_kind"):
        pool.call(HERE + "nothing_of_the_kind")
    with pytest.raises(RequestError, match="ModuleNotFoundError"):
        pool.call("openzaya.nowhere:f")


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}, b"x"])
def test_arguments_that_are_no_json_are_refused(pool, value):
    with pytest.raises(RequestError, match="no JSON"):
        pool.call(HERE + "echo", value)


def test_many_threads_share_few_workers(pool):
    def ask(number):
        if number % 10 == 3:
            return pool.call(HERE + "leave", 1).ended
        return pool.call(HERE + "echo", number).value

    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(ask, range(100)))
    assert found == [Ended.DIED if n % 10 == 3 else n for n in range(100)]
    assert len(pool.pids) <= 2


def test_a_worker_is_replaced_after_its_number_of_calls():
    with Pool(1, packages=PACKAGES, recycle_calls=3) as pool:
        pids = [pool.call(HERE + "pid").value for _ in range(7)]
    assert len(set(pids)) == 3
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert all(is_gone(pid) for pid in pids)


def test_children_of_a_worker_die_with_it(pool, tmp_path):
    note = tmp_path / "pid"
    assert pool.call(HERE + "child_that_stays", str(note)).ended is Ended.TIMEOUT
    assert is_gone(int(note.read_text()))


def test_workers_that_cannot_start_are_an_outcome_and_no_hang():
    with Pool(2, preload=("openzaya.nowhere",), packages=PACKAGES) as pool:
        for _ in range(2):
            outcome = pool.call(HERE + "echo", 1)
            assert outcome.ended is Ended.DIED
            assert "openzaya.nowhere" in outcome.message


def test_closing_ends_running_calls_and_leaves_nobody(tmp_path):
    pool = Pool(2, packages=PACKAGES)
    outcomes = []

    def hang(begun):
        outcomes.append(pool.call(HERE + "hang_in_c", str(begun)).ended)

    notes = [tmp_path / "0", tmp_path / "1"]
    threads = [threading.Thread(target=hang, args=(note,)) for note in notes]
    for thread in threads:
        thread.start()
    while not all(note.exists() for note in notes):
        time.sleep(0.01)
    pids = pool.pids
    pool.close()
    for thread in threads:
        thread.join()
    assert outcomes == [Ended.DIED] * 2
    assert all(is_gone(pid, 0.1) for pid in pids)
    with pytest.raises(SandboxError, match="closed"):
        pool.call(HERE + "echo", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent")
def test_workers_die_with_a_killed_parent():
    program = textwrap.dedent(
        """
        import sys, threading, time
        from openzaya.sandbox.pool import Pool, PoolLimits
        pool = Pool(3, limits=PoolLimits(wall_s=60, cpu_s=60), packages=("pool_functions",))
        for name, arguments in (("hang_in_c", ()), ("sleep", (60,)), ("sleep", (60,))):
            call = lambda n=name, a=arguments: pool.call(f"pool_functions:{n}", *a)
            threading.Thread(target=call, daemon=True).start()
        while len(pool.pids) < 3:
            time.sleep(0.01)
        print(*pool.pids, flush=True)
        time.sleep(60)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{SRC}:{TESTS}"},
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert len(pids) == 3
    assert [pid for pid in pids if not is_gone(pid)] == []


def test_the_shared_pool_is_one_and_calls_our_functions():
    assert shared_pool() is shared_pool()
    outcome = shared_pool().call("openzaya.core.seeding:stream_seed", 7, "rl", 3)
    assert outcome.value == stream_seed(7, "rl", 3)
    with pytest.raises(RequestError):
        shared_pool().call("pool_functions:echo", 1)


@pytest.mark.parametrize("wrong", [{"wall_s": 0}, {"cpu_s": -1}, {"memory_bytes": 1}])
def test_limits_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PoolLimits(**wrong)
