"""Who may ask, for what and how much: keys that are stored as hashes, compared in constant time."""

import hashlib
import hmac
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path

from openzaya.core.errors import ConfigError

RIGHTS = frozenset({"infer", "admin", "metrics"})
DEFAULT_RIGHTS = "infer,metrics"
_LINE = re.compile(r"([0-9a-fA-F]{64})(?:\s+([a-z,]+))?((?:\s+\w+=\S+)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How much the bearer of a key may use. An infinite amount is no limit."""

    requests_per_minute: float = math.inf
    """Requests for completions."""
    prompt_tokens_per_minute: float = math.inf
    """Tokens of the prompts that clients send."""
    output_tokens_per_minute: float = math.inf
    """Tokens that may be generated: a request reserves its cap and gets back what it left."""
    output_tokens_per_day: float = math.inf
    """The same over a day: the quota."""
    run_tokens: float = math.inf
    """Most tokens that one run of test-time compute may generate."""
    runs: float = math.inf
    """Runs at the same time."""
    weight: float = 1.0
    """Share of a busy upstream, or of our own engine, against other keys."""

    def __post_init__(self) -> None:
        """Refuse amounts with which nothing could be asked."""
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(
                    f"{field.name} is {getattr(self, field.name)}, expected a number above 0; "
                    "leave it out for no limit"
                )


UNLIMITED = Allowance()


@dataclass(frozen=True, slots=True)
class Key:
    """One key that the server knows."""

    digest: bytes
    """SHA-256 of the key."""
    rights: frozenset[str]
    """What it opens."""
    name: str = ""
    """What logs and metrics of its bearer say; empty where the file gives none."""
    allowance: Allowance = UNLIMITED
    """What it may use."""

    @property
    def tenant(self) -> str:
        """Its name where requests are served in turns."""
        return self.digest.hex()


ANYBODY = Key(b"", RIGHTS)
"""The bearer of no key, where none is needed."""


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys; without any, everybody has all rights."""

    known: tuple[Key, ...] = ()

    def __bool__(self) -> bool:
        """Say whether a key is needed."""
        return bool(self.known)

    def find(self, authorization: str) -> Key | None:
        """Return the key that a header carries; None for a stranger.

        Every key is compared to its last byte, whichever fits, so the time tells nothing.
        """
        if not self.known:
            return ANYBODY
        scheme, digest = _scheme_and_digest(authorization)
        found: Key | None = None
        for key in self.known:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found if scheme.lower() == "bearer" else None

    def rights(self, authorization: str) -> frozenset[str] | None:
        """Return what the bearer of a header may do; None for a stranger."""
        found = self.find(authorization)
        return None if found is None else found.rights

    def tenant(self, authorization: str) -> str:
        """Return a name for the bearer of a known key, the same for all of its requests.

        It is the key's hash: tenants are served alike, and share no cached prefixes.
        """
        if not self.known:
            return ""
        return _scheme_and_digest(authorization)[1].hex()


def _scheme_and_digest(authorization: str) -> tuple[str, bytes]:
    """Return the scheme of a header, and the SHA-256 of the secret behind it in UTF-8.

    Headers are read as Latin-1; what clients write outside of ASCII is that or UTF-8.
    """
    scheme, _, secret = authorization.partition(" ")
    secret = secret.strip(" \t")
    raw = secret.encode("latin-1", "replace")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        raw = secret.encode("utf-8")
    return scheme, hashlib.sha256(raw).digest()


def load_keys(path: str | Path) -> Keys:
    """Read a keys file. A line is a key: its SHA-256 in hex, its rights, and what it may use.

        3fc9...  infer,metrics  name=ada requests_per_minute=60 output_tokens_per_day=2e6

    Rights (infer, admin, metrics) and the amounts of `Allowance` may be left out. Empty lines and
    lines that begin with # are skipped. Raises ConfigError for a file that others can read, and for
    lines that are no keys.
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
    known = [
        read_key(text, f"line {number} of {file}")
        for number, line in enumerate(lines, start=1)
        if (text := line.strip()) and not text.startswith("#")
    ]
    if not known:
        raise ConfigError(f"the keys file {file} holds no keys; add one or leave out --keys")
    return Keys(tuple(known))


def read_key(line: str, where: str) -> Key:
    """Return the key of a line. Raises ConfigError, which names `where`, for what is none."""
    match = _LINE.fullmatch(line)
    rights = frozenset((match[2] or DEFAULT_RIGHTS).split(",")) if match else frozenset()
    if match is None or not rights <= RIGHTS:
        raise ConfigError(
            f"{where} is no key, expected the SHA-256 of one in 64 hex digits, and perhaps its "
            "rights (infer,admin,metrics) and amounts (runs=4): printf %s KEY | sha256sum"
        )
    pairs = [pair.partition("=") for pair in match[3].split()]
    words = {name: text for name, _, text in pairs}
    name = words.pop("name", "")
    amounts = {}
    for field, text in words.items():
        try:
            amounts[field] = float(text)
        except ValueError:
            raise ConfigError(f"{where}: {field} is {text!r}, expected a number") from None
    known = [field.name for field in fields(Allowance)]
    unknown = sorted(set(amounts) - set(known))
    if unknown or len(pairs) != len({pair[0] for pair in pairs}):
        found = f"the amount {unknown[0]!r}" if unknown else "an amount twice"
        raise ConfigError(f"{where} holds {found}; known: name, {', '.join(known)}")
    try:
        return Key(bytes.fromhex(match[1]), rights, name, Allowance(**amounts))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
