"""Uvicorn around the application: addresses, slow and many clients, and the end on SIGTERM."""

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
from uvicorn.protocols.http.h11_impl import H11Protocol

from ppose.deploy.service.refusals import RefusedError
from ppose.log import log

HEAD_SECONDS = 10.0
MAX_CONNECTIONS = 512
_BACKLOG = 256


class _Protocol(H11Protocol):
    """HTTP/1.1 with a time limit for the head of a request, and a limit of connections.

    Uvicorn bounds neither: a client that sends its head byte by byte, or nothing, would stay.
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


async def _too_many_connections(scope, receive, send) -> None:
    refusal = RefusedError(
        503,
        "too_many_connections",
        f"more than {MAX_CONNECTIONS} connections are open; try again later",
        retry_after=1,
        headers={"Connection": "close"},
    )
    await refusal.response()(scope, receive, send)


class Server(uvicorn.Server):
    """Uvicorn's server, which tells the application as soon as it is told to stop."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.service.drain()  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def config_of(app: FastAPI) -> uvicorn.Config:
    """Uvicorn's settings for an application of `make_app`."""
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
        # Requests end by themselves before; this is for what cannot be.
        timeout_graceful_shutdown=int(app.state.service.limits.timeout) + 2,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can already connect to; port 0 takes a free one.

    Raises OSError with the address in its message.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay off only where the protocol is named.
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
    """Serves an application of `make_app` until SIGTERM or Ctrl-C, then ends it gracefully.

    New connections are refused from then on, requests under way are finished, which takes no
    longer than the time limit of requests; then it returns. A second Ctrl-C ends it at once.

    Raises OSError where it cannot listen.
    """
    server = Server(config_of(app))
    _silence_readers()
    with listen(host, port) as bound:
        name = f"[{host}]" if ":" in host else host
        log.info("http://%s:%d  Ctrl-C or SIGTERM stops it", name, bound.getsockname()[1])
        # Uvicorn raises the signal again when it is done; being told to stop is no error.
        before = {s: signal.signal(s, _nothing) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[bound])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    log.info("stopped")


def _silence_readers() -> None:
    """Whoever sends damaged pictures and forms would fill the log; the answers say it all."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="PIL")


def _nothing(number: int, frame: FrameType | None) -> None:
    pass
