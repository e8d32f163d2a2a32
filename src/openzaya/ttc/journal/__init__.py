"""The journal of runs: SQLite or PostgreSQL, resume, views, export. Torch-free."""

from openzaya.ttc.journal.errors import (
    IdempotencyConflictError,
    JournalDamagedError,
    JournalError,
    JournalFullError,
    JournalReadOnlyError,
    LeaseHeldError,
    LeaseLostError,
    UnknownRunError,
)
from openzaya.ttc.journal.journal import Journal, JournalConfig
from openzaya.ttc.journal.spec import Begun, JournalEvent, Lease, RunSpec

__all__ = [
    "Begun",
    "IdempotencyConflictError",
    "Journal",
    "JournalConfig",
    "JournalDamagedError",
    "JournalError",
    "JournalEvent",
    "JournalFullError",
    "JournalReadOnlyError",
    "Lease",
    "LeaseHeldError",
    "LeaseLostError",
    "RunSpec",
    "UnknownRunError",
]
