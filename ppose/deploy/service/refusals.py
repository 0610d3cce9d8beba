"""Why a request gets no poses: one exception, one form of JSON."""

from __future__ import annotations

import json

from starlette.responses import Response

GONE = 499  # as nginx counts clients that left; nobody reads the answer


class RefusedError(Exception):
    """An answer other than 200.

    Args:
        status: of HTTP.
        code: a word for programs, which stays when the message is improved.
        message: a sentence for people: what was found, what is expected, what to do.
        retry_after: seconds after which it is worth trying again.
        headers: others to send.
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
