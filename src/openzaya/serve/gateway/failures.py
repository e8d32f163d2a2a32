"""Errors of the layers below as answers: the client's, an upstream's, or ours."""

from openzaya.core.errors import (
    ConfigError,
    ContextLengthError,
    DataError,
    EngineError,
    OpenZayaError,
    RequestError,
    UpstreamError,
)
from openzaya.serve.errors import ApiError, bad_request
from openzaya.ttc.journal import (
    IdempotencyConflictError,
    JournalError,
    JournalFullError,
    LeaseHeldError,
    LeaseLostError,
    UnknownRunError,
)


def api_error(error: OpenZayaError, run_id: str = "") -> ApiError:
    """Return the answer for an error; its message names the run that failed, if there is one."""
    message = f"{error} (run {run_id})" if run_id else str(error)
    match error:
        case UnknownRunError():
            return ApiError(404, message, code="run_not_found")
        case IdempotencyConflictError():
            return ApiError(409, message, code="idempotency_conflict")
        case LeaseHeldError() | LeaseLostError():
            return ApiError(409, message, code="run_held_elsewhere", headers={"Retry-After": "5"})
        case JournalFullError():
            return ApiError(507, message, code="journal_full")
        case JournalError():
            return ApiError(503, message, code="journal_failed")
        case ContextLengthError():
            return bad_request(message, "messages", "context_length_exceeded")
        case RequestError() | ConfigError() | DataError():
            return bad_request(message)
        case UpstreamError():
            return ApiError(502, message, code="upstream_failed")
        case EngineError():
            return ApiError(503, message, code="engine_failed")
        case _:
            return ApiError(500, "an internal error; the server's log says where")
