"""Tensors of a folder lie in its files, and nothing of a file is read before it is used."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from openzaya.core.errors import CheckpointError
from openzaya.model.hub import resolve_folder
from openzaya.model.shards import (
    READ_BYTES,
    SINGLE,
    Shards,
    TensorSpec,
    write_shards,
)

LARGE = torch.arange(READ_BYTES, dtype=torch.float32)
SMALL = torch.arange(7, dtype=torch.bfloat16)


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    write_shards(
        folder,
        [
            TensorSpec(name=name, dtype=x.dtype, shape=tuple(x.shape), make=lambda x=x: x)
            for name, x in tensors.items()
        ],
    )


def resident_kib(file: Path) -> int:
    """Return how much of a mapped file this process has met."""
    mapping, found = "", 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            mapping = line.split()[-1]
        if mapping == str(file) and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the kernel tells no mappings")
def test_a_large_tensor_is_not_touched_when_it_is_mapped_and_a_small_one_is_read(
    tmp_path: Path,
) -> None:
    write(tmp_path, {"large": LARGE, "small": SMALL})
    shards = Shards(tmp_path)
    large, small = shards.get("large"), shards.get("small")
    assert torch.equal(small, SMALL)
    assert resident_kib(tmp_path / SINGLE) == 0
    assert torch.equal(large, LARGE)
    assert resident_kib(tmp_path / SINGLE) >= 4 * READ_BYTES >> 10


def test_mapped_tensors_begin_with_a_cache_line(tmp_path: Path) -> None:
    for name in ("a", "a_name_that_makes_another_header"):
        write(tmp_path, {name: LARGE})
        assert Shards(tmp_path).get(name).data_ptr() % 64 == 0


def test_a_tensor_at_an_odd_address_is_copied(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [len(LARGE)], "data_offsets": [0, 4 * len(LARGE)]}
    text = json.dumps({"large": entry}).encode()
    text += b" " * (-len(text) % 8 + 1)
    data = LARGE.numpy().tobytes()
    (tmp_path / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + data)
    found = Shards(tmp_path).get("large")
    assert torch.equal(found, LARGE)
    assert found.data_ptr() % 4 == 0


def test_a_dtype_that_we_do_not_know_is_named(tmp_path: Path) -> None:
    save_file({"ids": torch.zeros(3, dtype=torch.int32)}, tmp_path / SINGLE)
    with pytest.raises(CheckpointError, match=r"tensor 'ids' .* is I32; expected F64, F32"):
        Shards(tmp_path).get("ids")


@pytest.mark.parametrize("error", [None, RuntimeError("403 of the proxy\nwith its page")])
def test_a_name_that_is_no_folder_is_told_as_a_path_and_as_a_hub_id(monkeypatch, tmp_path, error):
    """Tests are offline, which the hub's client says by itself; a proxy's errors are its own."""
    monkeypatch.chdir(tmp_path)

    def fetch(*_args, **_kwargs):
        raise error

    if error is not None:
        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    told = r"^models/zaya is no folder here, .*as a hub id .*path, else the id [^\n]*$"
    with pytest.raises(CheckpointError, match=told):
        resolve_folder("models/zaya")
