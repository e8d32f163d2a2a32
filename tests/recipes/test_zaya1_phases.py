"""The full-size phases say what the paper's tables say, and can be overridden by path."""

import pytest

from openzaya.core.config import dump_toml, from_mapping, resolve
from openzaya.core.errors import ConfigError
from openzaya.optim import lr_scale
from openzaya.recipes.zaya1_8b.recipe import Zaya1Recipe

RECIPE = Zaya1Recipe()


def test_contexts_bases_tokens_and_ranks_are_those_of_the_tables():
    found = [
        (p.train.context_tokens, p.train.rope_theta, p.context_parallel) for p in RECIPE.phases
    ]
    assert found == [(4096, 1e4, 1), (4096, 1e4, 1), (32768, 1e6, 2), (131072, 5e6, 8)]
    for phase, tokens in zip(RECIPE.phases, (8e12, 4e12, 1.2e12, 660e9), strict=True):
        assert tokens <= phase.tokens < tokens + 4096 * 4096


def test_the_steps_are_those_that_the_papers_figures_imply():
    """12T tokens at 16,777,216 a step are about 715,000 steps."""
    assert RECIPE.pretrain1.train.steps == 476_838
    assert RECIPE.pretrain2.train.steps == 238_419


def test_published_mixtures_add_up_to_the_whole_and_unpublished_ones_are_empty():
    assert RECIPE.pretrain1.mixture == RECIPE.pretrain2.mixture == {}
    assert RECIPE.midtrain.mixture["long_cot"] == 86.1
    assert RECIPE.sft.mixture["natively_long"] == 6.4
    for phase in (RECIPE.midtrain, RECIPE.sft):
        assert sum(phase.mixture.values()) == pytest.approx(100.0)
        assert sum(phase.weights.values()) == pytest.approx(1.0)


def test_the_rate_is_continuous_from_midtraining_to_sft():
    mid, sft = RECIPE.midtrain.train, RECIPE.sft.train
    end = mid.optim.muon.lr * lr_scale(mid.steps, mid.schedule)
    assert end == pytest.approx(sft.optim.muon.lr)
    assert sft.optim.lr_adamw == pytest.approx(sft.optim.muon.lr)
    for phase in (RECIPE.pretrain1, RECIPE.pretrain2):
        assert lr_scale(phase.train.steps - 1, phase.train.schedule) == 1.0


def test_settings_are_overridden_by_path_and_unknown_ones_are_refused():
    changed = resolve(RECIPE, [], ["sft.mixture.code=8", "pretrain1.train.steps=10"])
    assert changed.sft.mixture == {**RECIPE.sft.mixture, "code": 8.0}
    assert changed.pretrain1.tokens == 10 * 4096 * 4096
    with pytest.raises(ConfigError, match="did you mean 'mixture'"):
        resolve(RECIPE, [], ["sft.mixtur.code=8"])
    with pytest.raises(ConfigError, match="kinds among long_cot"):
        resolve(RECIPE, [], ["sft.mixture.poems=8"])


def test_the_recipe_survives_toml():
    import tomllib

    assert from_mapping(Zaya1Recipe, tomllib.loads(dump_toml(RECIPE)), "t.toml") == RECIPE
