"""What begins a run, and what the journal answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from openzaya.core.config import from_mapping
from openzaya.core.errors import ConfigError
from openzaya.core.records import Message
from openzaya.ttc.config import MarkovianRSAConfig

RunState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
Kind = Literal["run", "candidate", "progress", "stage", "done"]
ENDED: frozenset[str] = frozenset(("done", "failed", "cancelled", "interrupted"))
"""States in which nobody works on a run. All but `done` can be resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """All that is needed to run, and to run again: never a secret."""

    question: tuple[Message, ...]
    """The conversation; its last turn is the user's."""
    config: MarkovianRSAConfig
    seed: int = 0
    hint: str = ""
    """The task hint of the aggregation prompts."""
    model: str = ""
    """What the caller calls the model."""
    preset: str = ""
    strategy: str = ""
    tenant: str = ""
    """Whose run it is; idempotency keys are apart for each tenant."""
    key: str | None = None
    """Idempotency key."""
    request_hash: str = ""
    """Hash of the request body; computed from what decides the answer when empty."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """How to open the sampler again: `model` (a folder or URL) and `upstream_model`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Free marks, such as the batch and the problem that the run belongs to."""

    @property
    def fingerprint(self) -> str:
        """The request hash, given or computed."""
        if self.request_hash:
            return self.request_hash
        decisive = self.to_json()
        for name in ("tenant", "key", "request_hash", "labels", "preset", "strategy"):
            del decisive[name]
        text = json.dumps(decisive, sort_keys=True)
        return sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored; addresses lose their user names and queries."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["question"] = [_flat(message) for message in self.question]
        data["config"] = _flat(self.config)
        data["sampler"] = {
            name: without_secrets(value) if isinstance(value, str) else value
            for name, value in self.sampler.items()
        }
        data["labels"] = dict(self.labels)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec of a stored run. Raises ConfigError when another version wrote it."""
        try:
            config = from_mapping(MarkovianRSAConfig, data["config"], "the stored run")
            question = tuple(Message(**m) for m in data["question"])
            return cls(**{**data, "config": config, "question": question})
        except (ConfigError, TypeError) as error:
            raise ConfigError(
                f"the run was stored by another version of openzaya ({error}); "
                "resume it with the version that began it"
            ) from error

    def labelled(self, **labels: str) -> "RunSpec":
        """Return the spec with more labels."""
        return replace(self, labels={**self.labels, **labels})


def _flat(record: Message | MarkovianRSAConfig) -> dict[str, Any]:
    """Return the fields of a record that has no records in it; `asdict` would copy each value."""
    return {f.name: getattr(record, f.name) for f in fields(record)}


def without_secrets(address: str) -> str:
    """Return an address without user name, password, query and fragment; other texts unchanged."""
    if not address.startswith(("http://", "https://")):
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a run; a later epoch ends it."""

    run_id: str
    owner: str
    epoch: int
    created_s: float = 0.0
    """When the run was created, in Unix seconds."""
    begun_s: float = 0.0
    """How long the run had been worked on before this lease; its events go on from there."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The run that a spec denotes: a new one, or the one that its idempotency key names."""

    run_id: str
    is_new: bool
    state: RunState
    lease: Lease | None
    """For a new run; a known one is joined with `follow`, or taken over with `acquire`."""


@dataclass(frozen=True, slots=True)
class JournalEvent:
    """One entry of a run's event log."""

    seq: int
    """Counts up within a run; the `id` of a server-sent event."""
    kind: Kind
    data: dict[str, Any]
    """RunSummary, CandidateView, {stage, slot, num_tokens}, a stage of RunDetail, RunSummary."""
