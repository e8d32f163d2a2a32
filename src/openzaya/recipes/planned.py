"""Which recipes can be planned, and what their phases ask of a plan."""

import difflib
from collections.abc import Sequence

from openzaya.core.config import resolve
from openzaya.core.errors import ConfigError
from openzaya.model.config import ZayaConfig
from openzaya.model.presets import preset
from openzaya.recipes.nano.speedrun import SpeedrunConfig
from openzaya.recipes.planner.layout import Workload
from openzaya.recipes.zaya1_8b.recipe import Zaya1Recipe
from openzaya.train.stages import StageConfig

RECIPES = ("nano", "zaya1_8b")


def planned(
    name: str, toml_paths: Sequence[str], assignments: Sequence[str]
) -> tuple[ZayaConfig, list[Workload]]:
    """Return the model's shape and the supervised phases of a recipe with overrides.

    Reinforcement learning is left out: its time is decoding, which the phases do not describe.
    Raises ConfigError for a recipe or a setting that does not exist.
    """
    if name == "zaya1_8b":
        return _zaya1(toml_paths, assignments)
    if name == "nano":
        return _nano(toml_paths, assignments)
    near = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(RECIPES)}"
    raise ConfigError(f"no recipe is called {name!r}; {hint}")


def workload(stage: StageConfig, context_parallel: int = 1) -> Workload:
    """Return a stage as planning sees it."""
    return Workload(
        name=stage.name,
        steps=stage.steps,
        tokens_per_step=stage.tokens_per_step,
        context_tokens=stage.context_tokens,
        micro_tokens=stage.micro_tokens,
        context_parallel=context_parallel,
    )


def _zaya1(
    toml_paths: Sequence[str], assignments: Sequence[str]
) -> tuple[ZayaConfig, list[Workload]]:
    recipe = resolve(Zaya1Recipe(), toml_paths, assignments)
    works = [workload(phase.train, phase.context_parallel) for phase in recipe.phases]
    return preset(recipe.model), works


def _nano(
    toml_paths: Sequence[str], assignments: Sequence[str]
) -> tuple[ZayaConfig, list[Workload]]:
    config = resolve(SpeedrunConfig(), toml_paths, assignments)
    stages = (config.pretrain, config.midtrain, config.sft)
    return preset("nano"), [workload(stage.train) for stage in stages]
