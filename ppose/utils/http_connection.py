"""HTTP connections to servers that are not trusted to answer well, or to end."""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from ppose.utils.errors import DownloadError

_SPARE = 1 << 20  # bytes of headers, trailers and the like
_OVERHEAD = 16  # bytes that a byte of a body may need: chunks of one byte need 6
_LEAST = 1024  # bytes of a body that have to arrive within the time limit


def open_url(url: str, headers: dict[str, str], timeout: float) -> http.client.HTTPResponse:
    """The response to a GET request, after redirects.

    What the server sends beside the body is bounded, and a body has to get on.

    Args:
        url: http or https.
        headers: of the request.
        timeout: seconds without a byte, or half of those without a KiB of a body.

    Raises:
        urllib.error.HTTPError: another status than 2xx.
        DownloadError: a redirect to what is not http(s), or from https to http.
        OSError, http.client.HTTPException, ValueError: no connection, no HTTP, or no URL.
    """
    opener = urllib.request.OpenerDirector()
    # Those of urllib without ftp, file and data.
    for handler in (
        urllib.request.ProxyHandler(),
        _HTTPHandler(),
        _HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _SafeRedirects(),
    ):
        opener.add_handler(handler)
    return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http(s) only, and never from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise DownloadError(f"{req.full_url}: refused the redirect to {newurl}: not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Metered(io.RawIOBase):
    """What a server sends, with a limit to all that is not body.

    `http.client` reads interim responses and trailers for as long as they come.
    """

    def __init__(self, sock: socket.socket):
        self._source: Any = sock.makefile("rb", buffering=0)
        self._timeout = sock.gettimeout()
        self._left = _SPARE
        self._body = 0
        self._renew()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise http.client.HTTPException("the server sends headers without end")
        if self._end is not None and time.monotonic() > self._end:
            raise TimeoutError("the server sends next to nothing")
        count = self._source.readinto(buffer)
        self._left -= count or 0
        return count

    def close(self) -> None:
        self._source.close()
        super().close()

    def got_body(self, count: int) -> None:
        """Bytes of the body arrived."""
        self._left += _OVERHEAD * count
        self._body += count
        if self._body >= _LEAST:
            self._body = 0
            self._renew()

    def _renew(self) -> None:
        self._end = None if self._timeout is None else time.monotonic() + 2 * self._timeout


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any):
        super().__init__(sock, *args, **options)
        self.fp.close()
        self._meter = _Metered(sock)
        self.fp = io.BufferedReader(self._meter)

    def read1(self, n: int = -1) -> bytes:
        content = super().read1(n)
        self._meter.got_body(len(content))
        return content


class _HTTPConnection(http.client.HTTPConnection):
    response_class = _Response


class _HTTPSConnection(http.client.HTTPSConnection):
    response_class = _Response


class _HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPConnection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_HTTPSConnection, req)
