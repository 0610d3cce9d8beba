"""Resumable transfer of one file over HTTP."""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import sys
import time
import urllib.error
from pathlib import Path

from ppose.utils.checksum import Checksum, mismatch
from ppose.utils.errors import DownloadError
from ppose.utils.http_connection import open_url
from ppose.utils.printable import bounded
from ppose.utils.progress import progress

_CHUNK = 1 << 18
_UNKNOWN_LENGTH = 4 << 30  # bytes of a body whose length nobody says
_SHOWN = 200  # characters of what a server says
_TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class _RetryableError(Exception):
    """An attempt failed in a way that the next attempt may not."""


class HttpTransfer:
    """Downloads a URL into `<target>.part`, verifies it, and renames it to `target`.

    The caller holds the lock of `target`. `<target>.part.json` records where the part came from,
    so that a later process can resume it.

    Args:
        url: http or https.
        target: path of the file.
        size: expected bytes; None takes the server's Content-Length.
        checksum: expected digest.
        timeout: seconds without a byte before a connection counts as lost.
    """

    def __init__(
        self, url: str, target: Path, size: int | None, checksum: Checksum | None, timeout: float
    ):
        self.url, self.target, self.timeout = url, target, timeout
        self.size, self.checksum = size, checksum
        self.part = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")

    def run(self, attempts: int, backoff: float) -> None:
        """Transfers the file; for the arguments see `ppose.utils.download.download`."""
        failures, furthest = 0, self._done() if self._read_note() else 0
        while True:
            try:
                self._attempt()
                break
            except _RetryableError as error:
                done = self._done()
                failures = 1 if done > furthest else failures + 1
                furthest = max(furthest, done)
                if failures >= attempts:
                    raise DownloadError(
                        f"{self.url}: {error}; gave up after {attempts} attempts without "
                        f"progress. {self._kept()}Check the connection and run again"
                    ) from None
                wait = backoff * 2 ** (failures - 1)
                self._print(f"{error}; {self._kept()}Trying again in {wait:g} s")
                time.sleep(wait)
        self._finish()

    def _attempt(self) -> None:
        """Completes the part, or raises _RetryableError or DownloadError."""
        note = self._read_note()
        done = self._done() if note else 0
        if done and done == note.get("size"):
            return
        headers = {"User-Agent": "ppose", "Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
            if note["validator"]:
                headers["If-Range"] = note["validator"]
        with self._open(headers) as response:
            start = self._start(response, done, note)
            total = self._total(response, start)
            check_free(self.target.parent, (total or 0) - self._done(), self.target.name)
            self._write_note(response, total)
            try:
                self._copy(response, start, total)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise DownloadError(
                    f"{self.target.absolute()}: the disk is full. The downloaded part is kept: "
                    "free some space and run again to resume"
                ) from None

    def _open(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        try:
            response = open_url(self.url, headers, self.timeout)
            if response.status not in (200, 206):
                response.close()
                raise DownloadError(
                    f"{self.url}: the server answered {response.status}, not with the file"
                )
            return response
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                self._drop()
                raise _RetryableError("the server refuses to resume") from None
            answer = f"the server answered {error.code} {_reason(error.reason)}"
            if error.code in _TEMPORARY_STATUSES:
                raise _RetryableError(answer) from None
            raise DownloadError(
                f"{self.url}: {answer}: check the URL and whether you have access"
            ) from None
        except DownloadError:
            raise
        except (ValueError, http.client.InvalidURL) as error:
            raise DownloadError(
                f"{self.url}: the server redirects to what is not a URL ({_reason(error)})"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, socket.gaierror) and not self._done():
                raise DownloadError(
                    f"{self.url}: the host has no address ({_reason(reason)}); check the URL, and "
                    "the connection of this machine"
                ) from None
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise DownloadError(
                    f"{self.url}: the certificate is not trusted ({reason.verify_message}); "
                    "check the clock and the certificates of this machine"
                ) from None
            raise _RetryableError(f"no connection ({_reason(reason)})") from None

    def _start(self, response: http.client.HTTPResponse, done: int, note: dict) -> int:
        """The offset in the file at which the response begins; 0 if the server sends all of it."""
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise DownloadError(
                f"{self.url}: the server sent a web page instead of a file; use the URL of the "
                "download button, and check whether a login is required"
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(
                f"{self.url}: the server insists on Content-Encoding "
                f"'{_reason(response.headers['Content-Encoding'])}', so the file cannot be verified"
            )
        if response.status != 206:
            if done:
                self._print("the server cannot resume this file; starting again")
            return 0
        if not done:
            raise DownloadError(
                f"{self.url}: the server sent a part (206) though the whole file was asked for"
            )
        found = _range(response)
        same = found is not None and _validator(response) == note.get("validator")
        if found is None or not same or found[0] != done or found[2] not in (None, note["size"]):
            self._drop()
            raise _RetryableError(
                "the file on the server has changed, or the server resumes at a wrong offset"
            )
        return done

    def _total(self, response: http.client.HTTPResponse, start: int) -> int | None:
        total = None if response.length is None else start + response.length
        if start:  # the response may end before the file does
            found = _range(response)
            assert found is not None
            if total not in (None, found[1] + 1):
                raise DownloadError(f"{self.url}: the length of the part is not that of its range")
            total = found[2] or self._read_note()["size"]
        if total == 0:
            raise DownloadError(f"{self.url}: the server sent an empty file")
        if total is not None and self.size is not None and total != self.size:
            raise DownloadError(
                f"{self.url}: the server's file has {total} bytes, expected {self.size}: "
                "it is a different file or version; check the URL"
            )
        chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if total is None and self.size is None and not (self.checksum or chunked):
            raise DownloadError(
                f"{self.url}: the server does not say how long the file is, so a lost "
                "connection would go unnoticed; give a checksum"
            )
        return total if total is not None else self.size

    def _copy(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        with (
            self.part.open("r+b" if start else "wb") as file,
            progress(total, self.target.name, "B", done=start) as bar,
        ):
            done = file.seek(start)
            limit = _UNKNOWN_LENGTH if total is None else total
            while chunk := self._read(response):
                done += len(chunk)
                if done > limit:
                    raise DownloadError(f"{self.url}: sends more than the {limit} bytes expected")
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and done < total:
            raise _RetryableError("the connection was lost")
        if not done:
            raise DownloadError(f"{self.url}: the server sent an empty file")

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _RetryableError(f"the connection was lost ({_reason(error)})") from None

    def _finish(self) -> None:
        """Verifies the part, syncs it, and renames it."""
        if fault := mismatch(self.part, self.size, self.checksum):
            self._drop()
            raise DownloadError(
                f"{self.url}: {fault}. The download was removed. Run again; if it fails again, "
                "the server has a different file than expected"
            )
        with self.part.open("rb+") as file:
            os.fsync(file.fileno())
        self.part.replace(self.target)
        self.note.unlink(missing_ok=True)

    def _done(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _kept(self) -> str:
        return f"{_size(self._done())} are kept. " if self._done() else ""

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _read_note(self) -> dict:
        """The recorded origin of the part; empty if it cannot be resumed."""
        try:
            note = json.loads(self.note.read_text("utf-8"))
            same = note["url"] == self.url
            # Without a validator only a checksum can tell that two halves belong together.
            return note if same and (note["validator"] or self.checksum) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _write_note(self, response: http.client.HTTPResponse, total: int | None) -> None:
        note = {"url": self.url, "validator": _validator(response), "size": total}
        self.note.write_text(json.dumps(note), "utf-8")

    def _print(self, text: str) -> None:
        print(bounded(f"{self.target.name}: {text}"), file=sys.stderr, flush=True)


def check_free(folder: Path, needed: int, purpose: str) -> None:
    """Raises DownloadError unless the disk of an existing `folder` has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{purpose} needs {_size(needed)}, but the disk of {folder.absolute()} has "
            f"{_size(free)} free: free some space or choose a folder on another disk"
        )


def _validator(response: http.client.HTTPResponse) -> str | None:
    """The value for If-Range (RFC 9110, 13.1.5): a strong ETag, else the date."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _range(response: http.client.HTTPResponse) -> tuple[int, int, int | None] | None:
    """First and last byte and length of the file, from Content-Range; None if it is not valid."""
    found = re.fullmatch(
        r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", "")
    )
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    return (first, last, total) if first <= last and last < (total or last + 1) else None


def _reason(error: object) -> str:
    """What went wrong in the words of a server or a library, in one line."""
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__


def _size(count: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} bytes"
