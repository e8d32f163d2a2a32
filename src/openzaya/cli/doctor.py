"""`openzaya doctor`: what this machine can do, and what suits it."""

import argparse
import json
import platform
from typing import Any

NAME = "doctor"
SUMMARY = "Say what this machine can do and what suits it; try the sandbox."
JSON = True

EPILOG = """examples:
  openzaya doctor                 a table, after about one second of measuring
  openzaya doctor --json          the same for machines
"""

GIB = 2**30
BROKEN = {"works": False, "backend": "none"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `doctor`: none of its own."""
    parser.epilog = EPILOG


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return 0: a machine that lacks something is not an error."""
    report = examine()
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


def examine() -> dict[str, Any]:
    """Return everything that was found, in JSON's types; rates are per second, sizes in bytes."""
    import torch

    from openzaya import __version__
    from openzaya.backends import machine
    from openzaya.core.native.build import cache_folder, compiler

    cores = machine.measure_cores()
    threads, device = machine.choose_threads(cores), machine.choose_device()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rates = {
            place: {dtype: machine.gemm_rate(dtype, place) for dtype in machine.DTYPES}
            for place in dict.fromkeys(("cpu", device))
        }
        bandwidths = {place: machine.bandwidth(place) for place in rates}
    finally:
        torch.set_num_threads(before)
    total, available = machine.memory_bytes()
    sandbox = examine_sandbox()
    return {
        "openzaya": __version__,
        "python": platform.python_version(),
        "cpu": {
            "name": machine.cpu_name(),
            "logical": cores.logical,
            "physical": cores.physical,
            "usable": cores.usable,
            "free": round(cores.free, 2),
        },
        "memory": {"total": total, "available": available},
        "disk": {"free": machine.disk_free_bytes()},
        "torch": {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
        },
        "compiler": {"path": compiler(), "cache": str(cache_folder())},
        "gpu": gpus(),
        "gemm_flops": rates,
        "bandwidth": bandwidths,
        "sandbox": sandbox,
        "choice": {
            "device": device,
            "dtype": machine.choose_dtype(device, rates[device]),
            "threads": threads,
            "sandbox": sandbox["backend"],
        },
    }


def examine_sandbox() -> dict[str, Any]:
    """Return what the sandbox's doctor found, and how each attempt to break a box went."""
    from dataclasses import asdict

    from openzaya.core.errors import SandboxError
    from openzaya.sandbox import doctor

    found = asdict(doctor.probe())
    try:
        probes = doctor.examine() if found["works"] else []
    except SandboxError as error:
        return {**found, **BROKEN, "reason": str(error), "probes": []}
    broken = [probe.name for probe in probes if not probe.held]
    if broken:
        found |= {**BROKEN, "reason": f"boxes do not hold: {', '.join(broken)}"}
    return {**found, "probes": [asdict(probe) for probe in probes]}


def gpus() -> list[dict[str, Any]]:
    """Return name and memory of every CUDA device."""
    import torch

    if not torch.cuda.is_available():
        return []
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [{"name": gpu.name, "memory": gpu.total_memory} for gpu in properties]


def show(report: dict[str, Any]) -> None:
    """Print the report as two tables: what there is, and what will be used."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    found = Table(title="this machine", title_justify="left", show_header=False)
    found.add_column(style="bold", no_wrap=True)
    found.add_column(overflow="fold")
    for name, text in describe(report):
        found.add_row(name, text)
    console.print(found)
    choice = Table(title="what suits it", title_justify="left", show_header=False)
    choice.add_column(style="bold", no_wrap=True)
    choice.add_column(overflow="fold")
    for name, text in explain(report):
        choice.add_row(name, text)
    console.print(choice)


def describe(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) rows about the machine."""
    cpu, memory, torch_build = report["cpu"], report["memory"], report["torch"]
    build = (
        f"CUDA {torch_build['cuda']}"
        if torch_build["cuda"]
        else f"ROCm {torch_build['hip']}"
        if torch_build["hip"]
        else "CPU"
    )
    rows = [
        ("processor", cpu["name"]),
        (
            "cores",
            f"{cpu['physical']} physical, {cpu['usable']:g} usable, {cpu['free']:.1f} free now",
        ),
        ("memory", f"{memory['total'] / GIB:.1f} GiB, {memory['available'] / GIB:.1f} available"),
        ("disk", f"{report['disk']['free'] / GIB:.1f} GiB free here"),
        ("torch", f"{torch_build['version']} ({build} build), Python {report['python']}"),
    ]
    rows.append(("compiler", compiler_text(report["compiler"])))
    rows += [("gpu", f"{gpu['name']}, {gpu['memory'] / GIB:.0f} GiB") for gpu in report["gpu"]]
    rows += [] if report["gpu"] else [("gpu", "none")]
    for place, rates in report["gemm_flops"].items():
        speeds = ", ".join(f"{dtype} {rate / 1e9:,.0f}" for dtype, rate in rates.items())
        rows.append((f"GEMM on {place}", f"{speeds} GFLOP/s"))
    for place, rate in report["bandwidth"].items():
        rows.append((f"memory on {place}", f"{rate / 1e9:,.1f} GB/s (copy, read + write)"))
    sandbox = report["sandbox"]
    state = f"works (bubblewrap {sandbox['version']})" if sandbox["works"] else sandbox["reason"]
    rows.append(("sandbox", state))
    held = [probe["name"] for probe in sandbox["probes"] if probe["held"]]
    if held:
        rows.append(("it held against", f"{len(held)} probes: {', '.join(held)}"))
    return rows


def compiler_text(found: dict[str, Any]) -> str:
    """Return which C++ compiler makes our CPU kernels, and where they are kept."""
    if found["path"] is None:
        return "none, so torch computes instead of our CPU kernels, slower; install g++ or clang++"
    return f"{found['path']} (what it makes is kept in {found['cache']})"


def explain(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) rows about the choices and their reasons.

    Commands choose threads and sandbox so; device and dtype are advice for `--set` and for Python.
    """
    choice, cpu = report["choice"], report["cpu"]
    rates = report["gemm_flops"][choice["device"]]
    ratio = rates["bfloat16"] / rates["float32"]
    sandbox = report["sandbox"]
    missing = "none: programs cannot be run; " + sandbox["remedy"]
    return [
        ("device", choice["device"]),
        ("dtype", f"{choice['dtype']} (bfloat16 runs at {ratio:.2f} of float32's speed)"),
        ("threads", f"{choice['threads']} ({cpu['free']:.1f} cores are free)"),
        ("sandbox", choice["sandbox"] if sandbox["works"] else missing),
    ]
