"""openzaya: the open, trainable, runnable ZAYA1-8B system (arXiv:2605.05365).

Heavy names are loaded on first use, so that `import openzaya` stays free of torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "load": "openzaya.model.checkpoint",
    "Engine": "openzaya.engine.engine",
    "SamplingParams": "openzaya.engine.request",
}


def __getattr__(name: str) -> Any:
    """Import a public name that needs torch when it is first used."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'openzaya' has no attribute {name!r}")
