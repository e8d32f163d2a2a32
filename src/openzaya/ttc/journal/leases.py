"""Who may write to a run: beginning, taking over, ending, and staying alive."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from openzaya.core.errors import RequestError
from openzaya.ttc.journal.candidates import Values, View, again_values, cut_values, whole_us
from openzaya.ttc.journal.database import MOST_AT_ONCE, Database
from openzaya.ttc.journal.errors import IdempotencyConflictError, LeaseHeldError, LeaseLostError
from openzaya.ttc.journal.history import History, Record
from openzaya.ttc.journal.rows import (
    Entry,
    Place,
    Row,
    empty_told,
    last_seq,
    load_document,
    load_run,
    save_document,
    told_row,
)
from openzaya.ttc.journal.spec import ENDED, Begun, Lease, RunSpec
from openzaya.ttc.journal.views import summary, usage_so_far

_KEPT = ("preview", "question_tokens")
"""What stays of an outcome when its run goes on."""


def new_run_id(now_s: float) -> str:
    """Return an id that sorts by time; chance makes it unique."""
    return f"{int(now_s * 1e6):014x}{secrets.token_hex(5)}"


def begin(
    database: Database, spec: RunSpec, stored: View, owner: str, lease_s: float
) -> Begun | str:
    """Insert a run, or find the one that its key names; text is why the key is refused.

    `stored` is the spec as JSON.
    """
    now_s = database.now_s()
    run_id = new_run_id(now_s)
    inserted = database.execute(
        "INSERT INTO run (id, tenant, idempotency_key, request_hash, state, created_s, clock_s, "
        "owner, epoch, expires_s) VALUES (?, ?, ?, ?, 'queued', ?, ?, ?, 1, ?) "
        "ON CONFLICT DO NOTHING RETURNING id",
        (run_id, spec.tenant, spec.key, spec.fingerprint, now_s, now_s, owner, now_s + lease_s),
    )
    if not inserted:
        found = known(database, spec.tenant, spec.key, spec.fingerprint)
        assert found is not None
        return found
    save_document(database, run_id, "spec", stored)
    return Begun(run_id, True, "queued", Lease(run_id, owner, 1, now_s))


def known(database: Database, tenant: str, key: str | None, fingerprint: str) -> Begun | str | None:
    """Return the run that a key names, None for a new key; text is why the key is refused."""
    rows = database.execute(
        "SELECT id, request_hash FROM run WHERE tenant = ? AND idempotency_key = ?", (tenant, key)
    )
    if not rows:
        return None
    run_id, request_hash = rows[0]
    if request_hash != fingerprint:
        return (
            f"the idempotency key {key!r} belongs to run {run_id}, which was begun by another "
            "request; use a new key, or send the same request again"
        )
    state: Any = load_run(database, run_id).shown_state(database.now_s())
    return Begun(run_id, False, state, None)


def refused(reason: str) -> IdempotencyConflictError:
    """Return the error for a key that belongs to another request."""
    return IdempotencyConflictError(reason)


def acquire(database: Database, run_id: str, owner: str, lease_s: float) -> Lease:
    """Take a run over; what damaged rows held is forgotten, so that it is generated again.

    Raises LeaseHeldError, RequestError for a run that is done and whole, UnknownRunError, and
    JournalDamagedError where nobody knows what to run.
    """
    row, now_s = load_run(database, run_id), database.now_s()
    load_document(database, run_id, "spec")
    record = Record.of(database, run_id)
    history = record.history
    again = history.lost(database)
    if row.state == "done" and not (again or record.damage):
        raise RequestError(f"run {run_id} is done; `openzaya runs show {run_id}` shows its answer")
    if row.is_live(now_s):
        raise LeaseHeldError(
            f"run {run_id} is being worked on by another process, which was heard of within "
            f"{lease_s:.0f} s; wait for it, or cancel the run"
        )
    taken = database.execute(
        "UPDATE run SET owner = ?, epoch = epoch + 1, expires_s = ?, clock_s = ?, state = 'queued' "
        "WHERE id = ? AND epoch = ? RETURNING epoch",
        (owner, now_s + lease_s, now_s - history.at_s, run_id, row.epoch),
    )
    if not taken:
        raise LeaseHeldError(f"run {run_id} was taken over by another process just now")
    if row.state == "failed":
        again += _failures(history)
    empty_told(database, run_id, history.damage)
    _tell(database, history, [again_values(history.view(place)) for place in again])
    kept = {name: value for name, value in record.outcome.items() if name in _KEPT}
    save_document(database, run_id, "outcome", kept)
    return Lease(run_id, owner, taken[0][0], row.created_s, history.at_s)


def _failures(history: History) -> list[Place]:
    """Return the failed candidates of the last stage: nobody has built on them."""
    last = max((stage for stage, _ in history), default=0)
    return [p for p in history if p[0] == last and history.view(p)["state"] == "failed"]


def _tell(database: Database, history: History, candidates: Sequence[Values]) -> int:
    """Write where candidates stand now; return the number of the newest event."""
    seq, at_us = last_seq(database, history.run_id), whole_us(history.at_s)
    entries: list[Entry] = [
        [seq + count, "candidate", at_us, 0, *values] for count, values in enumerate(candidates, 1)
    ]
    if entries:
        database.insert("told", [told_row(history.run_id, entries, ())])
    return seq + len(entries)


def epochs(database: Database, owner: str, run_ids: Iterable[str]) -> dict[str, int]:
    """Return the epochs of those runs that the owner still holds.

    Nobody can take them until the transaction ends.
    """
    found = {}
    for ids in _in_portions(run_ids):
        lines = database.lines(
            "SELECT epoch || ' ' || id AS line FROM run "
            f"WHERE owner = ? AND id IN ({', '.join('?' * len(ids))}) {database.locks}",
            (owner, *ids),
        )
        for line in lines:
            epoch, _, run_id = line.partition(" ")
            found[run_id] = int(epoch)
    return found


def _in_portions(run_ids: Iterable[str]) -> Iterator[list[str]]:
    """Cut ids into lists, for statements that are not too long."""
    ids = list(run_ids)
    for at in range(0, len(ids), MOST_AT_ONCE):
        yield ids[at : at + MOST_AT_ONCE]


def lost(lease: Lease) -> LeaseLostError:
    """Return the error for a write whose lease is not the newest any more."""
    return LeaseLostError(
        f"run {lease.run_id} was cancelled, forgotten or taken over by another process; "
        "what this one still had to write was refused"
    )


def start(database: Database, lease: Lease, outcome: View) -> None:
    """Write that the work on a run begins. Raises LeaseLostError."""
    _change(database, lease, "running")
    save_document(database, lease.run_id, "outcome", outcome)


def end(database: Database, lease: Lease, state: str, outcome: View, told: Row) -> None:
    """Write how a run ended; the last thing that its lease allows. Raises LeaseLostError."""
    _change(database, lease, state, is_over=True)
    save_document(database, lease.run_id, "outcome", outcome)
    database.insert("told", [told])


def _change(database: Database, lease: Lease, state: str, *, is_over: bool = False) -> None:
    kept = "0" if is_over else "expires_s"
    rows = database.execute(
        f"UPDATE run SET state = ?, expires_s = {kept} "
        "WHERE id = ? AND owner = ? AND epoch = ? RETURNING id",
        (state, lease.run_id, lease.owner, lease.epoch),
    )
    if not rows:
        raise lost(lease)


def cancel(database: Database, run_id: str) -> bool:
    """End a run as cancelled and shut its owner out; False when it had ended before."""
    row = load_run(database, run_id)
    if row.state in ENDED:
        return False
    rows = database.execute(
        "UPDATE run SET epoch = epoch + 1, owner = '', state = 'cancelled' "
        "WHERE id = ? AND epoch = ? AND state = ? RETURNING id",
        (run_id, row.epoch, row.state),
    )
    if not rows:
        return False
    record = Record.of(database, run_id)
    at_s = record.history.at_s
    cut = [cut_values(view, at_s) for view in record.history.running()]
    seq = _tell(database, record.history, cut) + 1
    outcome = {**record.outcome, "elapsed_s": at_s}
    save_document(database, run_id, "outcome", outcome)
    outcome = {"usage": usage_so_far(record.history.views(), outcome), **outcome}
    shown = summary(run_id, row.created_s, "cancelled", record.spec, outcome)
    database.insert("told", [told_row(run_id, [[seq, "done", whole_us(at_s), 0, shown]], ())])
    return True


def prolong(database: Database, owner: str, leases: Sequence[Lease], lease_s: float) -> list[Lease]:
    """Keep an owner's leases alive; return those that were lost."""
    expires_s = database.now_s() + lease_s
    held = epochs(database, owner, (lease.run_id for lease in leases))
    for ids in _in_portions(held):
        database.execute(
            f"UPDATE run SET expires_s = ? WHERE owner = ? AND id IN ({', '.join('?' * len(ids))})",
            (expires_s, owner, *ids),
        )
    return [lease for lease in leases if held.get(lease.run_id) != lease.epoch]


def release(database: Database, leases: Sequence[Lease]) -> None:
    """Give leases back: whoever comes next need not wait."""
    for lease in leases:
        database.execute(
            "UPDATE run SET expires_s = 0 WHERE id = ? AND owner = ? AND epoch = ?",
            (lease.run_id, lease.owner, lease.epoch),
        )
