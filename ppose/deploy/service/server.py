"""Runs the application with uvicorn: sockets, connection limits, and graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import warnings
from types import FrameType

import cv2
import h11
import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ppose.deploy.service.errors import RequestError
from ppose.utils.log import log

HEAD_SECONDS = 10.0
MAX_CONNECTIONS = 512
_BACKLOG = 256


class _Protocol(H11Protocol):
    """HTTP/1.1 with a time limit for request heads and a limit of connections.

    Uvicorn has neither: clients that send their head slowly, or nothing, would stay connected.
    """

    _head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self.app = _too_many_connections
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

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
        f"more than {MAX_CONNECTIONS} connections are open; try again later",
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
        ws="none",
        lifespan="on",
        log_level="warning",
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
    _silence_decoders()
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


def _silence_decoders() -> None:
    """Keeps damaged images and forms out of the log; the responses describe the errors."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="PIL")


def _ignore_signal(number: int, frame: FrameType | None) -> None:
    pass
