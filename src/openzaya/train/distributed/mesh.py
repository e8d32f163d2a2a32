"""Which ranks work together: replicas, shards, experts, context.

    rank = ((replica * dp_shard + shard) * ep + expert) * cp + context

Ranks that differ in `context` share their windows. All others train windows of their own. Weights
outside the experts are divided over all ranks of a replica; an expert's weights over those of them
that hold the same experts.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from openzaya.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshConfig:
    """How many ranks each way; their product is the number of processes."""

    dp_replicate: int = 1
    """Copies of the weights (HSDP); gradients are added up between them."""
    dp_shard: int = 1
    """Ranks that divide weights, gradients and optimizer state (FSDP2) and train other windows."""
    ep: int = 1
    """Ranks among which the experts of every layer are divided; tokens travel between them."""
    cp: int = 1
    """Ranks that share each document."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ConfigError(f"{field.name} is {value}; a mesh has at least 1 rank each way")

    @property
    def size(self) -> int:
        """Processes."""
        return self.dp_replicate * self.dp_shard * self.ep * self.cp

    @property
    def num_groups(self) -> int:
        """Groups of ranks that train different windows."""
        return self.dp_replicate * self.dp_shard * self.ep

    @classmethod
    def parse(cls, text: str, world: int) -> Self:
        """Read "dp_shard=4,cp=2"; a `dp_shard` that is not named takes the ranks that are left.

        Raises ConfigError for a name that is no axis and for a product that is not `world`.
        """
        names = [field.name for field in fields(cls)]
        sizes: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in names or not value.isdigit() or name in sizes:
                raise ConfigError(
                    f"mesh part {part!r} is not one of {', '.join(names)} = a number, each once; "
                    "write for example dp_shard=4,cp=2"
                )
            sizes[name] = int(value)
        mesh = cls(**sizes)
        if "dp_shard" not in sizes and world % mesh.size == 0:
            mesh = cls(**sizes, dp_shard=world // mesh.size)
        mesh.check(world)
        return mesh

    def check(self, world: int) -> None:
        """Raise ConfigError unless the mesh has exactly `world` ranks."""
        if self.size != world:
            raise ConfigError(
                f"the mesh {self} has {self.size} ranks, but {world} processes run; start as many "
                "as the product, or change the mesh"
            )

    def __str__(self) -> str:
        """Return it as `parse` reads it."""
        return ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))


class Ranks:
    """The place of this process in the mesh, and the process groups it belongs to.

    Making it is a collective call: every process, in the same order.
    """

    def __init__(self, config: MeshConfig, device_type: str = "cpu") -> None:
        config.check(dist.get_world_size())
        self.config = config
        self.rank = dist.get_rank()
        r, s, e, c = config.dp_replicate, config.dp_shard, config.ep, config.cp
        ids = torch.arange(config.size).view(r, s, e, c)
        self.dense = DeviceMesh(
            device_type, ids.view(r, s * e * c), mesh_dim_names=("replica", "shard")
        )
        by_expert = ids.permute(0, 2, 1, 3).reshape(r, e, s * c)
        self.expert = DeviceMesh(
            device_type, by_expert, mesh_dim_names=("replica", "expert", "shard")
        )
        documents = ids.view(r * s * e, c)
        self.documents = DeviceMesh(device_type, documents, mesh_dim_names=("windows", "context"))

    @cached_property
    def window_group(self) -> int:
        """Which share of the windows this rank trains."""
        return self.rank // self.config.cp

    @cached_property
    def shard(self) -> dist.ProcessGroup:
        """The ranks of this replica: together they hold every weight once."""
        return self.dense.get_group("shard")

    @cached_property
    def experts(self) -> dist.ProcessGroup:
        """The ranks that hold this rank's other experts."""
        return self.expert.get_group("expert")

    @cached_property
    def context(self) -> dist.ProcessGroup:
        """The ranks that share this rank's documents."""
        return self.documents.get_group("context")
