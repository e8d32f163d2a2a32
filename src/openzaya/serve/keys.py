"""Who may ask: keys that are stored as hashes and compared in constant time."""

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from openzaya.core.errors import ConfigError

RIGHTS = frozenset({"infer", "metrics"})
_LINE = re.compile(r"([0-9a-fA-F]{64})(?:\s+([a-z,]+))?")


@dataclass(frozen=True, slots=True)
class Key:
    """One key that the server knows."""

    digest: bytes
    """SHA-256 of the key."""
    rights: frozenset[str]
    """What it opens."""


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys; without any, everybody has all rights."""

    known: tuple[Key, ...] = ()

    def __bool__(self) -> bool:
        """Say whether a key is needed."""
        return bool(self.known)

    def rights(self, authorization: str) -> frozenset[str] | None:
        """Return what the bearer of a header may do; None for a stranger.

        Every key is compared to its last byte, whichever fits, so the time tells nothing.
        """
        if not self.known:
            return RIGHTS
        scheme, digest = _scheme_and_digest(authorization)
        rights: frozenset[str] | None = None
        for key in self.known:
            if hmac.compare_digest(key.digest, digest):
                rights = key.rights
        return rights if scheme.lower() == "bearer" else None

    def tenant(self, authorization: str) -> str:
        """Return a name for the bearer of a known key, the same for all of its requests.

        It is the key's hash: tenants are served alike, and share no cached prefixes.
        """
        if not self.known:
            return ""
        return _scheme_and_digest(authorization)[1].hex()


def _scheme_and_digest(authorization: str) -> tuple[str, bytes]:
    """Return the scheme of a header, and the SHA-256 of the secret behind it."""
    scheme, _, secret = authorization.partition(" ")
    return scheme, hashlib.sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()


def load_keys(path: str | Path) -> Keys:
    """Read a keys file: a SHA-256 in hex per line, then optionally its rights (infer,metrics).

    Empty lines and lines that begin with # are skipped. Raises ConfigError for a file that others
    can read, and for lines that are no keys.
    """
    file = Path(path)
    try:
        mode = file.stat().st_mode & 0o777
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the keys file {file} cannot be read: {error}; check the path"
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"the keys file {file} has mode {mode:04o}, expected 0600; others must not read it: "
            f"chmod 600 {file}"
        )
    known = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        rights = frozenset((match[2] or "infer,metrics").split(",")) if match else frozenset()
        if match is None or not rights <= RIGHTS:
            raise ConfigError(
                f"line {number} of {file} is no key, expected the SHA-256 of one in 64 hex digits, "
                "and perhaps its rights (infer,metrics): printf %s KEY | sha256sum"
            )
        known.append(Key(bytes.fromhex(match[1]), rights))
    if not known:
        raise ConfigError(f"the keys file {file} holds no keys; add one or leave out --keys")
    return Keys(tuple(known))
