"""Test-time compute: Markovian RSA and its special cases, over any `Sampler`. Torch-free."""

from openzaya.ttc.budget import Preview, Usage, preview
from openzaya.ttc.events import CandidateDone, Event, RunDone, RunStarted, StageDone
from openzaya.ttc.markovian_rsa import MarkovianRSA
from openzaya.ttc.result import Candidate, Result, Round
from openzaya.ttc.selection import extract_answer, majority
from openzaya.ttc.strategies import DEFAULT_PRESET, MarkovianRSAConfig, preset, presets

__all__ = [
    "DEFAULT_PRESET",
    "Candidate",
    "CandidateDone",
    "Event",
    "MarkovianRSA",
    "MarkovianRSAConfig",
    "Preview",
    "Result",
    "Round",
    "RunDone",
    "RunStarted",
    "StageDone",
    "Usage",
    "extract_answer",
    "majority",
    "preset",
    "presets",
    "preview",
]
