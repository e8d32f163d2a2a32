"""Dynamic sampling: only groups with contrast carry a gradient."""

from torch import Tensor


def informative_groups(rewards_QG: Tensor, tolerance: float = 1e-6) -> Tensor:
    """Return [Q]: True where the rewards of a group differ.

    Judge the task reward after the canary and before any length bonus. For binary rewards this
    is 0 < solve rate < 1; for continuous ones the standard deviation must exceed `tolerance`.
    Refilling dropped groups multiplies a prompt's weight by 1 / P(kept), which is part of the
    method and is not corrected.

    Paper: IV-B1(d).
    Source: arXiv:2503.14476, section 3.2.
    """
    return rewards_QG.std(dim=1, correction=0) > tolerance
