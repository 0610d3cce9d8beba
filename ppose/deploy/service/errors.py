"""`RequestError`: HTTP errors and their JSON form."""

from __future__ import annotations

import json

from starlette.responses import Response

_MAX_MESSAGE = 500  # characters; messages repeat what a client sent
CLIENT_CLOSED_REQUEST = 499  # nginx's status code for clients that disconnected


class RequestError(Exception):
    """A request fails with an HTTP error.

    Args:
        status: HTTP status code.
        code: stable identifier for programs.
        message: for people: what was found, what is expected, what to do.
        retry_after: value of the Retry-After header in seconds.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ):
        if len(message) > _MAX_MESSAGE:
            message = f"{message[: _MAX_MESSAGE // 2]} … {message[-_MAX_MESSAGE // 2 :]}"
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def response(self) -> Response:
        """{"error": {"code", "message"}}."""
        content = json.dumps({"error": {"code": self.code, "message": self.message}})
        return Response(content, self.status, self.headers, "application/json")
