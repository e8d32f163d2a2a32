"""Whether the blocks at hand suffice: for one request alone, for one more, for the next pass."""

from collections.abc import Iterable, Mapping

from openzaya.core.errors import ConfigError, RequestError
from openzaya.engine.request import EngineStats
from openzaya.model.blocks import BLOCK_TOKENS, blocks_of
from openzaya.model.cache import Cache
from openzaya.model.config_keys import SLIDING


class Room:
    """Counts the blocks of one cache against what sequences hold and will take.

    Raises `ConfigError` for pools in which not even one token could be decoded.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        window = cache.config.sliding_window
        self._most = dict.fromkeys(cache.pools, blocks_of(cache.max_tokens))
        """Blocks that a sequence holds at most."""
        if window is not None and SLIDING in self._most:
            self._most[SLIDING] = min(self._most[SLIDING], blocks_of(window) + 1)
        for kind, pool in cache.pools.items():
            least = self._most[kind] if kind == SLIDING else 1
            if pool.num_blocks < least:
                raise ConfigError(
                    f"the pool of {kind!r} layers has {pool.num_blocks} blocks of {BLOCK_TOKENS} "
                    f"tokens, expected at least {least}; choose a larger num_blocks"
                )

    def check_alone(self, num_tokens: int) -> None:
        """Refuse a request whose last token would not fit even if it ran alone."""
        for kind, pool in self._cache.pools.items():
            need = min(blocks_of(num_tokens), self._most[kind])
            if need > pool.num_blocks:
                raise RequestError(
                    f"the request may grow to {num_tokens} tokens, {need} blocks of "
                    f"{BLOCK_TOKENS}, but the cache has {pool.num_blocks} for {kind!r} layers; "
                    "lower max_tokens, shorten the prompt or make the engine with more blocks"
                )

    def report(self, stats: EngineStats) -> None:
        """Write down how full the pools are."""
        pools = self._cache.pools
        stats.evictions = sum(pool.evictions for pool in pools.values())
        stats.blocks_used = {kind: pool.num_used for kind, pool in pools.items()}
        stats.blocks_free = {kind: pool.num_available for kind, pool in pools.items()}

    def fits(self, need: int, reused: Mapping[str, int], claims: Iterable[int]) -> bool:
        """Tell whether a sequence that takes `need` blocks leaves enough for `claims` of others.

        `reused` are available blocks, by kind, that the sequence takes into use beside them.
        """
        known = list(claims)
        for kind, pool in self._cache.pools.items():
            most = self._most[kind]
            claimed = sum(min(claim, most) for claim in known)
            if pool.num_available - reused.get(kind, 0) - claimed < min(need, most):
                return False
        return True

    def num_available(self) -> int:
        """Return the blocks that a pass can take of every kind."""
        return min(pool.num_available for pool in self._cache.pools.values())


def piece_length(done_tokens: int, wanted: int, num_blocks: int) -> int:
    """Return how many of the wanted tokens fit behind `done_tokens` with that many new blocks."""
    in_last_block = -done_tokens % BLOCK_TOKENS
    return min(wanted, in_last_block + max(0, num_blocks) * BLOCK_TOKENS)
