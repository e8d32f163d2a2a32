"""Which model a request means, and which test-time compute: by the model's name or by `ttc`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from openzaya.core.errors import ConfigError
from openzaya.serve.errors import ApiError, bad_request
from openzaya.serve.gateway.schema import TtcAsk
from openzaya.serve.schema import explain
from openzaya.ttc import DEFAULT_PRESET, MarkovianRSAConfig, config_from, presets

PREFIX = "mrsa-"
OPTIONS = frozenset(TtcAsk.model_fields)
"""What `ttc` says beside settings, of which null is a value."""


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
        code = "invalid_value" if "model" in body else "missing_parameter"
        raise bad_request("model: a name is needed; see GET /v1/models", "model", code)
    model, named = split_name(shown, models)
    wanted = body.get("ttc")
    if wanted is False or (wanted is None and not named):
        return Choice(model=model, shown=shown)
    if wanted is not None and not isinstance(wanted, dict):
        raise bad_request('ttc: expected false or an object such as {"preset": "16k"}', "ttc")
    options = read_ttc(wanted or {})
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


def read_ttc(wanted: Mapping[str, Any]) -> TtcAsk:
    """Return the `ttc` field. Raises ApiError 400 for what is refused."""
    given = {name: v for name, v in wanted.items() if v is not None or name not in OPTIONS}
    try:
        return TtcAsk.model_validate(given)
    except ValidationError as error:
        problem = explain(error, TtcAsk)
        raise bad_request(f"ttc.{problem.message}", f"ttc.{problem.param}") from None


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

    Raises ConfigError for what does not exist or does not fit.
    """
    given = dict(options.model_extra or {})
    if options.strategy is not None:
        given["strategy"] = options.strategy
    return config_from({**given, "preset": name.removeprefix(PREFIX)})


def shaped(
    config: MarkovianRSAConfig,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    limit: int | None = None,
    n: int = 1,
    has_form: bool = False,
) -> MarkovianRSAConfig:
    """Return settings with what the plain fields of a request say of them.

    `temperature` and `top_p` hold for every stage, `limit` (max_tokens) for a candidate of the
    last one, and of every one where all of them vote. With tools or a schema (`has_form`) only
    that stage can answer, so nothing ends a run before it. Raises ApiError 400.

    Deviation: D-060.
    """
    changes: dict[str, Any] = {}
    if temperature is not None:
        changes |= {"temperature": temperature, "final_temperature": None}
    if top_p is not None:
        changes["top_p"] = top_p
    if limit is not None:
        changes["final_budget_tokens"] = limit
        if not config.aggregate:
            changes["budget_tokens"] = limit
    if has_form:
        changes |= {"consensus": None, "copy_agreed": False}
    last = config.candidates_at(config.rounds)
    if n > last:
        raise bad_request(
            f"n: {n} choices are wanted, but the last stage has {last} candidates; ask for fewer "
            "or for more candidates",
            "n",
        )
    try:
        return replace(config, **changes)
    except ConfigError as error:
        raise bad_request(f"ttc: {error}", "ttc") from None


def arithmetic(config: MarkovianRSAConfig) -> str:
    """Return how the most tokens that a run may generate add up."""
    terms: list[list[int]] = []
    for stage in range(config.num_stages):
        factors = [1, config.candidates_at(stage), config.budget_at(stage)]
        if terms and terms[-1][1:] == factors[1:]:
            terms[-1][0] += 1
        else:
            terms.append(factors)
    told = [
        f"{stages} x {count} x {budget:,}" if stages > 1 else f"{count} x {budget:,}"
        for stages, count, budget in terms
    ]
    total = sum(stages * count * budget for stages, count, budget in terms)
    return f"{' + '.join(told)} = {total:,}"
