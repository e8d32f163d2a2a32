"""A Hugging Face folder from a divided model, one tensor at a time.

Rank 0 writes and asks for what it needs by name; the other ranks send their parts. At no time does
a rank hold more than its part and one whole tensor.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from openzaya.core.errors import CheckpointError
from openzaya.model.checkpoint import PREFIX, running_config, write_folder
from openzaya.model.shards import TensorSpec
from openzaya.model.zaya import Zaya
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer
from openzaya.train.distributed.cluster import Cluster
from openzaya.train.distributed.shard import local_of
from openzaya.train.distributed.talk import all_values, first_error


def export_model(
    model: Zaya,
    cluster: Cluster,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    tokenizer: Path | None = None,
) -> None:
    """Write a folder that `openzaya.load` and transformers read; every rank calls it.

    `tokenizer` is a folder whose tokenizer and chat template go with it.

    Raises CheckpointError on every rank when it cannot be written.
    """
    group = dist.new_group(backend="gloo")
    source = Source(model, cluster, group)
    error = ""
    if cluster.is_first:
        try:
            specs = (source.spec(name, dtype) for name in source.tensors)
            write_folder(folder, running_config(model), specs, dtype)
            if tokenizer is not None:
                TextTokenizer.load(tokenizer).save(folder)
                ChatTemplate.load(tokenizer).save(folder)
        except (CheckpointError, OSError) as caught:
            error = str(caught)
        source.finish()
    else:
        source.serve()
    found = first_error(error, group)
    dist.destroy_process_group(group)
    if found:
        raise CheckpointError(f"the model could not be written to {folder} ({found})")


class Source:
    """The tensors of a divided model by name, for the rank that writes and those that send."""

    def __init__(self, model: Zaya, cluster: Cluster, group: dist.ProcessGroup) -> None:
        self.tensors: dict[str, Tensor] = dict(model.state_dict())
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
            name=PREFIX + name,
            dtype=dtype if is_divided else tensor.dtype,
            shape=shape,
            make=(lambda: self.fetch(name)) if is_divided else (lambda: tensor),
        )

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
