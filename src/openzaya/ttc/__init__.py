"""Test-time compute: Markovian RSA and its special cases, over any `Sampler`. Torch-free."""

from openzaya.ttc.answers import canonical, tool_call_answer
from openzaya.ttc.behaviour import SandboxRuns, VisibleTest
from openzaya.ttc.budget import Preview, Usage, preview
from openzaya.ttc.choosing import Verifier
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
from openzaya.ttc.markovian_rsa import MarkovianRSA, bounds_for
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
    "SandboxRuns",
    "StageDone",
    "Strategy",
    "Usage",
    "Verifier",
    "VisibleTest",
    "bounds_for",
    "canonical",
    "config_from",
    "extract_answer",
    "majority",
    "preset",
    "presets",
    "preview",
    "strategies",
    "tool_call_answer",
]
