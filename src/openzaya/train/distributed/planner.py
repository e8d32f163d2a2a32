"""Tells torch.distributed.checkpoint which rank writes which part of which tensor."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.state_dict_saver import save

from openzaya.core.errors import CheckpointError
from openzaya.train.distributed.shard import Part

Owned = Mapping[str, tuple[Tensor, Part]]


class PartPlanner(DefaultSavePlanner):
    """Plans parts that we know, where the default planner would ask DTensors."""

    def __init__(self, owned: Owned) -> None:
        super().__init__(flatten_state_dict=False)
        self.owned = owned

    def create_local_plan(self) -> SavePlan:
        """Return one item for each part of this rank."""
        self.plan = SavePlan([item(name, *known) for name, known in self.owned.items()])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        """Return the tensor of an item."""
        return self.owned[write_item.index.fqn][0]


def item(name: str, tensor: Tensor, part: Part) -> WriteItem:
    """Return what DCP has to know about a part."""
    offsets, sizes = torch.Size(part.offsets), torch.Size(part.sizes)
    return WriteItem(
        index=MetadataIndex(name, offsets),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(offsets=offsets, sizes=sizes),
            properties=TensorProperties.create_from_tensor(tensor),
            size=torch.Size(part.shape),
        ),
    )


def write_parts(folder: Path, owned: Owned, group: dist.ProcessGroup) -> None:
    """Write every rank's parts into a file of its own in `folder`; a collective call.

    Raises CheckpointError, on every rank, for what any of them ran into.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)
        try:
            save(
                {name: tensor for name, (tensor, _) in owned.items()},
                storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
                planner=PartPlanner(owned),
                process_group=group,
            )
        except CheckpointException as error:  # no Exception: nobody else would catch it
            rank, (cause, _) = next(iter(error.failures.items()))
            raise CheckpointError(f"rank {rank}: {type(cause).__name__}: {cause}") from error
