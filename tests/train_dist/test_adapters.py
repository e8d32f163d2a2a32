"""Adapters on several ranks: one process's steps, a base that stays, files that stand alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from ranks import GRADIENT, LOSS, WEIGHT, largest, prepared, spawn, steps, straddling
from safetensors.torch import load_file
from tiny_training import stage, tiny_model, windows_of

from openzaya.core.errors import CheckpointError, ConfigError, OpenZayaError
from openzaya.model.adapter_files import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from openzaya.model.balance import BalanceConfig
from openzaya.model.checkpoint import load
from openzaya.model.lora import ATTENTION, LoraConfig, add_lora, merge_lora
from openzaya.optim import OptimConfig
from openzaya.recipes.nano.vocabulary import build_tokenizer
from openzaya.train import ckpt
from openzaya.train.distributed import launch
from openzaya.train.distributed.cluster import Cluster
from openzaya.train.distributed.inputs import adapt, lora_of
from openzaya.train.distributed.mesh import MeshConfig, Ranks
from openzaya.train.loop import run_stage
from openzaya.train.saver import Saving

BOTH = LoraConfig(rank=3, targets=("attention", "experts"))
"""A rank that two ranks cannot divide evenly."""
TWO = {"dp_shard": 2}
SETTINGS = stage(
    micro_tokens=70, balance=BalanceConfig(learning_rate=0.0), optim=OptimConfig(lr_adamw=0.01)
)


def adapted(lora=BOTH, **changes):
    """Return a tiny model whose biases are not the balancer's, with adapters."""
    model = tiny_model(**changes)
    for bias in model.router_biases():
        bias[0] += 0.25
    add_lora(model, lora, seed=5)
    return model


def on_ranks(rank, mesh, changes):
    """Train three steps; the first rank returns what it got."""
    ranks = Ranks(MeshConfig(**mesh))
    got = steps(lambda m: Cluster(m, ranks), straddling, 3, adapted(**changes), SETTINGS)
    return got if rank == 0 else None


@pytest.mark.parametrize(
    ("mesh", "changes"),
    [
        (TWO, {}),
        (TWO, {"num_experts": 1}),  # whose rows are divided
        ({"ep": 2}, {}),
        ({"cp": 2}, {}),
        ({"dp_replicate": 2}, {}),
    ],
)
def test_two_processes_train_the_adapters_of_one_and_leave_the_base(mesh, changes):
    one = steps(lambda _model: None, straddling, 3, adapted(**changes), SETTINGS)
    two = spawn(on_ranks, 2, mesh, changes)[0]
    assert two["loss"] == pytest.approx(one["loss"], abs=LOSS)
    assert two["norm"] == pytest.approx(one["norm"], abs=GRADIENT)
    assert two["gradients"].keys() == one["gradients"].keys()
    assert all(".lora_" in name for name in two["gradients"])
    assert largest(one["gradients"], two["gradients"]) < GRADIENT
    assert largest(one["weights"], two["weights"]) < WEIGHT
    for name, tensor in adapted(**changes).named_parameters():
        assert torch.equal(two["weights"][name], tensor) == (".lora_" not in name), name


