"""Strategies as named parameter sets of the one loop, and settings from plain fields.

    config_from({"preset": "16k", "strategy": "hybrid", "num_candidates": 8})

A strategy fixes what makes it that strategy and proposes the rest. Paper: VI-A; VI-C.
Deviation: D-050.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from openzaya.core.errors import ConfigError
from openzaya.ttc.config import MAX_CANDIDATES, MarkovianRSAConfig, field_names
from openzaya.ttc.presets import DEFAULT_PRESET, NANO, preset, presets

__all__ = [
    "CONSENSUS",
    "DEFAULT_PRESET",
    "NANO",
    "MarkovianRSAConfig",
    "Strategy",
    "config_from",
    "preset",
    "presets",
    "strategies",
]

CONSENSUS = 0.95
"""Probability of a majority that ends adaptive sampling. Source: arXiv:2305.11860."""
FIRST_BATCH = 4
"""Fewest samples that can reach CONSENSUS: with three that agree it is 0.94."""

Fields = Mapping[str, Any]


def _nothing(_base: MarkovianRSAConfig, _given: Fields) -> Fields:
    return {}


@dataclass(frozen=True, slots=True)
class Strategy:
    """A named region of the settings: what it fixes, and what it proposes for the rest."""

    name: str
    summary: str
    """One sentence for lists."""
    fixed: Callable[[MarkovianRSAConfig, Fields], Fields] = _nothing
    """Settings that make it this strategy, from the base and the fields that were given."""
    proposed: Callable[[MarkovianRSAConfig, Fields], Fields] = _nothing
    """Settings that it starts from; a given field wins."""


def config_from(fields: Fields, base: MarkovianRSAConfig | None = None) -> MarkovianRSAConfig:
    """Return settings from plain JSON fields, such as the body of a request.

    `preset` and `strategy` name a start (default: `base`, else the recommended preset, which is
    Markovian RSA), `reproduce: true` turns off every switch that the paper does not have, and all
    other fields are those of `MarkovianRSAConfig`. Where beta is given and F is not, F is beta,
    and tau is at most beta. Raises ConfigError that names field, found, expected and cure.
    """
    given = dict(fields)
    for name in given:
        _check_name(name)
    start = _start(given, base)
    chosen = _strategy(given.pop("strategy", None))
    is_reproduction = _switch(given.pop("reproduce", False))
    if "widths" in given and isinstance(given["widths"], list):
        given["widths"] = tuple(given["widths"])
    fixed = chosen.fixed(start, given)
    for name, value in fixed.items():
        if given.get(name, value) != value:
            raise ConfigError(
                f"{name} is {given[name]!r}, but strategy {chosen.name} has {name} = {value!r}; "
                "leave the field out or choose another strategy"
            )
    proposed = dict(_following(start, given)) | dict(chosen.proposed(start, given))
    config = replace(start, **(proposed | given | dict(fixed)))
    return config.reproduce() if is_reproduction else config


def _start(given: dict[str, Any], base: MarkovianRSAConfig | None) -> MarkovianRSAConfig:
    name = given.pop("preset", None)
    if name is None:
        return base or preset(DEFAULT_PRESET)
    if not isinstance(name, str):
        raise ConfigError(f"preset is {name!r}; choose one of {', '.join(presets)}")
    return preset(name)


def _following(start: MarkovianRSAConfig, given: Fields) -> Fields:
    """Settings that follow one that was given: F follows beta, tau stays within it, C within N."""
    changes: dict[str, Any] = {}
    beta, width = given.get("budget_tokens"), given.get("num_candidates")
    if isinstance(beta, int) and not isinstance(beta, bool):
        changes["final_budget_tokens"] = None
        changes["tail_tokens"] = max(1, min(start.tail_tokens, beta))
    if isinstance(width, int) and not isinstance(width, bool):
        changes["tails_per_prompt"] = max(1, min(start.tails_per_prompt, width))
    if isinstance(given.get("widths"), tuple):
        changes["rounds"] = max(0, len(given["widths"]) - 1)
    return changes


def _check_name(name: str) -> None:
    known = ("preset", "strategy", "reproduce", *field_names())
    if name in known:
        return
    near = _LETTERS.get(name) or next(iter(difflib.get_close_matches(name, known, n=1)), None)
    hint = f"did you mean {near!r}?" if near else f"known fields: {', '.join(known)}"
    raise ConfigError(f"there is no field {name!r}; {hint}")


def _strategy(name: object) -> Strategy:
    if name is None:
        return strategies["markovian_rsa"]
    if isinstance(name, str) and name in strategies:
        return strategies[name]
    near = difflib.get_close_matches(str(name), strategies, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(strategies)}"
    raise ConfigError(f"strategy is {name!r}; {hint}")


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"reproduce is {value!r}; choose true or false")
    return value


_LETTERS = {
    "n": "num_candidates",
    "N": "num_candidates",
    "k": "tails_per_prompt",
    "c": "tails_per_prompt",
    "C": "tails_per_prompt",
    "t": "rounds",
    "T": "rounds",
    "loops": "rounds",
    "beta": "budget_tokens",
    "tau": "tail_tokens",
    "F": "final_budget_tokens",
    "max_tokens": "budget_tokens",
}
"""The paper's and other programs' names: not accepted, because peers count T differently."""


def _whole(given: Fields, name: str, base: int) -> int:
    """Return a field that another one is made from; what is wrong with it is said later."""
    value = given.get(name, base)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return max(1, min(value, MAX_CANDIDATES)) if is_whole else base


def _batches(base: MarkovianRSAConfig, given: Fields) -> Fields:
    """Growing batches that add up to N: 4, 4, 8, 16, ..."""
    total = _whole(given, "num_candidates", base.num_candidates)
    widths = given.get("widths")
    if not isinstance(widths, tuple):
        sizes = [min(FIRST_BATCH, total)]
        while sum(sizes) < total:
            sizes.append(min(sum(sizes), total - sum(sizes)))
        widths = tuple(sizes)
    return {
        "widths": widths,
        "rounds": len(widths) - 1,
        "consensus": CONSENSUS,
        "final_candidates": None,
    }


def _pacore(base: MarkovianRSAConfig, given: Fields) -> Fields:
    """One round of N, then a single answer that sees all of them."""
    widths = given.get("widths")
    if not isinstance(widths, tuple):
        widths = (_whole(given, "num_candidates", base.num_candidates), 1)
    seen = [w for w in widths[:-1] if isinstance(w, int)]
    return {
        "widths": widths,
        "rounds": len(widths) - 1,
        "tails_per_prompt": max(seen, default=1),
        "final_candidates": None,
    }


def _rsa(base: MarkovianRSAConfig, given: Fields) -> Fields:
    return {"tail_tokens": given.get("budget_tokens", base.budget_tokens)}


def _hybrid(base: MarkovianRSAConfig, given: Fields) -> Fields:
    # An answer may grow as long as the code block that a tail can keep whole.
    tau = given.get("tail_tokens", base.tail_tokens)
    return {"answer_allowance_tokens": 2 * tau if isinstance(tau, int) else None}


strategies: Mapping[str, Strategy] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Strategy("markovian_rsa", "Think in parallel, keep tails, aggregate, repeat, vote."),
            Strategy(
                "parallel",
                "N independent candidates; any selection may choose among them.",
                fixed=lambda _b, _g: {"rounds": 0},
            ),
            Strategy(
                "self_consistency",
                "N independent candidates and a majority vote.",
                fixed=lambda _b, _g: {"rounds": 0, "select": "majority"},
            ),
            Strategy(
                "adaptive_consistency",
                "Growing batches of independent candidates until a majority is certain.",
                fixed=lambda _b, _g: {"aggregate": False},
                proposed=_batches,
            ),
            Strategy("rsa", "Recursive self-aggregation: whole traces are passed.", fixed=_rsa),
            Strategy(
                "delethink",
                "N chains that each continue from their own tail.",
                fixed=lambda _b, _g: {"tails_per_prompt": 1},
                proposed=lambda _b, _g: {"rounds": 4},
            ),
            Strategy(
                "pacore",
                "Rounds of given widths that pass answers only, each prompt showing all of them.",
                fixed=lambda _b, _g: {"tail_source": "answer"},
                proposed=_pacore,
            ),
            Strategy(
                "hybrid",
                "Finished answers are passed, else the partial reasoning; for code.",
                fixed=lambda _b, _g: {"tail_source": "answer_or_thinking"},
                proposed=_hybrid,
            ),
        )
    }
)
"""All strategies by name. Sources: arXiv:2305.11860, 2509.26626, 2510.06557; PaCoRe."""
