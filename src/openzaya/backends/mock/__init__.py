"""A mock upstream for tests and benchmarks of gateways: `python -m openzaya.backends.mock`."""

from openzaya.backends.mock.config import MockConfig
from openzaya.backends.mock.replies import key_of
from openzaya.backends.mock.server import MockUpstream

__all__ = ["MockConfig", "MockUpstream", "key_of"]
