"""Dividing a model over ranks with FSDP2, and where every part lies in the whole tensor."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Shard
from torch.utils import _pytree

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.block import Block
from openzaya.model.experts import Experts
from openzaya.model.zaya import Trunk, Zaya
from openzaya.train.distributed.experts import divide_experts
from openzaya.train.distributed.mesh import Ranks


@dataclass(frozen=True, slots=True)
class Part:
    """A rank's part of a tensor: a box in it."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    offsets: tuple[int, ...]
    """Where the part begins, along every axis."""
    sizes: tuple[int, ...]
    """The part's shape; it is empty where there are more ranks than rows."""


def shard_model(model: Zaya, ranks: Ranks, param_dtype: torch.dtype | None = None) -> None:
    """Divide a model's parameters over the ranks, in place; every rank has the same model before.

    Blocks are gathered one by one in the forward and again in the backward pass. Gradients are
    summed, not averaged: the loss is already a mean over the tokens of all ranks. What is frozen,
    as the base of adapters is, gets no gradient and nothing is sent for it. `param_dtype`
    is what layers compute in; sharded weights and gradients stay fp32.
    """
    if model.dtype != torch.float32:
        raise ConfigError(
            f"the model is {model.dtype}; load it as float32 and give the dtype to compute in to "
            "the mesh (param_dtype): shards hold the fp32 weights that the optimizer moves"
        )
    policy = MixedPrecisionPolicy(
        param_dtype=param_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    _make_visible(Trunk)
    # Nothing writes into the gate that a block returns.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(FSDPBlock\) returned a view")
    dense, stacks = ranks.dense["replica", "shard"], ranks.expert["replica", "shard"]
    place: Callable[[nn.Parameter], Shard | None] | None
    for module in model.layers:
        assert isinstance(module, Block), "a layer of Zaya is a block"
        if ranks.config.ep > 1:
            experts = module.mlp.experts
            divide_experts(experts, ranks.experts)
            place = _placement(experts, ranks.config.dp_shard * ranks.config.cp)
            fully_shard(experts, mesh=stacks, mp_policy=policy, shard_placement_fn=place)
            place = None
        else:
            place = _placement(module.mlp.experts, ranks.dense.size(1))
        fully_shard(module, mesh=dense, mp_policy=policy, shard_placement_fn=place)
    fully_shard(model, mesh=dense, mp_policy=policy)
    register_fsdp_forward_method(model, "trunk")
    for part in model.modules():
        if isinstance(part, FSDPModule):
            # gloo has no other reduction than a sum, and a sum is what is wanted.
            part.set_force_sum_reduction_for_comms(True)
            part.set_gradient_divide_factor(1.0)


def stack_axis(experts: Experts, shards: int) -> int:
    """Return the axis to divide a stack of experts along.

    Whole experts keep Muon's matrices whole; with more ranks than experts that would leave ranks
    without any, so their rows are divided instead.
    """
    count, width, inner = experts.down_proj.shape
    fits = width % shards == 0 and 2 * inner % shards == 0
    return 1 if count < shards and fits else 0


def _placement(experts: Experts, shards: int) -> Callable[[nn.Parameter], Shard | None]:
    """Return FSDP's question for every parameter of a block: the axis to divide it along."""
    # FSDP divides no axis but the first unevenly, and an adapter's rank may be any number.
    stacks = {id(p) for name, p in experts.named_parameters() if ".lora_" not in name}
    axis = stack_axis(experts, shards)
    return lambda parameter: Shard(axis) if id(parameter) in stacks else None


def _make_visible(kind: type) -> None:
    """Let FSDP find the tensors inside a dataclass that `trunk` returns: it hooks on them."""
    if kind not in _pytree.SUPPORTED_NODES:
        _pytree.register_dataclass(kind)


def parts_of(model: Zaya, ranks: Ranks) -> dict[str, Part]:
    """Return where this rank's part of every parameter lies in the whole tensor.

    FSDP divides as `torch.chunk` does: the first ranks have the larger parts.
    """
    parts: dict[str, Part] = {}
    for name, parameter in model.named_parameters():
        axis, sizes = axis_of(parameter), part_sizes(parameter)
        shape, offsets = list(parameter.shape), [0] * parameter.ndim
        position = dist.get_rank(shard_group(parameter))
        offsets[axis] = sum(sizes[:position])
        own = list(shape)
        own[axis] = sizes[position]
        if ranks.config.ep > 1 and ".experts." in name:
            offsets[0] += shape[0] * dist.get_rank(ranks.experts)
            shape[0] *= ranks.config.ep
        parts[name] = Part(tuple(shape), tuple(offsets), tuple(own))
    return parts


def axis_of(parameter: Tensor) -> int:
    """Return the axis along which FSDP divides a parameter."""
    assert isinstance(parameter, DTensor), "every parameter is divided"
    placement = parameter.placements[-1]
    assert isinstance(placement, Shard), "the last axis of the mesh divides"
    return placement.dim


def shard_group(parameter: Tensor) -> dist.ProcessGroup:
    """Return the ranks that divide a parameter."""
    assert isinstance(parameter, DTensor), "every parameter is divided"
    return parameter.device_mesh.get_group(parameter.device_mesh.ndim - 1)


def part_sizes(parameter: Tensor) -> list[int]:
    """Return how much of its axis each rank of `shard_group` has: as `torch.chunk` divides."""
    rows, ranks = parameter.shape[axis_of(parameter)], dist.get_world_size(shard_group(parameter))
    chunk = -(-rows // ranks)
    return [max(0, min(chunk, rows - rank * chunk)) for rank in range(ranks)]


def local_of(tensor: Tensor) -> Tensor:
    """Return this rank's part of a parameter or gradient; it shares the memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def load_parts(model: Zaya, weights: Mapping[str, Tensor]) -> None:
    """Copy this rank's parts of weights, and whole buffers, into a divided model.

    Raises CheckpointError for a name that is missing and for a part of another shape.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        raise CheckpointError(
            f"the weights do not fit the model: missing {missing[:3]}, unknown {extra[:3]}; resume "
            "with the model they were saved from"
        )
    for name, tensor in own.items():
        local = local_of(tensor.detach())
        found = local_of(weights[name])
        if local.shape != found.shape:
            raise CheckpointError(
                f"{name} has shape {tuple(found.shape)}, this rank's part of the model has "
                f"{tuple(local.shape)}; resume with the model it was saved from"
            )
        local.copy_(found)
