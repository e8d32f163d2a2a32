"""Test-time compute: Markovian RSA and its special cases, over any `Sampler`. Torch-free."""

from openzaya.ttc.budget import Preview, Usage, preview
from openzaya.ttc.events import (
    CandidateDone,
    CandidateProgress,
    CandidateStarted,
    Event,
    OnEvent,
    Recorded,
    RunDone,
    RunStarted,
    StageDone,
)
from openzaya.ttc.markovian_rsa import MarkovianRSA
from openzaya.ttc.place import Place
from openzaya.ttc.result import Candidate, Result, Round
from openzaya.ttc.selection import extract_answer, majority
from openzaya.ttc.strategies import (
    DEFAULT_PRESET,
    MarkovianRSAConfig,
    Strategy,
    config_from,
    preset,
    presets,
    strategies,
)

__all__ = [
    "DEFAULT_PRESET",
    "Candidate",
    "CandidateDone",
    "CandidateProgress",
    "CandidateStarted",
    "Event",
    "MarkovianRSA",
    "MarkovianRSAConfig",
    "OnEvent",
    "Place",
    "Preview",
    "Recorded",
    "Result",
    "Round",
    "RunDone",
    "RunStarted",
    "StageDone",
    "Strategy",
    "Usage",
    "config_from",
    "extract_answer",
    "majority",
    "preset",
    "presets",
    "preview",
    "strategies",
]
