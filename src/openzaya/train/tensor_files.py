"""Tensors of a checkpoint, read whole or in part, from one file or from those of many ranks.

A rank's file names, in its header, where its part of every tensor begins; this is the layout that
torch.distributed.checkpoint writes for safetensors. Reading it needs no process group, and no more
memory than what is asked for.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from openzaya.train.manifest import DamagedCheckpoint

SHARDING = "DCP_SHARDING_INFO"
"""Header entry of a rank's file: {name: {"saved_offsets": [...]}}."""
OFFSETS = "saved_offsets"
PATTERN = "*.safetensors"


class TensorFiles:
    """The tensors of one checkpoint folder by name."""

    def __init__(self, folder: Path) -> None:
        """Read the headers; raises what safetensors raises for files that are none."""
        self.folder = folder
        self._boxes: dict[str, list[tuple[Any, tuple[int, ...], tuple[int, ...]]]] = {}
        for path in sorted(folder.glob(PATTERN)):
            file: Any = safe_open(path, framework="pt", device="cpu")
            offsets = json.loads((file.metadata() or {}).get(SHARDING, "{}"))
            for name in file.keys():  # noqa: SIM118 - not a mapping
                size = tuple(file.get_slice(name).get_shape())
                start = tuple(offsets[name][OFFSETS]) if name in offsets else (0,) * len(size)
                self._boxes.setdefault(name, []).append((file, start, size))

    @property
    def names(self) -> list[str]:
        """All tensors."""
        return sorted(self._boxes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        ends = [
            [a + n for a, n in zip(start, size, strict=True)]
            for _, start, size in self._boxes[name]
        ]
        return tuple(max(column) for column in zip(*ends, strict=True))

    def read(self, name: str, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """Return a box of a tensor, put together from all files that have some of it.

        Raises DamagedCheckpoint when a piece is nowhere.
        """
        boxes = self._boxes[name]
        file, start, size = boxes[0]
        if (tuple(offsets), tuple(sizes)) == (start, size):
            exact: Tensor = file.get_tensor(name)
            return exact
        nothing = tuple(slice(0, 0) for _ in sizes)
        out = torch.empty(list(sizes), dtype=file.get_slice(name)[nothing].dtype)
        found = 0
        for file, start, size in boxes:
            low = [max(a, b) for a, b in zip(offsets, start, strict=True)]
            high = [
                min(a + n, b + m) for a, n, b, m in zip(offsets, sizes, start, size, strict=True)
            ]
            extent = [max(0, h - a) for a, h in zip(low, high, strict=True)]
            if not math.prod(extent):
                continue
            target, source = (
                tuple(slice(a - b, h - b) for a, h, b in zip(low, high, origin, strict=True))
                for origin in (offsets, start)
            )
            out[target] = file.get_slice(name)[source]
            found += math.prod(extent)
        if found != math.prod(sizes):
            raise DamagedCheckpoint(
                f"{self.folder} is damaged: it has {found} of {math.prod(sizes)} values of "
                f"{name!r} from {tuple(offsets)} on"
            )
        return out


def read_all(folder: Path) -> dict[str, Tensor]:
    """Return every tensor whole."""
    files = TensorFiles(folder)
    return {
        name: files.read(name, (0,) * len(files.shape(name)), files.shape(name))
        for name in files.names
    }