def train(rank, mesh, folder, last=0, base="base", lora=BOTH):
    """Train the tiny stage, or its first steps; return why it is refused."""

    class Stopped(Exception):
        """The run ends here."""

    def stop(state, _report):
        if state.step == last:
            raise Stopped

    model = adapted(lora) if lora else tiny_model()
    extra = {} if mesh is None else {"parallel": Cluster(model, Ranks(MeshConfig(**mesh)))}
    try:
        run_stage(
            model, SETTINGS, windows_of, folder, on_step=stop, saving=Saving(base=base), **extra
        )
    except Stopped:
        return ""
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on two ranks that nobody disturbed, and one that ended after its first checkpoint."""
    root = tmp_path_factory.mktemp("runs")
    spawn(train, 2, TWO, root / "whole")
    spawn(train, 2, TWO, root / "cut", 4)
    return root


def test_checkpoints_hold_adapters_and_their_optimizer_alone(runs):
    end = ckpt.load_newest(runs / "whole")
    kept = {name.rpartition(".")[2] for name in end.part("model")}
    assert kept == {"lora_a", "lora_b", "balancing_biases"}
    moved = {name.rpartition("/")[0] for name in end.part("optim") if "/" in name}
    assert moved - {"muon"} == {f"adamw/{n}" for n in end.part("model") if ".lora_" in n}


@pytest.mark.parametrize("mesh", [TWO, None, {"dp_shard": 3}, {"ep": 2}])
def test_any_number_of_ranks_goes_on_with_the_adapters(runs, tmp_path, mesh):
    folder = tmp_path / "run"
    shutil.copytree(runs / "cut", folder)
    size = 1 if mesh is None else MeshConfig(**mesh).size
    errors = [train(0, None, folder)] if mesh is None else spawn(train, size, mesh, folder)
    assert not any(errors)
    whole, end = (ckpt.load_newest(f).tensors for f in (runs / "whole", folder))
    assert end.keys() == whole.keys()
    if mesh == TWO:
        assert all(torch.equal(end[name], t) for name, t in whole.items())
    weights = [{k: t for k, t in found.items() if ".lora_" in k} for found in (whole, end)]
    assert largest(*weights) < WEIGHT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "other"}, "give the model that they were trained on"),
        ({"lora": LoraConfig(rank=4)}, "model.lora.rank: 3 -> 4"),
        (
            {"lora": LoraConfig(rank=3, alpha=1, targets=BOTH.targets)},
            "model.lora.alpha: 32.0 -> 1",
        ),
        ({"lora": None, "base": ""}, "holds adapters alone"),
    ],
)
def test_another_base_and_other_adapters_are_refused_by_all(runs, tmp_path, changes, message):
    shutil.copytree(runs / "cut", tmp_path / "run")
    arguments = {"last": 0, "base": "base", "lora": BOTH} | changes
    errors = spawn(train, 2, TWO, tmp_path / "run", *arguments.values())
    assert all(message in error for error in errors), errors


def go(rank, folder, out, words):
    """Run the command on one rank; return why it is refused."""
    del rank
    files = ["--config", f"{folder}/stage.toml", "--data", f"{folder}/data", "--out", out]
    try:
        launch.train(launch.parser().parse_args([*files, *words]), torch.device("cpu"))
    except OpenZayaError as error:
        return str(error)
    return ""


def test_the_command_writes_the_adapters_apart_and_the_merged_model(tmp_path):
    prepared(tmp_path)
    base = tiny_model(1, vocabulary=build_tokenizer().vocab_size, max_position_embeddings=256)
    for bias in base.router_biases():
        bias[0] += 0.25
    base.save(tmp_path / "base")
    build_tokenizer().save(tmp_path / "base")
    words = ["--model", f"{tmp_path}/base", "--export", f"{tmp_path}/model", "--lora", "3"]
    words += ["--set", "lora_targets=attention,experts", "--set", "lora_alpha=6"]
    one, out = f"{tmp_path}/one", f"{tmp_path}/two"
    assert spawn(go, 1, tmp_path, one, words) == [""]
    assert spawn(go, 2, tmp_path, out, words) == ["", ""]
    saved = [load_file(f"{run}/adapter/{WEIGHTS_FILE}") for run in (one, out)]
    assert largest(*saved) < WEIGHT
    raw = json.loads(Path(out, "adapter", CONFIG_FILE).read_text())
    assert (raw["r"], raw["lora_alpha"]) == (3, 6.0)
    assert raw["base_model_name_or_path"] == str(tmp_path / "base")
    base, merged = load(tmp_path / "base"), load(tmp_path / "model")
    before = {name: t.clone() for name, t in base.state_dict().items()}
    load_adapter(base, f"{out}/adapter")
    merge_lora(base)
    for name, tensor in merged.state_dict().items():
        is_adapted = ".experts." in name or name.removesuffix(".weight").endswith(ATTENTION)
        assert torch.equal(tensor, base.state_dict()[name]), name
        assert torch.equal(tensor, before[name]) == (not is_adapted), name


def test_what_makes_no_sense_is_refused(tmp_path):
    words = ["--data", "d", "--out", "o", "--config", "c", "--model", "xs"]
    with pytest.raises(ConfigError, match="xs names fresh weights; give the folder"):
        adapt(tiny_model(), launch.parser().parse_args([*words, "--lora", "2"]), stage())
    onto = [*words[:-1], str(tmp_path), "--lora", "2", "--export", str(tmp_path)]
    with pytest.raises(ConfigError, match="would replace the model that the adapters belong to"):
        adapt(tiny_model(), launch.parser().parse_args(onto), stage())
    with pytest.raises(ConfigError, match="add --lora RANK"):
        lora_of(launch.parser().parse_args([*words, "--set", "lora_alpha=2"]))
    with pytest.raises(ConfigError, match="rank is 0"):
        lora_of(launch.parser().parse_args([*words, "--lora", "0"]))
