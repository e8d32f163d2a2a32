"""Muon for matrices, AdamW for the rest: who owns which parameter, and the schedule."""

from openzaya.optim.muon import Muon, MuonConfig
from openzaya.optim.newton_schulz import newton_schulz
from openzaya.optim.optimizers import OptimConfig, Optimizers, build_optimizer
from openzaya.optim.schedule import Schedule, lr_scale

__all__ = [
    "Muon",
    "MuonConfig",
    "OptimConfig",
    "Optimizers",
    "Schedule",
    "build_optimizer",
    "lr_scale",
    "newton_schulz",
]
