"""Decode steps over fixed memory, replayed as CUDA graphs.

A graph fixes addresses and launch sizes, so a step reads its tokens, slots and positions from
buffers that stay where they are, and there is one graph for each number of rows a step may have;
rows that are not used have slot -1, for which no kernel writes anything. Work that depends on the
context is a loop inside the attention kernel, so contexts grow without a new capture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInputs:
    """What a decode step of B rows reads, at fixed addresses."""

    ids_B: Tensor
    """int32 tokens."""
    slot_B: Tensor
    """int32 slots; -1 for rows that are not used."""
    position_B: Tensor
    """int32 positions."""


class InputBuffer:
    """The fixed memory behind `StepInputs`, and the way into it."""

    def __init__(self, max_rows: int, device: torch.device) -> None:
        on_device = device.type == "cuda"
        self._device = torch.zeros(3 * max_rows, dtype=torch.int32, device=device)
        self._staging = torch.zeros(3 * max_rows, dtype=torch.int32, pin_memory=on_device)
        self._copied = torch.cuda.Event() if on_device else None  # type: ignore[no-untyped-call]

    def view(self, rows: int) -> StepInputs:
        """Return the inputs of a step of this many rows."""
        ids_B, slot_B, position_B = self._device[: 3 * rows].view(3, rows)
        return StepInputs(ids_B=ids_B, slot_B=slot_B, position_B=position_B)

    def fill(self, rows: int, ids: Ints, slots: Ints, positions: Ints) -> None:
        """Send the inputs of the first rows and mark the others as unused."""
        if self._copied is not None:
            self._copied.synchronize()  # the copy before may still read the staging memory
        staged = self._staging[: 3 * rows].view(3, rows).numpy()
        staged[0], staged[1], staged[2] = 0, -1, 0
        for place, values in enumerate((ids, slots, positions)):
            staged[place, : len(values)] = values
        self._device[: 3 * rows].copy_(self._staging[: 3 * rows], non_blocking=True)
        if self._copied is not None:
            self._copied.record()


class Graphs:
    """Functions over fixed memory, by name; captured on a device, called on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._graphs: dict[tuple[int, ...], torch.cuda.CUDAGraph] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Forget all graphs, because what they read has moved."""
        self._graphs.clear()
        self._pool = None

    def lacks(self, key: tuple[int, ...]) -> bool:
        """Tell whether a step must be prepared before it can run."""
        return self._on_device and key not in self._graphs

    def prepare(self, key: tuple[int, ...], step: Callable[[], None]) -> None:
        """Capture `step`; it runs once for that, so its inputs must be harmless."""
        current = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            step()  # compiles kernels and makes library handles, which a capture may not
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            step()
        self._pool = self._pool or graph.pool()
        self._graphs[key] = graph

    def run(self, key: tuple[int, ...], step: Callable[[], None]) -> None:
        """Replay what `prepare` captured; without a device call `step` itself."""
        if self._on_device:
            self._graphs[key].replay()
        else:
            step()


def bucket_of(rows: int, limit: int) -> int:
    """Return the rows of the smallest captured step that holds `rows`: 1, 2, 4, 8, 16, 32, 48..."""
    if rows <= 16:
        size = 1 << (rows - 1).bit_length()
    else:
        size = -(-rows // 16) * 16
    return min(size, limit)
