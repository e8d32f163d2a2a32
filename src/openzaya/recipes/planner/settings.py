"""What `openzaya plan --set` changes beside the recipe."""

from dataclasses import dataclass, field
from typing import Literal

Checkpointing = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutSettings:
    """Choices of the layout that have no flag."""

    checkpointing: Checkpointing = "auto"
    """Keep only layers' inputs: on, off, or auto = what is faster among what fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSettings:
    """What serving is planned with."""

    context_tokens: int = 32_768
    """Length of every sequence; a model with a shorter context uses its own."""
    weights: tuple[str, ...] = ("bf16", "int8", "int4")
    """Formats to compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSettings:
    """Settings by dotted path: `layout.checkpointing`, `serve.context_tokens`."""

    layout: LayoutSettings = field(default_factory=LayoutSettings)
    """How a step is spread."""
    serve: ServeSettings = field(default_factory=ServeSettings)
    """What is served."""
