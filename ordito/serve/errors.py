"""What goes wrong, in the words of whichever dialect was spoken."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.responses import JSONResponse

from ordito.errors import ContextError, MissingDependencyError, ModelNotFoundError, OrditoError

Json = dict[str, Any]

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """A request that gets no answer, with the HTTP status, the field that is wrong, and OpenAI's code for it."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


def as_api_error(error: BaseException) -> ApiError:
    """An error of ours as one of the interface's; what is not the asker's mistake says nothing of the inside."""
    match error:
        case ApiError():
            return error
        case ContextError():
            limit = "This model's maximum context length is exceeded"
            if error.context is not None:
                limit = f"This model's maximum context length is {error.context} tokens, but the prompt has {error.tokens}"
            return ApiError(400, f"{limit}: {error}", code="context_length_exceeded", param="messages")
        case ModelNotFoundError():
            return ApiError(404, str(error), code="model_not_found", param="model")
        case MissingDependencyError():
            return ApiError(500, str(error))
        case OrditoError():
            return ApiError(400, str(error))
        case MemoryError():
            return ApiError(503, "there is not enough memory for this now")
    return ApiError(500, "the server failed; its log says why")


def dialect_of(path: str) -> str:
    """Whose interface a path belongs to."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "ollama" if path.startswith("/api/") else "openai"


def body_of(error: ApiError, dialect: str, request_id: str = "") -> Json:
    """The error's body, as clients of the dialect expect it."""
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}
    if dialect == "ollama":
        return {"error": error.message}
    kind = _OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def error_response(error: ApiError, path: str, request_id: str = "") -> JSONResponse:
    """The whole answer. Clients try again on 429 and 503, and on nothing else."""
    dialect = dialect_of(path)
    status = 529 if dialect == "anthropic" and error.status == 503 else error.status
    again = error.status in (429, 503)
    headers = {"retry-after": "1"} if again else {"x-should-retry": "false"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body_of(error, dialect, request_id), status, headers)


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return prefix + secrets.token_hex(12)
