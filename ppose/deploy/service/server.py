"""Runs the application with uvicorn: sockets, connection limits, and graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections import Counter
from types import FrameType

import h11
import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ppose.deploy.service.errors import RequestError
from ppose.utils.log import log

HEAD_SECONDS = 10.0
# Responses are small: a client that leaves a part of one unread for so long reads nothing.
WRITE_SECONDS = 10.0
MAX_CONNECTIONS = 512
MAX_CLIENT_CONNECTIONS = 128
_MAX_HEAD = 16_384  # bytes
# Bytes that are parsed at once, while others wait for so many seconds.
_READ_SIZES, _READ_SECONDS = (512, 16_384), 0.005
# A connection that took longer reads nothing for so many times as long.
_PAUSES = 10
_BACKLOG = 256


class _Protocol(H11Protocol):
    """HTTP/1.1 with time limits for heads and unread responses, and limits of connections.

    Uvicorn has none of them: clients that send their head slowly, or nothing, or do not read their
    responses would stay connected. Where there are too many connections, the oldest one without
    a request ends for a new one: of the same client if it has more than its share.
    """

    _head_deadline: asyncio.TimerHandle | None = None
    _write_check: asyncio.TimerHandle | None = None
    _unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_read_size(_READ_SIZES[1])
        self._opened = self.loop.time()
        if not self._make_room():
            self.app = _too_many_connections
        self._watch_head()
        self._watch_writing()

    def data_received(self, data: bytes) -> None:
        started = self.loop.time()
        super().data_received(data)
        took = self.loop.time() - started
        # Bodies in chunks of one byte take a thousand times as long as others.
        if took > _READ_SECONDS:
            self._set_read_size(self._read_size // 2)
            self.transport.pause_reading()
            self.loop.call_later(_PAUSES * took, self._read_on)
        else:
            self._set_read_size(2 * self._read_size)
        if self._is_pipelining:
            # No browser does that; who does it may have thousands of requests answered unread.
            self.cycle.keep_alive = False
        self._watch_head()

    @property
    def _is_pipelining(self) -> bool:
        """Whether a request has come before the response to the one before it."""
        busy = self.cycle is not None and not self.cycle.response_complete
        return busy and self.conn.their_state is h11.DONE and bool(self.conn.trailing_data[0])

    def _read_on(self) -> None:
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _set_read_size(self, size: int) -> None:
        self._read_size = min(max(size, _READ_SIZES[0]), _READ_SIZES[1])
        self.transport.max_size = self._read_size  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        if self._write_check is not None:
            self._write_check.cancel()
        super().connection_lost(exc)

    def _make_room(self) -> bool:
        """Ends a connection if there are too many; False if all have requests."""
        others = [
            other
            for other in self.connections
            if isinstance(other, _Protocol)
            and other is not self
            and not other.transport.is_closing()
        ]
        own = [other for other in others if other._address == self._address]
        if len(own) >= MAX_CLIENT_CONNECTIONS:
            others = own
        elif len(others) < MAX_CONNECTIONS:
            return True
        idle = [other for other in others if other._is_idle]
        if idle:
            counts = Counter(other._address for other in others)
            most = max(counts[other._address] for other in idle)
            candidates = (other for other in idle if counts[other._address] == most)
            min(candidates, key=lambda other: other._opened).transport.abort()
        return bool(idle)

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    @property
    def _is_idle(self) -> bool:
        """Whether there is no request, or one whose response the client does not read."""
        return self.cycle is None or self.cycle.response_complete or self.flow.write_paused

    def _watch_writing(self) -> None:
        """Ends the connection if its client does not read; also while it is being closed."""
        now = self.loop.time()
        if self.transport.get_write_buffer_size() == 0:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since >= WRITE_SECONDS:
            self.transport.abort()
            return
        self._write_check = self.loop.call_later(WRITE_SECONDS / 4, self._watch_writing)

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forget_head()
        elif self._head_deadline is None:
            self._head_deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _forget_head(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None


async def _too_many_connections(scope: Scope, receive: Receive, send: Send) -> None:
    refusal = RequestError(
        503,
        "too_many_connections",
        f"more than {MAX_CONNECTIONS} connections are open, or {MAX_CLIENT_CONNECTIONS} of this "
        "client; try again later",
        retry_after=1,
        headers={"Connection": "close"},
    )
    await refusal.response()(scope, receive, send)


class Server(uvicorn.Server):
    """Uvicorn server that drains the application as soon as it receives a signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.service.drain()  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def uvicorn_config(app: FastAPI) -> uvicorn.Config:
    """Uvicorn configuration for an application of `make_app`."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        loop="asyncio",
        h11_max_incomplete_event_size=_MAX_HEAD,
        ws="none",
        lifespan="on",
        # What clients do is not worth a line of the log.
        log_level="error",
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=10,
        # Requests end earlier by their own time limit; this is a fallback.
        timeout_graceful_shutdown=int(app.state.service.limits.timeout) + 2,
    )


def listen(host: str, port: int) -> socket.socket:
    """Creates a listening socket; port 0 selects a free port.

    Raises:
        OSError: with the address in its message.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's algorithm only for sockets with an explicit protocol.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from None
    return bound


def serve(app: FastAPI, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves an application of `make_app` until SIGTERM or Ctrl-C.

    Shutdown is graceful: new connections are refused and active requests are completed, which takes
    at most their time limit. A second Ctrl-C stops the server immediately.

    Raises:
        OSError: the address cannot be used.
    """
    server = Server(uvicorn_config(app))
    _silence_forms()
    with listen(host, port) as bound:
        name = f"[{host}]" if ":" in host else host
        log.info("http://%s:%d  stop with Ctrl-C or SIGTERM", name, bound.getsockname()[1])
        # Uvicorn re-raises the signal after shutdown, which is not an error here.
        before = {s: signal.signal(s, _ignore_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[bound])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    log.info("stopped")


def _silence_forms() -> None:
    """Keeps damaged forms out of the log; the responses describe the errors."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    pass
