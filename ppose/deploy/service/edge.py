"""What every response has in common, whatever route or error made it."""

from __future__ import annotations

import anyio
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Nothing from elsewhere, nothing inline, no frames; the camera for the page alone.
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"cache-control", b"no-cache"),
]
_DRAIN_SECONDS = 2.0


class Edge:
    """ASGI middleware: counts requests by status, adds headers, and ends uploads properly.

    A refusal that is sent while the client still sends its picture would be lost when the
    connection is closed. So the rest is read and thrown away, up to `max_bytes` and 2 seconds.

    Args:
        app: what answers.
        requests: counter with the labels path and status.
        max_bytes: of a body that is thrown away.
    """

    def __init__(self, app: ASGIApp, *, requests: Counter, max_bytes: int):
        self.app = app
        self.requests = requests
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(scope, receive)

        async def finish(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *_HEADERS]
                closing = (b"connection", b"close") in headers
                if body.open and not body.announced and not closing:
                    with anyio.move_on_after(_DRAIN_SECONDS):
                        await body.throw_away(self.max_bytes)
                if body.open and not closing:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
                self.requests.labels(_path(scope), message["status"]).inc()
            await send(message)

        await self.app(scope, body.receive, finish)


class _Body:
    """A request's body and how much of it is still to come.

    Attributes:
        open: more of it may come.
        announced: the client waits for "100 Continue" before it sends any of it.
    """

    def __init__(self, scope: Scope, receive: Receive):
        headers = dict(scope["headers"])
        self.open = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        self.announced = headers.get(b"expect", b"").lower() == b"100-continue"
        self._receive = receive

    async def receive(self) -> Message:
        self.announced = False
        message = await self._receive()
        self.open = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def throw_away(self, most: int) -> None:
        while self.open and most > 0:
            most -= len((await self.receive()).get("body", b""))


def _path(scope: Scope) -> str:
    """The route's path: what clients ask for could be anything, and labels are kept for ever."""
    route = scope.get("route")
    return getattr(route, "path", "other")
