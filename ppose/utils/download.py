"""Downloads over http(s): cached, resumed, verified, and safe for several processes.

The downloader is written by hand because no usual library does all of this. urllib and requests
transfer bytes and leave the rest to the caller. pooch caches, verifies and renames into place, but
starts over when a connection is lost, and lets two processes download the same file. Here

- a download resumes where it stopped, also in a later process, if the server still has the same
  file (Range and If-Range, or a checksum);
- the target appears by a rename, after the known size and checksum have been verified;
- processes that want the same target wait for one another;
- only the standard library is needed, and tqdm, if installed, for the progress bar.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ppose.utils.checksum import Checksum, mismatch
from ppose.utils.errors import DownloadError, PposeError
from ppose.utils.file_lock import locked
from ppose.utils.http_transfer import HttpTransfer, check_free

__all__ = [
    "AddressError",
    "Checksum",
    "DownloadError",
    "cache_folder",
    "check_free",
    "download",
    "fetch",
    "locked",
]


class AddressError(PposeError, ValueError):
    """Neither a path nor a valid http(s) URL."""


def cache_folder() -> Path:
    """Folder of downloaded weights: $PPOSE_CACHE, else ppose/weights in the user's cache."""
    if os.environ.get("PPOSE_CACHE"):
        return _expanded(os.environ["PPOSE_CACHE"])
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(home) / "ppose" / "weights"


def _expanded(path: str | Path) -> Path:
    """A path with `~` as the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise AddressError(f"'{path}': there is no such home folder; give the whole path") from None


def fetch(
    path_or_url: str | Path, cache_dir: Path | None = None, sha256: str | None = None
) -> Path:
    """The local file of a path or an http(s) URL; a URL is downloaded at most once.

    Args:
        path_or_url: a local path or a URL.
        cache_dir: folder of downloads; `cache_folder()` by default.
        sha256: expected digest; by default the one in the name of a downloaded file, if any.

    Raises:
        FileNotFoundError: no such local file.
        AddressError: not an http(s) URL.
        DownloadError: the download failed, or the file does not match its checksum.
    """
    text = os.fspath(path_or_url)
    checksum = Checksum("sha256", sha256) if sha256 else None
    if "://" in text:
        url = _checked_url(text)
        name = _file_name(url)
        folder = (cache_dir or cache_folder()) / hashlib.sha256(url.encode()).hexdigest()[:12]
        return download(url, folder / name, checksum=checksum or Checksum.in_name(name))
    if re.match(r"https?:", text):
        raise AddressError(f"'{text}' lost a slash: pass a URL as a string, not as a Path")
    path = _expanded(text)
    _check_local(path)
    if fault := mismatch(path, None, checksum):
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
    """Downloads `url` to `target`, unless the target exists and is as expected.

    Bytes go to `<target>.part`, which a later call resumes if the server still has the same
    file. Processes that want the same target wait for one another.

    Args:
        url: http or https.
        target: path of the file.
        size: expected bytes; the server's Content-Length by default.
        checksum: expected digest.
        timeout: seconds without a byte before a connection counts as lost.
        attempts: consecutive failures without progress before giving up.
        backoff: seconds before the second attempt; doubles with each further one.

    Raises:
        AddressError: not an http(s) URL.
        DownloadError: see the message; the downloaded part is kept for the next call unless it
            is wrong.
    """
    url, target = _checked_url(url), _expanded(target)
    # Checked before locking, so that a complete cache may be read-only.
    if target.is_file() and mismatch(target, size, checksum) is None:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        if target.is_file():
            fault = mismatch(target, size, checksum)
            if fault is None:
                return target
            print(f"{target}: {fault}; downloading it again", file=sys.stderr, flush=True)
        HttpTransfer(url, target, size, checksum, timeout).run(attempts, backoff)
    return target


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        scheme, host, _ = parts.scheme.lower(), parts.hostname, parts.port
        (host or "").encode("idna")
        quoted = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    except ValueError as error:
        raise AddressError(f"'{url}' is not a valid URL: {error}") from None
    if scheme not in ("http", "https"):
        raise AddressError(
            f"'{url}': cannot read '{scheme}' URLs; give an http or https URL or a path"
        )
    if not host or parts.username is not None:
        raise AddressError(f"'{url}': a URL has the form http(s)://host/path, without a user name")
    return quoted


def _file_name(url: str) -> str:
    name = re.sub(r"[^\w.+-]", "_", unquote(urlsplit(url).path).rpartition("/")[2])
    if not name.strip("._"):
        raise AddressError(f"'{url}' has no file name: its path must end in one")
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
