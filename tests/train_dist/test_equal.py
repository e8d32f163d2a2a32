"""Every way to spread a step over real processes gives what one process gives."""

from dataclasses import replace

import pytest
import torch
from ranks import GRADIENT, LOSS, WEIGHT, largest, on_mesh, spawn, steps, straddling
from tiny_training import IN_FP32, stage, tiny_model, window, windows_of

from openzaya.model import zaya
from openzaya.model.balance import BalanceConfig
from openzaya.optim import MuonConfig, OptimConfig
from openzaya.train.distributed import context
from openzaya.train.distributed.cluster import Cluster
from openzaya.train.distributed.mesh import MeshConfig, Ranks


def one_window(step):
    """Return less than every rank needs: some ranks have nothing but padding."""
    return [window([7, 6], seed=step)]


CASES = {"many": windows_of, "straddling": straddling, "one": one_window}
SETTINGS = stage(micro_tokens=70, optim=IN_FP32)


def check(mesh, name, count, settings=SETTINGS, **changes):
    """Compare losses, norms, gradients, weights and the balancer with one process."""
    windows = CASES[name]
    one = steps(lambda _model: None, windows, count, tiny_model(**changes), settings)
    arguments = mesh, windows, count, settings, False, changes
    two = spawn(on_mesh, MeshConfig(**mesh).size, *arguments)[0]
    for a, b in zip(one["loss"], two["loss"], strict=True):
        assert a == pytest.approx(b, abs=LOSS)
    assert one["held_out"] == pytest.approx(two["held_out"], abs=1e-4)  # of weights that differ
    assert two["norm"] == pytest.approx(one["norm"], abs=GRADIENT)
    assert largest(one["gradients"], two["gradients"]) < GRADIENT
    assert largest(one["weights"], two["weights"]) < WEIGHT
    assert torch.equal(one["counts"], two["counts"])
    assert all(torch.equal(a, b) for a, b in zip(one["biases"], two["biases"], strict=True))
    for a, b in zip(one["sources"], two["sources"], strict=True):
        assert {k: v[1] for k, v in a.items()} == {k: v[1] for k, v in b.items()}


@pytest.mark.parametrize("mesh", [{"dp_shard": 2}, {"ep": 2}, {"cp": 2}, {"dp_replicate": 2}])
def test_two_processes_equal_one(mesh):
    check(mesh, "straddling", count=1)


@pytest.mark.parametrize(("mesh", "name"), [({"cp": 3}, "many"), ({"dp_shard": 3}, "one")])
def test_three_processes_equal_one(mesh, name):
    """With many, one rank needs no keys of others; with one, two ranks have padding only."""
    check(mesh, name, count=1)


@pytest.mark.parametrize("mesh", [{"ep": 2}, {"cp": 2}])
def test_ranks_without_our_kernels_equal_one_process_without_them(mesh, monkeypatch):
    for module in (zaya, context):
        monkeypatch.setattr(module, "reason_against_native", lambda _dtype, _device: "not wanted")
    check(mesh, "straddling", count=1)


def in_bf16(rank, mesh):
    """Return the losses of two steps whose layers compute in bf16, and the loss after them."""
    ranks = Ranks(MeshConfig(**mesh))
    got = steps(lambda model: Cluster(model, ranks, torch.bfloat16), straddling, 2)
    return [*got["loss"], got["held_out"]]


def test_layers_that_compute_in_bf16_do_so_with_shared_documents():
    """Until they are gathered the weights are fp32, which says nothing of the layers."""
    one = steps(lambda _model: None, straddling, 2)
    losses = spawn(in_bf16, 2, {"cp": 2})[0]
    assert losses == pytest.approx([*one["loss"], one["held_out"]], abs=0.05)
    assert losses[0] != pytest.approx(one["loss"][0], abs=LOSS)


@pytest.mark.parametrize("ranks", [2, 3])
def test_sliding_windows_reach_back_over_the_cuts_between_ranks(ranks):
    layers = ("hybrid_sliding", "hybrid")
    check({"cp": ranks}, "straddling", count=1, layer_types=layers, sliding_window=9)


@pytest.mark.parametrize("mesh", [{"ep": 2}, {"cp": 2}])
def test_widths_that_no_grouped_product_takes_are_no_obstacle(mesh):
    check(mesh, "straddling", count=1, moe_intermediate_size=6)


@pytest.mark.parametrize(("mesh", "name"), [({"dp_shard": 2}, "one"), ({"cp": 2}, "straddling")])
def test_biases_that_move_by_distance_see_the_tokens_of_all_ranks(mesh, name):
    """And no padding, of which one of the ranks has nothing else in the first case."""
    slow = OptimConfig(muon=MuonConfig(router_rate=0.25, arithmetic="float32"))
    check(
        mesh,
        name,
        count=1,
        settings=replace(SETTINGS, balance=BalanceConfig(method="distance"), optim=slow),
    )


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"dp_shard": 2}, {"ep": 2}, {"cp": 2}])
def test_layers_that_are_computed_again_change_nothing(mesh):
    """Activation checkpointing repeats the exchanges in the backward pass."""
    one, two = (
        spawn(on_mesh, 2, mesh, straddling, 1, SETTINGS, again)[0] for again in (False, True)
    )
    assert one["loss"] == two["loss"]
    assert all(torch.equal(t, two["gradients"][n]) for n, t in one["gradients"].items())


ALL = [
    {"dp_shard": 2},
    {"dp_shard": 3},
    {"dp_replicate": 2},
    {"dp_replicate": 2, "dp_shard": 2},
    {"ep": 2},
    {"ep": 4},
    {"cp": 2},
    {"cp": 3},
    {"cp": 4},
    {"dp_shard": 2, "ep": 2},
    {"dp_shard": 2, "cp": 2},
    {"ep": 2, "cp": 2},
    {"dp_replicate": 2, "ep": 2},
    {"dp_replicate": 2, "cp": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mesh", ALL, ids=lambda mesh: str(MeshConfig(**mesh)))
def test_every_mesh_of_up_to_four_equals_one_process_for_three_steps(mesh, name):
    check(mesh, name, count=3)
