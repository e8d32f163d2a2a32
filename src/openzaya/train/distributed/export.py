"""A Hugging Face folder, or one of adapters, from a divided model, one tensor at a time.

Rank 0 writes and asks for what it needs by name; the other ranks send their parts. At no time does
a rank hold more than its part and one whole tensor.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from openzaya.core.errors import CheckpointError
from openzaya.model.adapter_files import write_adapter
from openzaya.model.checkpoint import PREFIX, running_config, write_folder
from openzaya.model.lora import adapters
from openzaya.model.shards import TensorSpec
from openzaya.model.zaya import Zaya
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer
from openzaya.train.distributed.cluster import Cluster
from openzaya.train.distributed.shard import local_of
from openzaya.train.distributed.talk import all_values, first_error

BASE = ".original"
"""Ends torch's name of a weight that has an adapter (`torch.nn.utils.parametrize`)."""


def export_model(
    model: Zaya,
    cluster: Cluster,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    tokenizer: Path | None = None,
) -> None:
    """Write a folder that `openzaya.load` and transformers read; every rank calls it.

    Adapters are merged in it; the model keeps them. `tokenizer` is a folder whose tokenizer and
    chat template go with it.

    Raises CheckpointError on every rank when it cannot be written.
    """

    def write(source: Source) -> None:
        names = (name for name in source.tensors if ".lora_" not in name)
        specs = (source.spec(name, dtype) for name in names)
        write_folder(folder, running_config(model), specs, dtype)
        if tokenizer is not None:
            TextTokenizer.load(tokenizer).save(folder)
            ChatTemplate.load(tokenizer).save(folder)

    write_together(model, cluster, folder, write)


def export_adapter(model: Zaya, cluster: Cluster, folder: Path, base: str = "") -> None:
    """Write the adapters alone, as `save_adapter` does; every rank calls it.

    Raises CheckpointError on every rank when they cannot be written.
    """

    def write(source: Source) -> None:
        factors = {plain(name): source.factors(name) for name in source.tensors if is_base(name)}
        config = next(iter(source.adapters.values())).config
        write_adapter(factors, config, folder, base)

    write_together(model, cluster, folder, write)


def write_together(
    model: Zaya, cluster: Cluster, folder: Path, write: Callable[["Source"], None]
) -> None:
    """Let rank 0 write while the others send; an error there is one everywhere."""
    group = dist.new_group(backend="gloo")
    source = Source(model, cluster, group)
    error = ""
    if cluster.is_first:
        try:
            write(source)
        except (CheckpointError, OSError, SafetensorError) as caught:
            error = str(caught)
        source.finish()
    else:
        source.serve()
    found = first_error(error, group)
    dist.destroy_process_group(group)
    if found:
        raise CheckpointError(f"the model could not be written to {folder} ({found})")


def is_base(name: str) -> bool:
    """Tell whether a tensor is a weight with an adapter."""
    return name.endswith(BASE)


def plain(name: str) -> str:
    """Return the name that a parameter has without adapters."""
    return name.removesuffix(BASE).replace(".parametrizations.", ".")


class Source:
    """The tensors of a divided model by name, for the rank that writes and those that send."""

    def __init__(self, model: Zaya, cluster: Cluster, group: dist.ProcessGroup) -> None:
        self.tensors: dict[str, Tensor] = dict(model.state_dict())
        self.adapters = dict(adapters(model))
        self.parts = cluster.parts
        self.group = group
        # The first replica has everything.
        self.senders = cluster.ranks.dense.size(1)
        own = {name: (part.offsets, part.sizes) for name, part in self.parts.items()}
        self.boxes: list[dict[str, Any]] = all_values(own, group)

    def spec(self, name: str, dtype: torch.dtype) -> TensorSpec:
        """Return what rank 0 writes of a tensor; the balancing biases stay fp32."""
        tensor = self.tensors[name]
        is_divided = name in self.parts
        shape = self.parts[name].shape if is_divided else tuple(tensor.shape)
        return TensorSpec(
            name=PREFIX + plain(name),
            dtype=dtype if is_divided else tensor.dtype,
            shape=shape,
            make=(lambda: self.merged(name)) if is_divided else (lambda: tensor),
        )

    def merged(self, name: str) -> Tensor:
        """Return a whole tensor with its adapter, where it has one, added."""
        whole = self.fetch(name)
        if not is_base(name):
            return whole
        return self.adapters[plain(name)].adapt(whole, *self.factors(name))

    def factors(self, name: str) -> tuple[Tensor, Tensor]:
        """Return A and B of the adapter of a weight, whole."""
        stem = name.removesuffix(BASE)
        return self.fetch(f"{stem}.0.lora_a"), self.fetch(f"{stem}.0.lora_b")

    def fetch(self, name: str) -> Tensor:
        """Return a whole tensor from its parts; on rank 0, while the others `serve`."""
        all_values(name, self.group)
        local = local_of(self.tensors[name]).detach().cpu()
        whole = local.new_empty(self.parts[name].shape)
        for rank in range(self.senders):
            offsets, sizes = self.boxes[rank][name]
            box = tuple(slice(a, a + n) for a, n in zip(offsets, sizes, strict=True))
            piece = local if rank == 0 else local.new_empty(sizes)
            if rank and piece.numel():
                dist.recv(piece, src=rank, group=self.group)
            whole[box] = piece
        return whole

    def serve(self) -> None:
        """Send parts until rank 0 has written all."""
        rank = dist.get_rank()
        while name := all_values("", self.group)[0]:
            local = local_of(self.tensors[name]).detach().cpu().contiguous()
            if rank < self.senders and local.numel():
                dist.send(local, dst=0, group=self.group)

    def finish(self) -> None:
        """Let the others go."""
        all_values("", self.group)
