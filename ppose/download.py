"""Files over http(s): resumed, verified, and never half-written under their final name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Literal
from urllib.parse import quote, unquote, urlsplit

from ppose.errors import PposeError
from ppose.progress import progress

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_CHUNK = 1 << 18
_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(PposeError, OSError):
    """A download that failed; the message says why and what to do."""


class AddressError(PposeError, ValueError):
    """Neither a path nor an http(s) address."""


@dataclass(frozen=True)
class Checksum:
    """A known digest of a file.

    Args:
        algorithm: hash function.
        digest: hexadecimal; a prefix of at least 8 digits is enough.
    """

    algorithm: Literal["md5", "sha256"]
    digest: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-fA-F]{8,64}", self.digest):
            raise ValueError(
                f"a {self.algorithm} has 8 to 64 hexadecimal digits, found '{self.digest}'"
            )

    @classmethod
    def in_name(cls, name: str) -> Checksum | None:
        """The SHA-256 prefix in a name such as `hrnet-1a2b3c4d.pdparams`; None without one.

        Eight digits and no letter are read as a date.
        """
        match = re.search(r"-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.", name)
        return cls("sha256", match[1]) if match else None

    def of(self, path: Path) -> str:
        """The digest of a file, as many digits as `digest` has."""
        found = hashlib.new(self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
        return found.hexdigest()[: len(self.digest)]


def cache_folder() -> Path:
    """Where downloaded weights live: $PPOSE_CACHE, else ppose/weights in the user's cache."""
    if os.environ.get("PPOSE_CACHE"):
        return Path(os.environ["PPOSE_CACHE"]).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "ppose" / "weights"


def fetch(
    path_or_url: str | Path, cache_dir: Path | None = None, sha256: str | None = None
) -> Path:
    """The local file that a path or an http(s) address stands for, downloaded at most once.

    Args:
        path_or_url: a local path, or an address.
        cache_dir: where downloads are kept; `cache_folder()` by default.
        sha256: expected digest; by default the one in the name of a downloaded file, if any.

    Raises:
        FileNotFoundError: no such local file.
        AddressError: an address that is not http(s).
        DownloadError: the download failed, or the file differs from its checksum.
    """
    text = os.fspath(path_or_url)
    checksum = Checksum("sha256", sha256) if sha256 else None
    if "://" in text:
        url = _checked_url(text)
        name = _name_in(url)
        folder = (cache_dir or cache_folder()) / hashlib.sha256(url.encode()).hexdigest()[:12]
        return download(url, folder / name, checksum=checksum or Checksum.in_name(name))
    if re.match(r"https?:", text):
        raise AddressError(f"'{text}' lost a slash: give an address as a string, not as a Path")
    path = Path(text).expanduser()
    _check_local(path)
    if fault := _fault(path, None, checksum):
        raise DownloadError(f"{path.absolute()}: {fault}")
    return path


def download(
    url: str,
    target: str | Path,
    *,
    size: int | None = None,
    checksum: Checksum | None = None,
    timeout: float = 30.0,
    attempts: int = 5,
    backoff: float = 1.0,
) -> Path:
    """Downloads `url` to `target`, unless the target is there and as expected.

    Bytes go to `<target>.part`, which a later call resumes if the server still has the same
    file; the target appears by a rename, complete and verified. Processes that want the same
    target wait for one another.

    Args:
        url: http or https address.
        target: path of the file.
        size: expected bytes; the server's Content-Length by default.
        checksum: expected digest.
        timeout: seconds without a byte before a connection counts as cut.
        attempts: consecutive failures without progress before giving up.
        backoff: seconds before the second attempt; doubles with each further one.

    Raises:
        AddressError: not http(s).
        DownloadError: see the message; what arrived is kept for the next call unless wrong.
    """
    url, target = _checked_url(url), Path(target).expanduser()
    # Looked at before locking, so that a finished cache may be read-only.
    if target.is_file() and _fault(target, size, checksum) is None:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        if target.is_file():
            fault = _fault(target, size, checksum)
            if fault is None:
                return target
            _say(f"{target}: {fault}; downloading it again")
        _Transfer(url, target, size, checksum, timeout).run(attempts, backoff)
    return target


def check_free(folder: Path, needed: int, purpose: str) -> None:
    """Raises DownloadError unless the disk of an existing `folder` has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{purpose} needs {_size(needed)}, but the disk of {folder.absolute()} has "
            f"{_size(free)} free: free some space or choose a folder on another disk"
        )


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Holds `<target>.lock` against other processes; waits for it, and says so."""
    path = target.with_name(target.name + ".lock")
    said = False
    while True:
        file = path.open("ab")
        # Whoever held the lock before may have removed this very file meanwhile.
        if _try_lock(file) and _is_at(path, file):
            break
        file.close()
        if not said:
            _say(f"another process is at work on {target}; waiting for it")
            said = True
        time.sleep(0.1)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps open files
            path.unlink()
        file.close()


class _CutError(Exception):
    """An attempt that failed in a way that another attempt may not."""


