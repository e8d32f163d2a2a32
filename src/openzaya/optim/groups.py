"""Which optimizer owns which parameter: an ordered table of rules that claims each exactly once."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from openzaya.core.errors import ConfigError

Owner = Literal["muon", "adamw"]
Layout = Literal["vector", "matrix", "stack", "grouped_conv"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Parameters whose name and number of axes match belong to `owner`."""

    pattern: str
    """Regular expression, searched in the full parameter name."""
    num_axes: tuple[int, ...]
    """Numbers of axes that the rule accepts."""
    owner: Owner
    layout: Layout
    """How Muon reads it: matrix [I, O], stack [E, I, O], or grouped_conv [C, P, taps]."""
    decay: bool = False
    """True for decoupled weight decay."""
    is_router: bool = False
    """True for the matrices that choose experts; see `MuonConfig.router_rate`."""


RULES: tuple[Rule, ...] = (
    # The factors of an adapter are no matrices of the model: only their product is.
    Rule(r"\.lora_[ab]$", (2, 3), "adamw", "vector"),
    # Rows of an embedding are touched one by one; orthogonalizing them would mix tokens.
    Rule(r"(^|\.)(embed|embed_tokens|embedding|lm_head|head)\.weight$", (2,), "adamw", "vector"),
    # Depthwise taps [C, 1, taps] hold no matrix; grouped ones hold a matrix per head.
    Rule(r"conv\w*(\.\d+)?\.weight$|conv\w*_weight$", (3,), "muon", "grouped_conv", decay=True),
    Rule(r"conv\w*(\.\d+)?\.weight$|conv\w*_weight$", (2,), "adamw", "vector"),
    # Norm gains, biases, residual scales, key temperature, depth-averaging scale.
    Rule(r".", (0, 1), "adamw", "vector"),
    Rule(r"expert", (3,), "muon", "stack", decay=True),
    Rule(r"\.mlp\.gate\.", (2,), "muon", "matrix", decay=True, is_router=True),
    Rule(r".", (2,), "muon", "matrix", decay=True),
)
"""The first rule that matches claims the parameter.

Paper: IV-B1(e) (AdamW for embedding and head), III.
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """One parameter with its rule."""

    name: str
    parameter: nn.Parameter
    """What the optimizer moves: the model's parameter, or a master copy of it."""
    rule: Rule
    source: nn.Parameter | None = None
    """The model's parameter where `parameter` is a copy; the gradient arrives there."""

    @property
    def grad(self) -> Tensor | None:
        """The gradient, in the model's dtype; None when there is none."""
        return (self.parameter if self.source is None else self.source).grad

    def matrices(self, tensor: Tensor) -> Tensor:
        """Return a tensor shaped like the parameter as [N, I, O] without copying."""
        if self.rule.layout == "matrix":
            return tensor.unsqueeze(0)
        if self.rule.layout == "stack":
            return tensor
        channels, inputs, taps = tensor.shape
        return tensor.view(channels // inputs, inputs, inputs * taps)


def claim_parameters(
    named: Iterable[tuple[str, nn.Parameter]], rules: tuple[Rule, ...] = RULES
) -> list[Claim]:
    """Return one claim per trainable parameter, in the order given.

    Parameters with requires_grad=False are left out. Raises ConfigError for a parameter that no
    rule matches, and for a name that comes twice.
    """
    claims: list[Claim] = []
    seen: set[str] = set()
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        if name in seen:
            raise ConfigError(f"parameter {name!r} is named twice; every parameter needs one owner")
        seen.add(name)
        claims.append(Claim(name, parameter, rule_for(name, parameter, rules)))
    return claims


def rule_for(name: str, parameter: Tensor, rules: tuple[Rule, ...]) -> Rule:
    """Return the first rule that matches; raise ConfigError when none does."""
    for rule in rules:
        if parameter.ndim not in rule.num_axes or not re.search(rule.pattern, name):
            continue
        if rule.layout == "grouped_conv" and parameter.shape[1] == 1:
            return Rule(rule.pattern, rule.num_axes, "adamw", "vector")
        if rule.layout == "grouped_conv" and parameter.shape[0] % parameter.shape[1]:
            continue
        return rule
    raise ConfigError(
        f"no optimizer rule claims parameter {name!r} of shape {tuple(parameter.shape)}; "
        "add a Rule for it to openzaya.optim.groups.RULES"
    )
