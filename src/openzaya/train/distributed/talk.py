"""Short texts between ranks: names, hashes, errors. JSON, never pickles."""

import json
from typing import Any

import torch
import torch.distributed as dist


def all_texts(text: str, group: dist.ProcessGroup) -> list[str]:
    """Return every rank's text, in the order of the ranks. The group must serve CPU tensors."""
    raw = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([len(raw)]), group=group)
    longest = max(int(size) for size in sizes)
    mine = torch.zeros(longest, dtype=torch.uint8)
    mine[: len(raw)] = raw
    buffers = [torch.empty_like(mine) for _ in sizes]
    dist.all_gather(buffers, mine, group=group)
    return [
        bytes(buffer[: int(size) - 1].tolist()).decode()
        for buffer, size in zip(buffers, sizes, strict=True)
    ]


def all_values(value: Any, group: dist.ProcessGroup) -> list[Any]:
    """Return every rank's value; it must survive JSON."""
    return [json.loads(text) for text in all_texts(json.dumps(value), group)]


def first_error(error: str, group: dist.ProcessGroup) -> str:
    """Return the error of the lowest rank that has one, with its number; "" when none has."""
    for rank, found in enumerate(all_texts(error, group)):
        if found:
            return f"rank {rank}: {found}"
    return ""
