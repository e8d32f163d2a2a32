"""Settings of the server; the address that anybody may reach needs keys."""

import ipaddress
import re
from dataclasses import dataclass

from openzaya.core.errors import ConfigError
from openzaya.serve.cors import ANY

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+/?")
MIN_QUEUE = 16
"""Choices of one request at most: a queue must be able to hold them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """How the server listens and what it bears."""

    host: str = "127.0.0.1"
    """Address to listen on. One that others can reach needs keys."""
    port: int = 8000
    """0 takes a free one."""
    origins: tuple[str, ...] = ()
    """Origins whose web pages may ask (CORS), as https://app.example; `*` for all needs keys."""
    model_name: str = ""
    """Name that requests must give; empty takes the name of the model's folder."""
    max_queue: int = 64
    """Choices that may wait for a slot; more are refused with 429."""
    queue_s: float = 60.0
    """Longest wait of a plain request, or of a run's first call, for a slot or for a place at an
    upstream, and of a program for a box; then it is refused with 503."""
    drain_s: float = 30.0
    """Longest time that running requests get to finish after SIGTERM."""
    header_s: float = 10.0
    """Longest time in which a request's header must arrive."""
    body_s: float = 30.0
    """Longest time in which a request's body must arrive."""
    heartbeat_s: float = 15.0
    """A stream without news sends a comment this often."""
    slow_reader_s: float = 60.0
    """A client that takes nothing for so long is dropped."""
    max_body_bytes: int = 8 << 20
    """Longest request body."""
    max_unread_events: int = 8192
    """Tokens that may wait for a client that reads slowly; then it is dropped."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}, expected 0 to 65535; choose another")
        if self.max_queue < MIN_QUEUE:
            raise ConfigError(
                f"max_queue is {self.max_queue}, expected at least {MIN_QUEUE}, the most choices "
                "of one request; choose a larger one"
            )
        for origin in self.origins:
            if origin != ANY and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"origins holds {origin!r}, expected scheme, host and perhaps port without a "
                    "path: https://app.example"
                )
        for name in ("queue_s", "drain_s", "header_s", "body_s", "heartbeat_s", "slow_reader_s"):
            if not 0 < getattr(self, name) <= 86_400:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 to 86400 seconds")
        for name in ("max_body_bytes", "max_unread_events"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_binding(config: ServeConfig, has_keys: bool) -> None:
    """Raise ConfigError for a server that strangers can reach while nobody needs a key."""
    if ANY in config.origins and not has_keys:
        raise ConfigError(
            "origins is *, so any web page that is open here could ask, but there are no keys; "
            "name a keys file with --keys or the origins that may ask"
        )
    if not is_loopback(config.host) and not has_keys:
        raise ConfigError(
            f"host is {config.host}, which other machines can reach, but there are no keys; name a "
            "keys file with --keys or listen on 127.0.0.1"
        )