class _Transfer:
    """One file on its way into `<target>.part`; the caller holds the lock."""

    def __init__(
        self, url: str, target: Path, size: int | None, checksum: Checksum | None, timeout: float
    ):
        self.url, self.target, self.timeout = url, target, timeout
        self.size, self.checksum = size, checksum
        self.part = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")

    def run(self, attempts: int, backoff: float) -> None:
        failures, furthest = 0, self._done() if self._read_note() else 0
        while True:
            try:
                self._attempt()
                break
            except _CutError as cut:
                done = self._done()
                failures = 1 if done > furthest else failures + 1
                furthest = max(furthest, done)
                if failures >= attempts:
                    raise DownloadError(
                        f"{self.url}: {cut}; gave up after {attempts} attempts without progress. "
                        f"{self._kept()}Check the connection and run again"
                    ) from None
                wait = backoff * 2 ** (failures - 1)
                _say(f"{self.target.name}: {cut}; {self._kept()}Trying again in {wait:g} s")
                time.sleep(wait)
        self._finish()

    def _attempt(self) -> None:
        """Brings the part to its full length, or raises _CutError or DownloadError."""
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
                    f"{self.target.absolute()}: the disk is full; what arrived is kept: free "
                    "some space and run again to resume"
                ) from None

    def _open(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        request = urllib.request.Request(self.url, headers=headers)
        try:
            return _opener().open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                self._drop()
                raise _CutError("the server refuses to resume") from None
            said = f"the server answered {error.code} {error.reason}"
            if error.code in _WORTH_RETRYING:
                raise _CutError(said) from None
            raise DownloadError(
                f"{self.url}: {said}: check the address and your right to read it"
            ) from None
        except DownloadError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise DownloadError(
                    f"{self.url}: the certificate is not trusted ({reason.verify_message}); "
                    "correct the clock or the certificates of this machine"
                ) from None
            raise _CutError(f"no connection ({_reason(reason)})") from None

    def _start(self, response: http.client.HTTPResponse, done: int, note: dict) -> int:
        """Where in the file the response begins; 0 if the server sends it from the start."""
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise DownloadError(
                f"{self.url}: the server sent a web page, not a file; take the address behind "
                "the download button, and check that no log-in stands before it"
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(
                f"{self.url}: the server insists on Content-Encoding "
                f"'{response.headers['Content-Encoding']}', so the file cannot be verified"
            )
        if response.status != 206:
            if done:
                _say(f"{self.target.name}: the server does not resume this file; starting again")
            return 0
        span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != done or _validator(response) != note.get("validator"):
            self._drop()
            raise _CutError(
                "the file on the server changed, or the server resumes at a wrong place"
            )
        return done

    def _total(self, response: http.client.HTTPResponse, start: int) -> int | None:
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else None
        if total is not None and self.size is not None and total != self.size:
            raise DownloadError(
                f"{self.url}: the server's file has {total} bytes, expected {self.size}: "
                "it is another file or another version; check the address"
            )
        chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if total is None and self.size is None and not (self.checksum or chunked):
            raise DownloadError(
                f"{self.url}: the server does not say how long the file is, so a cut "
                "connection would go unnoticed; give a checksum"
            )
        return total if total is not None else self.size

    def _copy(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        with (
            self.part.open("r+b" if start else "wb") as file,
            progress(total, self.target.name, "B", done=start) as bar,
        ):
            done = file.seek(start)
            while chunk := self._read(response):
                done += len(chunk)
                if total is not None and done > total:
                    raise DownloadError(f"{self.url}: sends more than the {total} bytes expected")
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and done < total:
            raise _CutError("the connection was cut")

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(f"the connection was cut ({_reason(error)})") from None

    def _finish(self) -> None:
        if fault := _fault(self.part, self.size, self.checksum):
            self._drop()
            raise DownloadError(
                f"{self.url}: {fault}. The download was removed; run again, and if it fails "
                "again the server has another file than expected"
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
        """What is known of the part's origin; empty if it cannot be resumed."""
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


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise DownloadError(f"{req.full_url}: refused the redirect to {newurl}: not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """As urllib's own, without the handlers for ftp, file and data."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _SafeRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), parts.hostname
    except ValueError as error:
        raise AddressError(f"'{url}' is not an address: {error}") from None
    if scheme not in ("http", "https"):
        raise AddressError(
            f"'{url}': cannot read '{scheme}' addresses; give an http or https address or a path"
        )
    if not host or parts.username is not None:
        raise AddressError(f"'{url}': an address is http(s)://host/path, without a user name")
    return quote(url, safe="%/:=&?~#+!$,;'@()*[]")


def _name_in(url: str) -> str:
    name = re.sub(r"[^\w.+-]", "_", unquote(urlsplit(url).path).rpartition("/")[2])
    if not name.strip("._"):
        raise AddressError(f"'{url}' names no file: the path must end in a file name")
    return name


def _check_local(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise FileNotFoundError(f"{path.absolute()} is a folder: name a file in it")
    missing = path.absolute()
    while not missing.parent.is_dir():
        missing = missing.parent
    names = [p.name for p in missing.parent.iterdir()]
    close = get_close_matches(missing.name, names, 3)
    hint = f"; near names there: {', '.join(close)}" if close else ""
    raise FileNotFoundError(
        f"no file {path.absolute()}: {missing.parent} has no '{missing.name}'{hint}"
    )


def _fault(path: Path, size: int | None, checksum: Checksum | None) -> str | None:
    """What is wrong with a complete file; None if nothing is."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, expected {size}"
    if checksum is not None and (digest := checksum.of(path)) != checksum.digest.lower():
        return f"its {checksum.algorithm} begins with {digest}, expected {checksum.digest}"
    return None


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What If-Range can compare (RFC 9110, 13.1.5): a strong ETag, else the date."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise DownloadError(
            f"cannot lock {file.name} ({error.strerror}): choose a folder on a disk with locks"
        ) from None
    return True


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _reason(error: object) -> str:
    return str(error) or type(error).__name__


def _size(count: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} bytes"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
