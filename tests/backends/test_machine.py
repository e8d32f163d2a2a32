"""What is chosen follows from what was measured."""

import json
import os

import pytest

from openzaya.backends import machine
from openzaya.backends.machine import Cores
from openzaya.cli import doctor
from openzaya.cli import main as cli


def cores(physical: int, usable: float, free: float) -> Cores:
    return Cores(logical=64, physical=physical, usable=usable, free=free)


@pytest.mark.parametrize(
    ("found", "threads"),
    [
        (cores(2, 2.0, 2.0), 2),
        (cores(2, 2.0, 1.9), 2),
        (cores(2, 2.0, 1.2), 1),
        (cores(2, 2.0, 0.0), 1),
        (cores(32, 64.0, 60.0), 32),
        (cores(32, 1.5, 1.5), 1),
        (cores(8, 4.0, 3.6), 4),
        (cores(1, 0.5, 0.5), 1),
    ],
)
def test_threads_are_the_free_physical_cores_and_at_least_one(found, threads):
    assert machine.choose_threads(found) == threads


@pytest.mark.parametrize(
    ("fp32", "bf16", "dtype"),
    [(100.0, 50.0, "float32"), (100.0, 110.0, "float32"), (100.0, 200.0, "bfloat16")],
)
def test_bf16_must_be_clearly_faster(fp32, bf16, dtype):
    rates = {"float32": fp32, "bfloat16": bf16}
    assert machine.choose_dtype("cpu", rates) == dtype


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_either_cgroup_version_is_read(tmp_path, files, quota):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    assert machine.cgroup_quota(tmp_path) == quota


def test_hyper_threads_of_one_core_count_once(tmp_path):
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    assert machine.physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert machine.physical_cores({0, 1}, tmp_path) == 2
    assert machine.physical_cores({0, 2}, tmp_path) == 1
    assert machine.physical_cores({0, 1, 2}, tmp_path / "absent") == 3


def test_free_cores_are_the_idle_share_of_each(monkeypatch):
    samples = iter([{0: (100, 200), 1: (0, 200)}, {0: (110, 210), 1: (5, 210)}])
    monkeypatch.setattr(machine, "idle_ticks", lambda cpus: next(samples))
    assert machine.free_cores({0, 1}, sample_s=0.0) == pytest.approx(1.5)


def test_without_proc_stat_the_load_average_decides(monkeypatch):
    monkeypatch.setattr(machine, "idle_ticks", lambda cpus: None)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    assert machine.free_cores({0, 1, 2, 3}) == 2.5
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.0, 0.0))
    assert machine.free_cores({0, 1, 2, 3}) == 0.0


def test_the_gemm_rate_counts_two_operations_a_product(monkeypatch):
    """A clock that ticks one second a look: n products in n + 1 looks."""
    seconds = iter(map(float, range(1000)))
    monkeypatch.setattr(machine, "perf_counter", lambda: next(seconds))
    rate = machine.gemm_rate("float32", measure_s=4.0)
    assert rate == 2.0 * machine.GEMM_SIZE**3 * 3 / 4.0


def test_the_bandwidth_counts_reads_and_writes(monkeypatch):
    seconds = iter(map(float, range(1000)))
    monkeypatch.setattr(machine, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(machine, "BANDWIDTH_BYTES", 4096)
    assert machine.bandwidth(measure_s=4.0) == 2.0 * 4096 * 3 / 4.0


def test_without_proc_half_of_the_memory_counts_as_free(monkeypatch):
    monkeypatch.setattr(machine, "read_text", lambda path: None)
    total, available = machine.memory_bytes()
    assert total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") > 0
    assert available == total // 2


def test_the_pages_of_files_do_not_fill_a_cgroup(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 900 kB\n",
        "/sys/fs/cgroup/memory.max": "512000",
        "/sys/fs/cgroup/memory.current": "500000",
        "/sys/fs/cgroup/memory.stat": "anon 100000\nactive_file 150000\ninactive_file 250000\n",
    }
    monkeypatch.setattr(machine, "read_text", lambda path: files.get(str(path)))
    assert machine.memory_bytes() == (512_000, 412_000)
    files["/sys/fs/cgroup/memory.max"] = "max"
    assert machine.memory_bytes() == (1_024_000, 921_600)


def test_the_device_is_the_cpu_when_the_gpu_cannot_compute(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("driver too old")

    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine.torch, "ones", broken)
    assert machine.choose_device() == "cpu"
    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: False)
    assert machine.choose_device() == "cpu"


def test_doctor_reports_what_the_choice_rests_on(monkeypatch, capsys):
    monkeypatch.setattr(machine, "measure_cores", lambda: cores(4, 4.0, 3.0))
    monkeypatch.setattr(
        machine, "gemm_rate", lambda dtype, device: {"float32": 2e11, "bfloat16": 1e11}[dtype]
    )
    monkeypatch.setattr(machine, "bandwidth", lambda device: 2e10)
    monkeypatch.setattr(machine, "choose_device", lambda: "cpu")
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["choice"]["threads"] == 3
    assert report["choice"]["dtype"] == "float32"
    assert report["choice"]["device"] == "cpu"
    assert report["choice"]["sandbox"] == report["sandbox"]["backend"]
    assert report["gemm_flops"]["cpu"]["float32"] == 2e11
    assert report["memory"]["total"] >= report["memory"]["available"] > 0
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "float32 200, bfloat16 100 GFLOP/s" in shown
    assert "bfloat16 runs at 0.50 of float32's speed" in shown


@pytest.mark.parametrize("has_one", [True, False])
def test_doctor_tells_whether_our_kernels_can_be_compiled(monkeypatch, tmp_path, has_one):
    path = tmp_path / "mine++"
    path.write_text("")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path) if has_one else str(tmp_path / "none"))
    monkeypatch.setenv("OPENZAYA_CACHE", str(tmp_path / "cache"))
    report = doctor.examine()
    told = dict(doctor.describe(report))["compiler"]
    assert report["compiler"]["path"] == (str(path) if has_one else None)
    assert (str(path) in told, str(tmp_path / "cache") in told) == (has_one, has_one)
    assert ("install g++" in told) is not has_one


@pytest.mark.gpu
def test_a_working_gpu_is_chosen():
    assert machine.choose_device() == "cuda"
    assert machine.choose_dtype("cuda") == "bfloat16"
