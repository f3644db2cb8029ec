"""Errors, in the format of the API that was called: OpenAI's, Anthropic's or Ollama's (the dialects)."""

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
    """A request that is answered with an error: its HTTP status, OpenAI's `code`, and `param`, the field that is wrong."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


def as_api_error(error: BaseException) -> ApiError:
    """Any error as an `ApiError`. One that is not the client's mistake reveals nothing of the server's internals."""
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
            return ApiError(503, "the server has not enough free memory for this request now")
    return ApiError(500, "internal error: the server's log says why")


def dialect_of(path: str) -> str:
    """The API that a path belongs to: openai, anthropic or ollama."""
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "ollama" if path.startswith("/api/") else "openai"


def body_of(error: ApiError, dialect: str, request_id: str = "") -> Json:
    """The body of the error, as clients of the dialect expect it."""
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}
    if dialect == "ollama":
        return {"error": error.message}
    kind = _OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def error_response(error: ApiError, path: str, request_id: str = "") -> JSONResponse:
    """The HTTP response. Its headers tell clients to retry on 429 and 503, and on nothing else."""
    dialect = dialect_of(path)
    status = 529 if dialect == "anthropic" and error.status == 503 else error.status
    retry = error.status in (429, 503)
    headers = {"retry-after": "1"} if retry else {"x-should-retry": "false"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body_of(error, dialect, request_id), status, headers)


def new_id(prefix: str) -> str:
    """A random id that cannot be guessed (96 bits)."""
    return prefix + secrets.token_hex(12)
