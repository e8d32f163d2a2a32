"""The vectors of our C++ on processors with registers of 16, 32 and 64 bytes."""

import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from openzaya.core.native.build import FLAGS, SHARED, compiler

ROOT = Path(__file__).parents[2]
LEVELS = {"x86-64": set(), "x86-64-v3": {"avx2", "fma"}, "x86-64-v4": {"avx512bw", "avx512vl"}}
"""Instruction sets with registers of 16, 32 and 64 bytes, and a processor's flags for them."""

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets of x86"),
]


def can_run(level: str) -> bool:
    """Tell whether this processor has an instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return level == "x86-64"
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return LEVELS[level] <= set(flags)


def compile_for(level: str, program: Path) -> Path:
    """Compile vectors.cpp for an instruction set."""
    chosen = compiler()
    assert chosen is not None
    flags = [f"-march={level}" if flag == "-march=native" else flag for flag in FLAGS]
    source = Path(__file__).with_name("vectors.cpp")
    command = [chosen, *flags, f"-I{SHARED}", "-x", "c++", str(source), "-o", str(program)]
    subprocess.run([part for part in command if part != "-shared"], check=True)
    return program


@pytest.mark.parametrize("level", LEVELS)
def test_all_functions_are_those_of_plain_loops(level, tmp_path):
    program = compile_for(level, tmp_path / "vectors")
    if not can_run(level):
        pytest.skip(f"compiled, but this processor is no {level}")
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("tests", ["engine/test_native.py", "model/test_fused_native.py"])
def test_kernels_give_the_models_numbers_on_every_instruction_set(level, tests, tmp_path):
    if not can_run(level):
        pytest.skip(f"this processor is no {level}")
    wrapper = tmp_path / "compiler"
    wrapper.write_text(f'#!/bin/sh\nexec {compiler()} "$@" -march={level}\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    env = {**os.environ, "CXX": str(wrapper), "OPENZAYA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{tests}"]
    command += ["-p", "no:xdist", "-m", "not slow and not gpu", "-k", "not compiler"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert list((tmp_path / "cache").glob("*.so"))
