"""What a client is told when its request cannot be served: one shape for everything."""

from typing import Any


class ApiError(Exception):
    """An answer with a status of 400 or more, in the shape of the OpenAI API."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        error = {
            "message": self.message,
            "type": error_type(self.status),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def error_type(status: int) -> str:
    """Return the kind of an error by its status."""
    named = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }
    return named.get(status, "server_error" if status >= 500 else "invalid_request_error")


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return the error for a request that makes no sense."""
    return ApiError(400, message, param=param, code=code)


def too_long(found_tokens: int, context_tokens: int, param: str) -> ApiError:
    """Return the error for a request that is longer than the context."""
    return bad_request(
        f"this model's context is {context_tokens} tokens, the request asks for {found_tokens}; "
        "shorten the prompt or lower max_tokens",
        param,
        "context_length_exceeded",
    )
