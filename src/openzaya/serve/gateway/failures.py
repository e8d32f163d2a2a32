"""Errors of the layers below as answers: the client's, an upstream's, or ours."""

from openzaya.core.errors import (
    BusyError,
    ConfigError,
    ContextLengthError,
    DataError,
    EngineError,
    OpenZayaError,
    RequestError,
    UpstreamError,
)
from openzaya.serve.errors import ApiError
from openzaya.ttc.journal import (
    IdempotencyConflictError,
    JournalError,
    JournalFullError,
    LeaseHeldError,
    LeaseLostError,
    UnknownRunError,
)

ANSWERS: tuple[tuple[type[OpenZayaError], int, str, int], ...] = (
    (UnknownRunError, 404, "run_not_found", 0),
    (IdempotencyConflictError, 409, "idempotency_conflict", 0),
    (LeaseHeldError, 409, "run_held_elsewhere", 5),
    (LeaseLostError, 409, "run_held_elsewhere", 5),
    (JournalFullError, 507, "journal_full", 0),
    (JournalError, 503, "journal_failed", 0),
    (ContextLengthError, 400, "context_length_exceeded", 0),
    (RequestError, 400, "invalid_value", 0),
    (ConfigError, 400, "invalid_value", 0),
    (DataError, 400, "invalid_value", 0),
    (BusyError, 503, "queue_timeout", 10),
    (UpstreamError, 502, "upstream_failed", 0),
    (EngineError, 503, "engine_failed", 0),
)
"""Kind of error, status, code, and after how many seconds to come back, 0 for nothing said.

The first kind that fits counts.
"""


def api_error(error: OpenZayaError, run_id: str = "") -> ApiError:
    """Return the answer for an error; its message names the run that failed, if there is one."""
    message = f"{error} (run {run_id})" if run_id else str(error)
    for kind, status, code, retry_s in ANSWERS:
        if isinstance(error, kind):
            param = "messages" if kind is ContextLengthError else None
            headers = {"Retry-After": str(retry_s)} if retry_s else {}
            return ApiError(status, message, param=param, code=code, headers=headers)
    return ApiError(500, "an internal error; the server's log says where")
