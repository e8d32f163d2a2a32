"""The whole nano recipe with a step or two a stage: all stages, the report, and going on."""

import shutil
from dataclasses import replace
from itertools import pairwise

import pytest

from openzaya.core.config import resolve
from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.checkpoint import load
from openzaya.recipes.nano import evaluation
from openzaya.recipes.nano.report import STAGES, report_card
from openzaya.recipes.nano.speedrun import Speedrun, SpeedrunConfig, speedrun
from openzaya.recipes.nano.tasks import LEVELS, held_out
from openzaya.train.lock import RunLock

pytestmark = pytest.mark.slow
SUPERVISED = STAGES[:3]
CHANGES = [
    *(f"{name}.train.steps=2" for name in SUPERVISED),
    *(f"{name}.corpus.trace_tokens=20_000" for name in SUPERVISED),
    "pretrain.corpus.fact_tokens=4_000",
    "midtrain.corpus.fact_tokens=4_000",
    "sft.corpus.fact_tokens=0",
    "sft.corpus.aggregation_tokens=4_000",
    "rl.train.steps=2",
    "rl.train.prompts_per_step=6",
    "rl.train.group_size=4",
    "rl.train.max_response_tokens=32",
    "rl.train.min_groups=1",
    "rl.train.checkpoint_every_steps=1",
    "ttc.num_candidates=2",
    "ttc.tails_per_prompt=2",
    "ttc.budget_tokens=32",
    "ttc.tail_tokens=8",
    "eval_samples=1",
    "ttc_per_task=1",
]
CONFIG = resolve(SpeedrunConfig(), [], CHANGES)


@pytest.fixture(scope="module")
def few_problems():
    """Examine on two problems of every task: one of each level."""
    items = held_out()
    chosen = tuple(items[i] for i in range(0, len(items), len(items) // (2 * len(LEVELS))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "held_out", lambda: chosen)
        patch.setattr(evaluation, "EvalConfig", short)
        yield


def short(**settings):
    from openzaya.eval.rollouts import EvalConfig

    return EvalConfig(max_tokens=24, **settings)


@pytest.fixture(scope="module")
def run(few_problems, tmp_path_factory):
    """Run once and return the folder, the report and what was said."""
    folder = tmp_path_factory.mktemp("speedrun")
    said = []
    return folder, speedrun(folder, CONFIG, said.append), said


def test_every_stage_is_trained_examined_and_reported(run):
    folder, report, said = run
    assert [line for line in said if "started" in line] == [f"{name}: started" for name in STAGES]
    assert list(report["stages"]) == list(STAGES)
    for name, result in report["stages"].items():
        for kind in ("temperature 1", "greedy"):
            assert set(LEVELS) < set(result["pass@1"][kind]["hard"])
        if name in SUPERVISED:
            assert result["tokens"] == 2 * CONFIG.pretrain.train.tokens_per_step
            assert all(loss > 0 for loss in result["loss by source"].values())
    assert "aggregation" in report["stages"]["sft"]["loss by source"]
    assert len(report["stages"]["rl"]["reward by step"]) == 2
    card = (folder / "REPORT.md").read_text()
    assert card == report_card(report)
    score, error = report["stages"]["sft"]["pass@1"]["temperature 1"]["easy"]["all"]
    assert f"| sft | {score:.3f} +- {error:.3f} |" in card
    assert (folder / "load_entropy.svg").is_file()
    final, last = (load(path / "model").state_dict() for path in (folder, folder / "rl"))
    assert all(bool((final[name] == last[name]).all()) for name in last)


def distance(one, other):
    """Return how far the parameters of two models are apart."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum(float((a - b).detach().square().sum()) for a, b in pairs)


def test_each_stage_starts_from_the_weights_that_the_one_before_left(run):
    """A stage that started afresh would end nearer to fresh weights than to those before it."""
    folder, *_ = run
    fresh = Speedrun(folder, CONFIG, print).fresh_model()
    models = [load(folder / name / "model") for name in STAGES]
    assert distance(fresh, models[0]) > 0
    for before, after in pairwise(models):
        assert distance(before, after) < distance(fresh, after)
    for before, after in pairwise(models[:3]):  # RL may find no group with contrast
        assert distance(before, after) > 0


def test_a_run_goes_on_with_the_first_stage_that_is_not_finished(run, tmp_path):
    folder, report, _ = run
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    said = []
    assert speedrun(again, CONFIG, said.append) == report
    assert not any("started" in line for line in said)
    shutil.rmtree(again / "rl")
    (again / "ttc.json").unlink()
    said.clear()
    once_more = speedrun(again, CONFIG, said.append)
    assert [line for line in said if "started" in line] == ["rl: started"]
    assert once_more["test-time compute"] == report["test-time compute"]
    ours, theirs = (each["stages"]["rl"] for each in (once_more, report))
    assert ours["reward by step"] == theirs["reward by step"]
    assert ours["pass@1"] == theirs["pass@1"]


def test_a_folder_of_other_settings_is_refused(run):
    folder, *_ = run
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        speedrun(folder, replace(CONFIG, seed=1))


def test_settings_that_change_no_number_may_change(run, tmp_path):
    folder, report, _ = run
    shutil.copytree(folder, tmp_path / "again")
    changes = ["pretrain.train.recompute=true", "rl.train.score_limit_s=900"]
    again = speedrun(tmp_path / "again", resolve(CONFIG, [], changes))
    assert again["stages"] == report["stages"]


def test_a_second_run_in_the_folder_is_refused_whatever_the_first_does_and_changes_nothing(run):
    folder, *_ = run
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with RunLock(folder):
        before[folder / "LOCK"] = (folder / "LOCK").read_bytes()
        with pytest.raises(CheckpointError, match="is in use by pid"):
            speedrun(folder, CONFIG)
        assert {p: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
