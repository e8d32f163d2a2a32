"""Named random streams: every draw is a pure function of (run seed, names, counters).

No code in openzaya touches the global generators. Resuming a run is asking for the same stream.
"""

from hashlib import blake2b
from random import Random

import numpy as np


def stream_seed(run_seed: int, *names: str | int) -> int:
    """Return the 63-bit seed of the stream that `names` denote, such as ("rl", "rollout", 7)."""
    digest = blake2b(repr((run_seed, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(run_seed: int, *names: str | int) -> Random:
    """Return the standard-library generator of a named stream."""
    return Random(stream_seed(run_seed, *names))


def numpy_stream(run_seed: int, *names: str | int) -> np.random.Generator:
    """Return the numpy generator of a named stream."""
    return np.random.Generator(np.random.Philox(stream_seed(run_seed, *names)))
