"""The fixture that checks tensor names catches names that lie, and only those."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import shape_names

torch = pytest.importorskip("torch")

SOURCE = """
import torch

def wrong_axes():
    x_TD = torch.zeros(2, 3, 4)
    return x_TD

def wrong_size():
    x_TD, w_DF = torch.zeros(2, 3), torch.zeros(4, 5)
    return x_TD, w_DF

def kept_axis_is_not_one():
    x_T1 = torch.zeros(3, 2)
    return x_T1

def argument(x_TD):
    return x_TD.sum()

def honest():
    x_TD, w_DF, scale_T1, count = torch.zeros(2, 3), torch.zeros(3, 5), torch.ones(2, 1), 4
    return (x_TD @ w_DF) * scale_T1 * count

def closure_has_its_own_letters():
    whole_ND = torch.zeros(6, 2)
    def chunk(part_ND):
        return whole_ND.shape[0] + part_ND.shape[0]
    return chunk(torch.zeros(3, 2))

def closure_lies():
    whole_ND = torch.zeros(6, 2)
    def chunk():
        part_ND = torch.zeros(3)
        return part_ND, whole_ND
    return chunk()

def rebound():
    total_T = torch.zeros(3)
    for part_T in (torch.zeros(2), torch.zeros(4), torch.zeros(3)):
        total_T = total_T + part_T.sum()
    return total_T

def refuses(x_TD):
    if x_TD.ndim != 2:
        raise ValueError("two axes")
    return None

def returns_none_after_lying():
    x_TD = torch.zeros(2)
    del_me = None
    return del_me

def yields():
    x_TD = torch.zeros(2)
    yield x_TD

def not_a_tensor():
    table_TD, MAX_T = [1], 5
    return table_TD, MAX_T
"""


@pytest.fixture
def module():
    made = ModuleType("pretend.package")
    sys.modules["pretend.package"] = made
    exec(compile(SOURCE, "pretend.py", "exec"), made.__dict__)  # noqa: S102
    yield made
    del sys.modules["pretend.package"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_axes", "wrong_axes: x_TD has shape (2, 3, 4)"),
        ("wrong_size", "wrong_size: D is 3 in x_TD but 4 in w_DF"),
        ("kept_axis_is_not_one", "kept_axis_is_not_one: 1 is 1 in the name but 2 in x_T1"),
        ("closure_lies", "chunk: part_ND has shape (3,)"),
        ("returns_none_after_lying", "returns_none_after_lying: x_TD has shape (2,)"),
    ],
)
def test_a_lying_suffix_is_reported(module, name, message):
    with shape_names.checked("pretend") as problems:
        getattr(module, name)()
    assert len(problems) == 1
    assert message in problems.pop()


def test_arguments_and_generators_are_checked_too(module):
    with shape_names.checked("pretend") as problems:
        module.argument(torch.zeros(3))
        next(module.yields())
    assert len(problems) == 2


@pytest.mark.parametrize(
    "name", ["honest", "closure_has_its_own_letters", "rebound", "not_a_tensor"]
)
def test_an_honest_suffix_is_not_reported(module, name):
    with shape_names.checked("pretend") as problems:
        getattr(module, name)()
    assert problems == set()


def test_input_that_a_function_refuses_is_not_its_lie(module):
    with shape_names.checked("pretend") as problems, pytest.raises(ValueError, match="two axes"):
        module.refuses(torch.zeros(3))
    assert problems == set()


def test_other_packages_are_left_alone_and_the_profiler_is_put_back(module):
    before = sys.getprofile()
    with shape_names.checked("pretend_not") as problems:
        module.wrong_axes()
    assert problems == set()
    assert sys.getprofile() is before


def test_a_lie_fails_the_test_that_met_it(pytester_like):
    """The whole way: a test file in tests/model whose code under test lies is red."""
    result = pytester_like("model")
    assert result.returncode == 1
    assert "tensor names that lie" in result.stdout
    assert "openzaya.liar.lie: x_TD has shape (2,)" in result.stdout


def test_folders_without_tensors_are_not_profiled(pytester_like):
    assert pytester_like("core").returncode == 0


LIAR = """
import types
import torch

source = "import torch\\ndef lie():\\n    x_TD = torch.zeros(2)\\n    return x_TD\\n"
liar = types.ModuleType("openzaya.liar")
exec(source, liar.__dict__)

def test_it():
    liar.lie()
"""


@pytest.fixture
def pytester_like(tmp_path):
    """Run this repository's conftest on one test in a copy of its layout."""
    tests = Path(__file__).parents[1]

    def run(folder):
        for name in ("conftest.py", "shape_names.py"):
            (tmp_path / name).write_text((tests / name).read_text())
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test_liar.py").write_text(LIAR)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  torch: x\n  gpu: x\n")
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
