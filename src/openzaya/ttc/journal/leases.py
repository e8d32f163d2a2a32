"""Who may write to a run: beginning, taking over, ending, and staying alive."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from openzaya.core.errors import RequestError
from openzaya.ttc.journal.candidates import cut_open
from openzaya.ttc.journal.database import Database
from openzaya.ttc.journal.errors import IdempotencyConflictError, LeaseHeldError
from openzaya.ttc.journal.rows import (
    claim,
    load_document,
    load_facts,
    load_run,
    save_document,
    save_event,
    set_state,
)
from openzaya.ttc.journal.spec import ENDED, Begun, Lease, RunSpec
from openzaya.ttc.journal.views import cached_tokens, last_at_s, summary

_KEPT = ("preview", "stages")
"""What stays of an outcome when its run goes on."""


def new_run_id(now_s: float) -> str:
    """Return an id that sorts by time; chance makes it unique."""
    return f"{int(now_s * 1e6):014x}{secrets.token_hex(5)}"


def begin(database: Database, spec: RunSpec, owner: str, lease_s: float) -> Begun | str:
    """Insert a run, or find the one that its key names; text is why the key is refused."""
    now_s = database.now_s()
    run_id = new_run_id(now_s)
    inserted = database.execute(
        "INSERT INTO run (id, tenant, idempotency_key, request_hash, state, created_s, clock_s, "
        "owner, epoch, expires_s, last_seq) VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, 1, ?, 0) "
        "ON CONFLICT DO NOTHING RETURNING id",
        (run_id, spec.tenant, spec.key, spec.fingerprint, now_s, now_s, owner, now_s + lease_s),
    )
    if not inserted:
        return _known(database, spec)
    save_document(database, run_id, "spec", spec.to_json())
    save_document(database, run_id, "outcome", {})
    return Begun(run_id, True, "queued", Lease(run_id, owner, 1))


def _known(database: Database, spec: RunSpec) -> Begun | str:
    rows = database.execute(
        "SELECT id, request_hash FROM run WHERE tenant = ? AND idempotency_key = ?",
        (spec.tenant, spec.key),
    )
    run_id, request_hash = rows[0]
    if request_hash != spec.fingerprint:
        return (
            f"the idempotency key {spec.key!r} belongs to run {run_id}, which was begun by another "
            "request; use a new key, or send the same request again"
        )
    state: Any = load_run(database, run_id).shown_state(database.now_s())
    return Begun(run_id, False, state, None)


def refused(reason: str) -> IdempotencyConflictError:
    """Return the error for a key that belongs to another request."""
    return IdempotencyConflictError(reason)


def acquire(database: Database, run_id: str, owner: str, lease_s: float) -> Lease:
    """Take a run over. Raises LeaseHeldError, RequestError, UnknownRunError."""
    row, now_s = load_run(database, run_id), database.now_s()
    if row.state == "done":
        raise RequestError(f"run {run_id} is done; `openzaya runs show {run_id}` shows its answer")
    if row.is_live(now_s):
        raise LeaseHeldError(
            f"run {run_id} is being worked on by another process, which was heard of within "
            f"{lease_s:.0f} s; wait for it, or cancel the run"
        )
    begun_s = last_at_s(database, run_id)
    taken = database.execute(
        "UPDATE run SET owner = ?, epoch = epoch + 1, expires_s = ?, clock_s = ?, state = 'queued' "
        "WHERE id = ? AND epoch = ? RETURNING epoch",
        (owner, now_s + lease_s, now_s - begun_s, run_id, row.epoch),
    )
    if not taken:
        raise LeaseHeldError(f"run {run_id} was taken over by another process just now")
    if row.state == "failed":
        _forget_failures(database, run_id)
    outcome = load_document(database, run_id, "outcome")
    kept = {name: value for name, value in outcome.items() if name in _KEPT}
    save_document(database, run_id, "outcome", kept)
    return Lease(run_id, owner, taken[0][0], begun_s)


def _forget_failures(database: Database, run_id: str) -> None:
    """Let the failed candidates of the last stage be tried again; nobody has built on them."""
    views = load_facts(database, run_id)
    last = max((view["stage"] for view in views), default=0)
    for view in views:
        if view["stage"] == last and view["state"] == "failed":
            for table in ("content", "candidate"):
                database.execute(
                    f"DELETE FROM {table} WHERE run = ? AND stage = ? AND slot = ?",
                    (run_id, last, view["slot"]),
                )


def end(database: Database, lease: Lease, state: str, facts: Mapping[str, Any]) -> None:
    """Write how a run ended; the last thing that its lease allows."""
    seq = claim(database, lease, 1, 0.0) + 1
    at_s = max(last_at_s(database, lease.run_id), float(facts.get("elapsed_s") or 0.0))
    _end(database, lease.run_id, seq, state, {**facts, "elapsed_s": at_s})


def _end(database: Database, run_id: str, seq: int, state: str, facts: Mapping[str, Any]) -> None:
    at_s = facts["elapsed_s"]
    cut_open(database, run_id, at_s)
    outcome = {**load_document(database, run_id, "outcome"), **facts}
    if outcome.get("usage") is not None:
        outcome["usage"]["cached"] = cached_tokens(load_facts(database, run_id))
    set_state(database, run_id, state)
    save_document(database, run_id, "outcome", outcome)
    save_event(database, run_id, seq, "done", at_s, summary(database, run_id))


def cancel(database: Database, run_id: str) -> bool:
    """End a run as cancelled and shut its owner out; False when it had ended before."""
    row = load_run(database, run_id)
    if row.state in ENDED:
        return False
    rows = database.execute(
        "UPDATE run SET epoch = epoch + 1, owner = '', last_seq = last_seq + 1 "
        "WHERE id = ? AND epoch = ? AND state = ? RETURNING last_seq",
        (run_id, row.epoch, row.state),
    )
    if not rows:
        return False
    facts = {"elapsed_s": last_at_s(database, run_id)}
    _end(database, run_id, rows[0][0], "cancelled", facts)
    return True


def prolong(database: Database, leases: Sequence[Lease], lease_s: float) -> list[Lease]:
    """Keep leases alive; return those that were lost."""
    expires_s = database.now_s() + lease_s
    return [
        lease
        for lease in leases
        if not database.execute(
            "UPDATE run SET expires_s = ? WHERE id = ? AND owner = ? AND epoch = ? RETURNING id",
            (expires_s, lease.run_id, lease.owner, lease.epoch),
        )
    ]


def release(database: Database, leases: Sequence[Lease]) -> None:
    """Give leases back: whoever comes next need not wait."""
    for lease in leases:
        database.execute(
            "UPDATE run SET expires_s = 0 WHERE id = ? AND owner = ? AND epoch = ?",
            (lease.run_id, lease.owner, lease.epoch),
        )
