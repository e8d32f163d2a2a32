"""Laws of the repetition canary and of the rare-token share."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openzaya.core.errors import ConfigError, DataError
from openzaya.core.seeding import numpy_stream
from openzaya.rl import spine
from openzaya.rl.spine.canary import CanaryConfig

VOCABULARY = 262_272


def random_ids(seed: int, count: int, vocabulary: int = VOCABULARY) -> np.ndarray:
    return numpy_stream(seed, "canary").integers(0, vocabulary, count)


@pytest.mark.parametrize("period", range(1, 191))
def test_a_loop_of_any_period_up_to_190_is_flagged(period: int) -> None:
    ids = np.concatenate(
        [random_ids(period, 200), np.tile(random_ids(-period, period), 1 + 900 // period)]
    )
    assert spine.repetition_canary(ids).is_flagged


@given(
    period=st.integers(1, 190),
    before=st.integers(0, 700),
    after=st.integers(0, 700),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_loop_pasted_anywhere_is_flagged(period: int, before: int, after: int, seed: int) -> None:
    loop = np.tile(random_ids(seed, period), 1 + 900 // period)
    ids = np.concatenate([random_ids(seed + 1, before), loop, random_ids(seed + 2, after)])
    assert spine.repetition_canary(ids).is_flagged


@given(
    seed=st.integers(0, 9999),
    count=st.integers(0, 2000),
    vocabulary=st.sampled_from([16, 80, 384, 32_000, VOCABULARY]),
)
@settings(max_examples=60, deadline=None)
def test_random_text_is_never_flagged(seed: int, count: int, vocabulary: int) -> None:
    report = spine.repetition_canary(random_ids(seed, count, vocabulary))
    assert not report.is_flagged
    assert report.lowest > 0.1


def test_a_period_of_more_than_190_tokens_is_beyond_the_papers_window_not_a_larger_one() -> None:
    ids = np.tile(random_ids(3, 300), 20)
    assert not spine.repetition_canary(ids).is_flagged
    wide = spine.CanaryConfig(level=6, window_bits=-15, chunk_tokens=512)
    assert spine.repetition_canary(ids, wide).is_flagged


def test_the_ratio_is_compressed_bytes_less_the_flush_over_raw_bytes() -> None:
    """One chunk by hand, and an empty flush costs exactly the overhead."""
    ids = random_ids(5, 100)
    stream = zlib.compressobj(1, zlib.DEFLATED, -10)
    raw = ids.astype("<i4").tobytes()
    size = len(stream.compress(raw)) + len(stream.flush(zlib.Z_SYNC_FLUSH))
    assert spine.repetition_canary(ids).ratios == ((size - 5) / 400,)
    assert len(zlib.compressobj(1, zlib.DEFLATED, -10).flush(zlib.Z_SYNC_FLUSH)) == 5


@pytest.mark.parametrize(
    ("count", "chunks"), [(0, 0), (1, 1), (63, 1), (64, 1), (127, 1), (128, 2), (191, 2), (192, 3)]
)
def test_a_short_last_chunk_is_merged_into_the_one_before(count: int, chunks: int) -> None:
    assert len(spine.repetition_canary(random_ids(1, count)).ratios) == chunks


def test_the_compressor_remembers_earlier_chunks() -> None:
    """The same 64 random tokens are dear the first time and nearly free the second."""
    first, second = spine.repetition_canary(np.tile(random_ids(8, 64), 2)).ratios
    assert first > 0.5
    assert second < 0.05


def test_ids_that_do_not_fit_int32_are_refused() -> None:
    for ids in ([-1, 2], [2**31], [[1, 2], [3, 4]]):
        with pytest.raises(DataError, match="token ids"):
            spine.repetition_canary(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"chunk_tokens": 0}, {"threshold": 1.0}, {"level": 0}, {"window_bits": 10}]
)
def test_settings_that_zlib_would_refuse_are_refused_early(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="canary"):
        CanaryConfig(**changes)  # type: ignore[arg-type]


def test_rare_tokens_are_counted_from_the_top_of_the_ordinary_ids() -> None:
    ids = [0, 50, 89, 90, 94, 95, 98, 99, 100, 120]  # 100 and 120 are special: not counted
    found = spine.rare_token_share(ids, range(100))
    assert found == {0.10: 5 / 8, 0.05: 3 / 8, 0.02: 2 / 8, 0.01: 1 / 8}
    assert spine.rare_token_share([100, 120], range(100))[0.10] == 0.0
    assert spine.rare_token_share([], range(100))[0.01] == 0.0
    with pytest.raises(ConfigError, match="ordinary_ids"):
        spine.rare_token_share([1], range(0))


def test_a_frequency_table_replaces_the_order_of_ids() -> None:
    rank_by_id = np.arange(20)[::-1].copy()  # id 0 is the rarest
    shares = (0.10, 0.50)
    found = spine.rare_token_share([0, 1, 2, 19], range(20), rank_by_id, shares)
    assert found == {0.10: 0.5, 0.50: 0.75}
    # specials 0..9 do not shift the ranks of the rest
    found = spine.rare_token_share([0, 10, 19], range(10, 20), rank_by_id, shares)
    assert found == {0.10: 0.5, 0.50: 0.5}
