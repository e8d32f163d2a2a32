"""Libraries are compiled once, and where they cannot be kept, for the process alone."""

import pytest

from openzaya.core.native.build import compiler, load_library

pytestmark = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


@pytest.mark.parametrize("can_keep", [True, False])
def test_a_cache_that_cannot_be_written_costs_time_only(can_keep, tmp_path, monkeypatch, caplog):
    """As in a container whose user has no home."""
    source = tmp_path / "lib" / "native" / "answer.cpp"
    source.parent.mkdir(parents=True)
    source.write_text('extern "C" int answer() { return 42; }')
    cache = tmp_path / "cache" if can_keep else source / "cache"
    monkeypatch.setenv("OPENZAYA_CACHE", str(cache))
    assert load_library(source.parent, [source.name]).answer() == 42
    assert ("set OPENZAYA_CACHE" in caplog.text) is not can_keep
    assert len(list(cache.glob("*.so"))) == can_keep
