"""An HTTP server in a thread with configurable faults."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """Serves `files`; the other attributes configure faults.

    Args:
        files: path, such as "/a.bin" → content.
        url: http://host:port, without trailing slash.
        requests: path and headers of all requests so far.
        statuses: status codes for the next requests; files are served after them.
        cuts: number of body bytes after which the next responses stop.
        ranges: whether Range headers are supported.
        checks_if_range: whether If-Range headers are supported.
        validators: whether ETag headers are sent.
        length: value of Content-Length; None for the correct one, -1 for none.
        chunked: whether the body is sent in chunks.
        content_type: of all files.
        redirects: path → URL.
        block: responses wait for this event before the body.
    """

    files: dict[str, bytes]
    url: str = ""
    requests: list[tuple[str, Message]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    checks_if_range: bool = True
    validators: bool = True
    length: int | None = None
    chunked: bool = False
    content_type: str = "application/octet-stream"
    redirects: dict[str, str] = field(default_factory=dict)
    block: threading.Event | None = None


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    server = Server(files)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    httpd.daemon_threads = True
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append((self.path, self.headers))
            self.close_connection = True
            status = server.statuses.pop(0) if server.statuses else 200
            if self.path in server.redirects:
                self.send_response(302)
                self.send_header("Location", server.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif status != 200 or self.path not in server.files:
                self.send_error(status if status != 200 else 404)
            else:
                self._send(server.files[self.path])

        def _send(self, content: bytes) -> None:
            tag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
            start = self._range_start(tag)
            if start is not None and start >= len(content):
                self.send_error(416)
                return
            body = content[start or 0 :]
            self.send_response(200 if start is None else 206)
            self.send_header("Content-Type", server.content_type)
            if start is not None:
                span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", span)
            if server.validators:
                self.send_header("ETag", tag)
            if server.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif server.length != -1:
                self.send_header("Content-Length", str(server.length or len(body)))
            self.end_headers()
            if server.block is not None:
                server.block.wait(10)
            cut = server.cuts.pop(0) if server.cuts else len(body)
            with suppress(ConnectionError):  # the client disconnected
                for i in range(0, min(cut, len(body)), 1000):
                    self._send_chunk(body[i : min(i + 1000, cut)])
                if server.chunked and cut >= len(body):
                    self.wfile.write(b"0\r\n\r\n")

        def _send_chunk(self, chunk: bytes) -> None:
            if server.chunked:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            else:
                self.wfile.write(chunk)

        def _range_start(self, tag: str) -> int | None:
            range_header = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            current = self.headers.get("If-Range", tag) == tag or not server.checks_if_range
            return int(range_header[1]) if range_header and server.ranges and current else None

        def log_message(self, *_: object) -> None:
            pass

    return Handler


# Steps of a reply: bytes as Latin-1 text, and how often they are sent; -1 for without end.
Reply = list[tuple[str, int]]


@contextmanager
def answering(replies: list[Reply]) -> Iterator[str]:
    """The URL of a server that sends these bytes, one reply for each connection, the last one again
    and again; a reply without steps sends nothing until the client leaves."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()

    def serve() -> None:
        count = 0
        while True:
            connection, _ = listener.accept()
            if stopping.is_set():
                connection.close()
                return
            reply = replies[min(count, len(replies) - 1)]
            count += 1
            threading.Thread(
                target=_answer, args=(connection, reply, stopping), daemon=True
            ).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopping.set()
        with socket.create_connection(listener.getsockname()):
            thread.join()
        listener.close()


def _answer(connection: socket.socket, reply: Reply, stopping: threading.Event) -> None:
    with connection, suppress(OSError):
        connection.recv(1 << 16)
        for text, times in reply:
            content, done = text.encode("latin1"), 0
            while done != times and not stopping.is_set():
                connection.sendall(content)
                done += 1
        while not reply and connection.recv(1 << 16):
            pass
