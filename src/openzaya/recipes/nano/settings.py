"""The record that a supervised nano stage is: what to write, what to train."""

from dataclasses import dataclass

from openzaya.recipes.nano.corpus import CorpusConfig
from openzaya.train.stages import StageConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedStage:
    """A corpus and the training on it; each source weighs as many tokens as it has."""

    corpus: CorpusConfig
    """Documents, before AP-trimming to the stage's context."""
    train: StageConfig
    """Context, rotary base, steps, optimizer."""


TOKENS_PER_STEP = 8_192
"""All supervised stages; constant while the context grows, as in the paper."""
