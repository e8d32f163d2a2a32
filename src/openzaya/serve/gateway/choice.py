"""Which model a request means, and which test-time compute: by the model's name or by `ttc`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, cast

from openzaya.core.coerce import grow, plant
from openzaya.core.errors import ConfigError
from openzaya.serve.errors import ApiError, bad_request
from openzaya.serve.gateway.schema import TtcAsk
from openzaya.serve.schema import reader
from openzaya.ttc import DEFAULT_PRESET, MarkovianRSAConfig, presets
from openzaya.ttc.strategies import delethink, pacore_hybrid, rsa

PREFIX = "mrsa-"
Lay = Callable[[MarkovianRSAConfig], MarkovianRSAConfig]
STRATEGIES: Mapping[str, Lay] = {"rsa": rsa, "delethink": delethink, "hybrid": pacore_hybrid}
"""Strategies by name: what each one changes in a preset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a request asks for."""

    model: str
    """The model that generates."""
    shown: str
    """The name that the client gave."""
    config: MarkovianRSAConfig | None = None
    """How to run; None passes the request through."""
    preset: str = ""
    strategy: str = ""
    options: TtcAsk = field(default_factory=TtcAsk)
    """Everything else that `ttc` says."""


def names_of(model: str) -> list[str]:
    """Return the names under which a model's presets are served."""
    return [f"{model}:{PREFIX}{name}" for name in presets]


def choose(body: Mapping[str, Any], models: Sequence[str]) -> Choice:
    """Return what a body asks for by `model` and `ttc`.

    Raises ApiError 404 for a model that is not served, 400 for settings that do not fit.
    """
    shown = body.get("model")
    if not isinstance(shown, str) or not shown:
        raise bad_request("model: a name is needed; see GET /v1/models", "model")
    model, named = split_name(shown, models)
    wanted = body.get("ttc")
    if wanted is False or (wanted is None and not named):
        return Choice(model=model, shown=shown)
    if wanted is not None and not isinstance(wanted, dict):
        raise bad_request("ttc: expected false or an object such as {\"preset\": \"16k\"}", "ttc")
    options = reader(TtcAsk)(dict(wanted or {}))
    preset = options.preset or named or DEFAULT_PRESET
    try:
        config = configure(preset, options)
    except ConfigError as error:
        raise bad_request(f"ttc: {str(error).removeprefix('ttc: ')}", "ttc") from None
    return Choice(
        model=model,
        shown=shown,
        config=config,
        preset=preset.removeprefix(PREFIX),
        strategy=options.strategy or "",
        options=options,
    )


def split_name(shown: str, models: Sequence[str]) -> tuple[str, str]:
    """Return the model and the preset that a name means; the preset is empty in a plain name.

    Raises ApiError 404 for a name that means none.
    """
    if shown in models:
        return shown, ""
    model, _, suffix = shown.rpartition(":")
    if model in models and suffix.removeprefix(PREFIX) in presets:
        return model, suffix.removeprefix(PREFIX)
    known = [*models, *(name for model in models for name in names_of(model))]
    near = get_close_matches(shown[:200], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see GET /v1/models"
    raise ApiError(
        404,
        f"this server has no model of that name; {hint}",
        param="model",
        code="model_not_found",
    )


def configure(name: str, options: TtcAsk) -> MarkovianRSAConfig:
    """Return the settings of a preset with the strategy and the single settings laid over it.

    As on the command line, C follows a smaller N, and a new beta is the budget of the last stage
    too unless that is given, with a tail no longer than it. Raises ConfigError.
    """
    plain = name.removeprefix(PREFIX)
    if plain not in presets:
        raise ConfigError(f"there is no preset {name!r}; {_near(plain, presets)}")
    base = presets[plain]
    if options.strategy:
        if options.strategy not in STRATEGIES:
            raise ConfigError(
                f"there is no strategy {options.strategy[:80]!r}; "
                f"{_near(options.strategy, STRATEGIES)}"
            )
        base = STRATEGIES[options.strategy](base)
    changes = dict(options.model_extra or {})
    known = {field.name for field in fields(MarkovianRSAConfig)}
    for unknown in sorted(set(changes) - known):
        raise ConfigError(f"there is no setting {unknown[:80]!r}; {_near(unknown, known)}")
    if isinstance(count := changes.get("num_candidates"), int):
        changes.setdefault("tails_per_prompt", max(1, min(base.tails_per_prompt, count)))
    if isinstance(budget := changes.get("budget_tokens"), int):
        changes.setdefault("final_budget_tokens", None)
        changes.setdefault("tail_tokens", max(1, min(base.tail_tokens, budget)))
    return cast(
        MarkovianRSAConfig, grow(MarkovianRSAConfig, plant(_words(changes), "ttc"), "", base)
    )


def _words(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Write null as the word that settings know."""
    return {name: "none" if value is None else value for name, value in changes.items()}


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = get_close_matches(name[:80], names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
