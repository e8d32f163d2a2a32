"""The full-size recipe as one tree of settings."""

from dataclasses import dataclass, field

from openzaya.recipes.zaya1_8b import s1_pretrain, s2_midtrain, s3_sft
from openzaya.recipes.zaya1_8b.settings import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Zaya1Recipe:
    """All supervised phases; `--set midtrain.train.steps=1000` changes a leaf.

    Paper: III, IV-A.
    """

    model: str = "zaya1-8b"
    """Preset of the model's shape."""
    pretrain1: Phase = field(default_factory=s1_pretrain.phase_1)
    """Broad data at 4K."""
    pretrain2: Phase = field(default_factory=s1_pretrain.phase_2)
    """More code, mathematics and reasoning at 4K."""
    midtrain: Phase = field(default_factory=s2_midtrain.phase)
    """Long chains of thought at 32K."""
    sft: Phase = field(default_factory=s3_sft.phase)
    """Chat, tools and aggregation at 131K."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases in their order."""
        return (self.pretrain1, self.pretrain2, self.midtrain, self.sft)
