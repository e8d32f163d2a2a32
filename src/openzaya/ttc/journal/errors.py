"""What can go wrong with the journal; every message says what to do."""

from openzaya.core.errors import OpenZayaError, RequestError


class JournalError(OpenZayaError):
    """The journal cannot be opened, read or written."""


class JournalFullError(JournalError):
    """No space is left for the journal: HTTP 507. Nothing acknowledged is lost."""


class JournalReadOnlyError(JournalError):
    """The journal may be read by this user, and not written."""

    def __init__(self, where: str) -> None:
        """Name the journal."""
        super().__init__(
            f"the journal {where} can be read here, but not written; give this user leave to write "
            "the file and its folder, or name another file (`--set journal=` of solve and serve)"
        )


class JournalDamagedError(JournalError):
    """A row, or the file, does not hold what was written; the message names it."""


class RowDamagedError(JournalDamagedError):
    """One row does not hold what was written; the others are as good as before."""


class LeaseLostError(JournalError):
    """Somebody else runs or ended this run: the write was refused, and the run here must end."""


class LeaseHeldError(JournalError):
    """The run is being worked on by a live owner."""


class UnknownRunError(RequestError):
    """There is no such run, or no such candidate of it: HTTP 404."""


class IdempotencyConflictError(RequestError):
    """The key was used before with another request: HTTP 409."""
