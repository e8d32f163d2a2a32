"""What this machine can do, measured rather than read from flags, and what to choose on it.

Two OpenMP threads on one free core are ten times slower than one thread, and bf16 matrix products
can be half as fast as fp32 on a CPU that advertises bf16; free cores and GEMM rates are measured.
"""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

import torch

GEMM_SIZE = 512
GEMM_SIZE_GPU = 4096
MEASURE_S = 0.05
"""Length of one micro-benchmark."""
LOAD_SAMPLE_S = 0.15
"""How long the cores are watched to see which of them are idle."""
BANDWIDTH_BYTES = 256 * 2**20
"""Read and written once in each pass; with its copy larger than last-level caches."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BF16_GAIN = 1.2
"""bfloat16 costs accuracy, so it must be this much faster than float32 to be chosen on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Processor cores: the machine's, ours, and those that nobody uses at the moment."""

    logical: int
    physical: int
    """Cores among `usable` that do not share an execution unit."""
    usable: float
    """What CPU affinity and the cgroup's quota leave to this process."""
    free: float
    """Idle share of the usable cores, summed, over a short sample."""


def read_text(path: str | Path) -> str | None:
    """Return a small file's text, or None where the system has no such file."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def allowed_cpus() -> set[int]:
    """Return the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the CPU quota of the cgroup (version 2, then 1) in cores, or None without a quota."""
    limit = read_text(root / "cpu.max")
    if limit is not None:
        quota, _, period = limit.partition(" ")
        return None if quota == "max" else int(quota) / int(period)
    quota_us = read_text(root / "cpu" / "cpu.cfs_quota_us")
    period_us = read_text(root / "cpu" / "cpu.cfs_period_us")
    if quota_us is None or period_us is None or int(quota_us) <= 0:
        return None
    return int(quota_us) / int(period_us)


def physical_cores(cpus: set[int], root: Path = Path("/sys/devices/system/cpu")) -> int:
    """Return how many execution units `cpus` cover; hyper-threads of one core count once."""
    siblings = {
        read_text(root / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu)
        for cpu in cpus
    }
    return max(1, len(siblings))


def idle_ticks(cpus: set[int]) -> dict[int, tuple[int, int]] | None:
    """Return (idle, total) clock ticks for every processor, or None outside Linux."""
    text = read_text("/proc/stat")
    if text is None:
        return None
    ticks = {}
    for line in text.splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cpus:
            values = list(map(int, numbers[:8]))
            ticks[int(name[3:])] = (values[3] + values[4], sum(values))
    return ticks


def free_cores(cpus: set[int], sample_s: float = LOAD_SAMPLE_S) -> float:
    """Return the idle share of `cpus`, summed, over a sample; the load average elsewhere."""
    before = idle_ticks(cpus)
    if before is None:
        return max(0.0, len(cpus) - os.getloadavg()[0])
    sleep(sample_s)
    after = idle_ticks(cpus) or before
    free = 0.0
    for cpu, (idle, total) in after.items():
        idle_before, total_before = before.get(cpu, (0, 0))
        elapsed = total - total_before
        free += (idle - idle_before) / elapsed if elapsed > 0 else 1.0
    return free


def measure_cores() -> Cores:
    """Return what the cores look like right now."""
    cpus = allowed_cpus()
    usable = min(float(len(cpus)), cgroup_quota() or float("inf"))
    return Cores(
        logical=os.cpu_count() or 1,
        physical=physical_cores(cpus),
        usable=usable,
        free=min(usable, free_cores(cpus)),
    )


def choose_threads(cores: Cores | None = None) -> int:
    """Return how many threads torch should use: the free physical cores, at least one."""
    cores = cores or measure_cores()
    return max(1, min(cores.physical, int(cores.usable), round(cores.free)))


def choose_device() -> str:
    """Return "cuda" when a CUDA device computes a small product, else "cpu"."""
    if not torch.cuda.is_available():
        return "cpu"
    try:
        one_11 = torch.ones(1, 1, device="cuda")
        return "cuda" if (one_11 @ one_11).item() == 1.0 else "cpu"
    except RuntimeError:  # a driver that is too old, or a device that somebody else has filled
        return "cpu"


def choose_dtype(device: str = "cpu", rates: dict[str, float] | None = None) -> str:
    """Return "bfloat16" where its measured GEMM rate is worth the accuracy, else "float32"."""
    rates = rates or {name: gemm_rate(name, device) for name in DTYPES}
    return "bfloat16" if rates["bfloat16"] > BF16_GAIN * rates["float32"] else "float32"


def gemm_rate(dtype: str, device: str = "cpu", measure_s: float = MEASURE_S) -> float:
    """Return the rate of a square matrix product in floating-point operations per second."""
    size = GEMM_SIZE if device == "cpu" else GEMM_SIZE_GPU
    generator = torch.Generator().manual_seed(0)
    x_SS = torch.randn(size, size, generator=generator).to(device, DTYPES[dtype])
    synchronize(device)
    for _ in range(2):
        x_SS @ x_SS
    synchronize(device)
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < measure_s or count == 0:
        x_SS @ x_SS
        synchronize(device)
        count += 1
    return 2.0 * size**3 * count / elapsed


def bandwidth(device: str = "cpu", measure_s: float = MEASURE_S) -> float:
    """Return the memory bandwidth of a copy, bytes read plus bytes written, per second."""
    source_N = torch.ones(BANDWIDTH_BYTES // 4, device=device)
    target_N = torch.empty_like(source_N)
    target_N.copy_(source_N)
    synchronize(device)
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < measure_s or count == 0:
        target_N.copy_(source_N)
        synchronize(device)
        count += 1
    return 2.0 * BANDWIDTH_BYTES * count / elapsed


def synchronize(device: str) -> None:
    """Wait for a GPU to finish; a CPU already has."""
    if device != "cpu":
        torch.cuda.synchronize()


def memory_bytes() -> tuple[int, int]:
    """Return (total, available) main memory; a cgroup limit counts as the total.

    Without /proc, as on macOS, half of all counts as available; zeros where nothing is told.
    """
    text = read_text("/proc/meminfo") or ""
    values = {line.split(":")[0]: line.split()[1] for line in text.splitlines() if ":" in line}
    total = int(values.get("MemTotal", 0)) * 1024 or _physical_bytes()
    available = int(values.get("MemAvailable", 0)) * 1024 or total // 2
    limit = read_text("/sys/fs/cgroup/memory.max")
    if limit is not None and limit.isdecimal():
        room = max(0, int(limit) - _cgroup_bytes())
        total, available = min(total, int(limit)), min(available, room)
    return total, available


def _cgroup_bytes() -> int:
    """Return what the cgroup cannot give back: the pages of files that it has read, it can."""
    lines = (read_text("/sys/fs/cgroup/memory.stat") or "").splitlines()
    stat = dict(line.split(" ", 1) for line in lines if " " in line)
    files = int(stat.get("active_file", 0)) + int(stat.get("inactive_file", 0))
    return int(read_text("/sys/fs/cgroup/memory.current") or 0) - files


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def cpu_name() -> str:
    """Return the processor's marketing name, or its architecture."""
    for line in (read_text("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def disk_free_bytes(path: str | Path = ".") -> int:
    """Return the free space of the file system that holds `path`."""
    return shutil.disk_usage(path).free
