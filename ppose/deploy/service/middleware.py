"""ASGI middleware for all responses: security headers, request counts, and unread uploads."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

import anyio
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppose.deploy.service.errors import RequestError
from ppose.deploy.service.hosts import HostPatterns

# No content from other sites, no inline scripts, no frames; camera access for this page only.
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
DRAIN_SECONDS = 2.0
_MAX_QUERY = 1_000  # bytes
_SMALL_REQUESTS = 8  # at once, of a client; other than images
_CLIENTS = 256  # that are told apart


class ServiceMiddleware:
    """Counts requests by status, adds headers, and discards unread uploads.

    Requests for other hosts, and those whose end is ambiguous, are refused.

    An error response during an upload would be lost if the connection were closed. The rest of the
    upload is therefore read and discarded, up to `max_bytes` and 2 seconds.

    Args:
        app: the wrapped application.
        requests: counter with the labels path and status.
        max_bytes: maximum number of bytes to discard.
        hosts: names that requests may be for.
    """

    def __init__(self, app: ASGIApp, *, requests: Counter, max_bytes: int, hosts: HostPatterns):
        self.app = app
        self.requests = requests
        self.max_bytes = max_bytes
        self.hosts = hosts
        # Hundreds of connections of a client would keep others waiting.
        self._turns = [anyio.Semaphore(_SMALL_REQUESTS) for _ in range(_CLIENTS)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _RequestBody(scope, receive)

        async def finish(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *_HEADERS]
                closing = (b"connection", b"close") in headers
                if body.open and not body.announced and not closing:
                    with anyio.move_on_after(DRAIN_SECONDS):
                        await body.discard(self.max_bytes)
                if body.open and not closing:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
                self.requests.labels(_path(scope), message["status"]).inc()
            await send(message)

        refusal = self._refusal(scope)
        async with self._turn(scope):
            await (refusal.response() if refusal else self.app)(scope, body.receive, finish)

    def _turn(self, scope: Scope) -> AbstractAsyncContextManager:
        """A context in which a client may have a few small requests answered."""
        if scope["path"] == "/pose":
            return nullcontext()
        address = scope["client"][0] if scope["client"] else ""
        return self._turns[hash(address) % len(self._turns)]

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = dict(scope["headers"])
        if b"transfer-encoding" in headers and b"content-length" in headers:
            # A proxy may see another end of this request, and so another next request.
            return RequestError(
                400,
                "framing",
                "Content-Length and Transfer-Encoding contradict each other; send one of them",
                headers={"Connection": "close"},
            )
        host = headers.get(b"host", b"").decode("latin-1")
        if host not in self.hosts:
            return RequestError(
                400,
                "host",
                f"Host '{host[:100]}' is not a name of this service; its operator can allow it "
                "with --allowed_hosts",
            )
        if len(scope["query_string"]) > _MAX_QUERY:
            return RequestError(414, "query", f"the query has more than {_MAX_QUERY} bytes")
        return None


class _RequestBody:
    """State of a request's body.

    Attributes:
        open: whether more data may arrive.
        announced: whether the client waits for "100 Continue" before it sends the body.
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

    async def discard(self, max_bytes: int) -> None:
        while self.open and max_bytes > 0:
            max_bytes -= len((await self.receive()).get("body", b""))


def _path(scope: Scope) -> str:
    """The route's path, or "other": arbitrary paths would create an unlimited number of labels."""
    route = scope.get("route")
    return getattr(route, "path", "other")
