"""Detectors of degenerate text in token ids: the LZ77 repetition canary and rare-token share."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openzaya.core.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryConfig:
    """Settings of the compressor; the threshold, level and window are the paper's.

    At level 1 the chunk length decides what is seen: 64 tokens flag loops of every period up to
    190 tokens (the reach of a 1,024-byte window), 256 only periods up to about 10.

    Paper: IV-F(a).
    Deviation: D-010.
    """

    threshold: float = 0.05
    """tau: a chunk that compresses below this ratio flags the rollout."""
    chunk_tokens: int = 64
    """C: tokens between two flushes."""
    level: int = 1
    """Effort of zlib."""
    window_bits: int = -10
    """Window of zlib as a power of two; negative means a raw stream without header."""
    flush_overhead_bytes: int = 5
    """What Z_SYNC_FLUSH adds to an empty chunk; subtracted from every chunk."""

    def __post_init__(self) -> None:
        """Refuse settings that zlib refuses later and less clearly."""
        if self.chunk_tokens < 1 or not 0 < self.threshold < 1:
            raise ConfigError(
                f"canary has chunk_tokens={self.chunk_tokens}, threshold={self.threshold}; "
                "expected >= 1 and a ratio in (0, 1); the paper's threshold is 0.05"
            )
        if not 1 <= self.level <= 9 or not -15 <= self.window_bits <= -9:
            raise ConfigError(
                f"canary has level={self.level}, window_bits={self.window_bits}; expected 1..9 "
                "and -15..-9 (raw deflate); the paper uses 1 and -10"
            )


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """Compression ratio of every chunk of one rollout."""

    ratios: tuple[float, ...]
    """Bytes out (without flush overhead) per byte in; empty for an empty rollout."""
    is_flagged: bool
    """True when some chunk is below the threshold: the task reward becomes 0."""

    @property
    def lowest(self) -> float:
        """The smallest ratio, 1 for an empty rollout."""
        return min(self.ratios, default=1.0)


def _as_int32_bytes(token_ids: Sequence[int] | NDArray[np.int64]) -> bytes:
    """Return the ids as little-endian int32, the width that the defaults were measured with."""
    ids = np.asarray(token_ids, dtype=np.int64)
    if ids.ndim != 1 or (ids.size and not 0 <= ids.min() <= ids.max() < 2**31):
        raise DataError(
            f"token ids have shape {ids.shape} and do not all fit 0..2**31-1; "
            "pass one rollout's generated ids as a flat sequence"
        )
    return ids.astype("<i4").tobytes()


def _chunk_ends(num_tokens: int, chunk_tokens: int) -> list[int]:
    """Return where chunks end; a short last chunk belongs to the one before it."""
    ends = list(range(chunk_tokens, num_tokens + 1, chunk_tokens))
    if not ends:
        return [num_tokens] if num_tokens else []
    ends[-1] = num_tokens
    return ends


def repetition_canary(
    token_ids: Sequence[int] | NDArray[np.int64], config: CanaryConfig | None = None
) -> CanaryReport:
    """Measure how well every chunk compresses given the text before it.

    One compressor runs over the whole rollout, so a chunk that repeats an earlier one is nearly
    free. Pass generated ids only, not the prompt. Costs 40 ms for 81,920 tokens.

    Raises DataError for ids outside int32.

    Paper: IV-F(a).
    Deviation: D-010.
    """
    config = config or CanaryConfig()
    raw = memoryview(_as_int32_bytes(token_ids))
    stream = zlib.compressobj(config.level, zlib.DEFLATED, config.window_bits)
    ratios = []
    start = 0
    for end in _chunk_ends(len(raw) // 4, config.chunk_tokens):
        chunk = raw[4 * start : 4 * end]
        num_bytes = len(stream.compress(chunk)) + len(stream.flush(zlib.Z_SYNC_FLUSH))
        ratios.append((num_bytes - config.flush_overhead_bytes) / len(chunk))
        start = end
    return CanaryReport(tuple(ratios), any(ratio < config.threshold for ratio in ratios))


def rare_token_share(
    token_ids: Sequence[int] | NDArray[np.int64],
    ordinary_ids: range,
    rank_by_id_V: NDArray[np.int64] | None = None,
    shares: tuple[float, ...] = (0.10, 0.05, 0.02, 0.01),
) -> dict[float, float]:
    """Return, for each share s, the fraction of ids that lie in the rarest s of the vocabulary.

    Ids of a BPE vocabulary are ordered by frequency, so by default "rare" means a high id.
    `ordinary_ids` is the range of mergeable ids: special and added tokens often sit at the top
    and would look rare, so ids outside the range are ignored. For a vocabulary in another order
    pass `rank_by_id_V` (0 = most frequent, one entry for every id). A rollout without ordinary
    tokens has share 0. For monitoring; it never changes a reward.

    Raises ConfigError for an empty range of ordinary ids.

    Paper: IV-F(b).
    """
    if len(ordinary_ids) == 0 or ordinary_ids.step != 1:
        raise ConfigError(f"ordinary_ids is {ordinary_ids}; expected a non-empty range of step 1")
    ids = np.asarray(token_ids, dtype=np.int64)
    ids = ids[(ids >= ordinary_ids.start) & (ids < ordinary_ids.stop)]
    if ids.size == 0:
        return dict.fromkeys(shares, 0.0)
    if rank_by_id_V is None:
        ranks = ids - ordinary_ids.start
    else:
        order = np.argsort(rank_by_id_V[ordinary_ids.start : ordinary_ids.stop], kind="stable")
        rank_of = np.empty(len(ordinary_ids), dtype=np.int64)
        rank_of[order] = np.arange(len(ordinary_ids))
        ranks = rank_of[ids - ordinary_ids.start]
    return {s: float(np.mean(ranks >= len(ordinary_ids) * (1.0 - s))) for s in shares}
