"""Reading of uploaded images, as the request body or in a form, with a size limit."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from ipaddress import ip_address, ip_network

import anyio
import anyio.lowlevel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from ppose.deploy.service.errors import CLIENT_CLOSED_REQUEST, RequestError
from ppose.deploy.service.limits import Limits

OnBytes = Callable[[int], None]

_FIELD = "image"
_MIN_RATE = 10_000.0  # bytes per second; slower uploads end when their places are needed
_RATE_SECONDS = 0.5  # after which the rate counts
_PARSED_BYTES = 8192
# Allowance for boundaries, headers and other fields of a form.
_FORM_BYTES = 65_536
_USAGE = (
    "send the file as the body with a Content-Type such as image/jpeg, or as the field "
    f"'{_FIELD}' of multipart/form-data"
)


class Uploads:
    """Uploads in progress: a limited number, of which a client may have half.

    Where an upload finds no place, the slowest one that is slower than `_MIN_RATE` ends for it, so
    that nobody can take all places by sending little.

    Args:
        most: maximum number.
    """

    def __init__(self, most: int):
        self._most = most
        self._active: list[_Upload] = []

    def __len__(self) -> int:
        return len(self._active)

    async def read(self, request: Request, limits: Limits) -> bytes:
        """Reads the image file of a request.

        Raises:
            RequestError: 429 too many uploads; see `read_upload`.
        """
        upload = _Upload(_client(request))
        self._make_room(upload.client)
        self._active.append(upload)
        try:
            with upload.scope:
                return await read_upload(request, limits, upload.add)
        finally:
            self._active.remove(upload)
        raise RequestError(
            408,
            "slow_upload",
            f"the upload, at {upload.rate:.0f} bytes/s, ended for another one; send it faster",
            headers={"Connection": "close"},
        )

    def _make_room(self, client: str) -> None:
        own = [upload for upload in self._active if upload.client == client]
        share = max(1, self._most // 2)
        if len(own) < share and len(self._active) < self._most:
            return
        slow = [u for u in (own if len(own) >= share else self._active) if u.rate < _MIN_RATE]
        if not slow:
            raise RequestError(
                429,
                "too_many_uploads",
                f"{len(own)} uploads of this client and {len(self._active)} of all are in "
                f"progress; at most {share} and {self._most} are allowed",
                retry_after=1,
            )
        # One that ends already makes room, too.
        if not any(upload.scope.cancel_called for upload in slow):
            min(slow, key=lambda upload: upload.rate).scope.cancel()


class _Upload:
    """An upload in progress, and the scope that ends it."""

    def __init__(self, client: str):
        self.client = client
        self.scope = anyio.CancelScope()
        self._received = 0
        self._since = anyio.current_time()

    def add(self, count: int) -> None:
        """Notes that bytes have arrived."""
        self._received += count

    @property
    def rate(self) -> float:
        """Bytes per second; infinite in the beginning."""
        elapsed = anyio.current_time() - self._since
        return self._received / elapsed if elapsed > _RATE_SECONDS else math.inf


def _client(request: Request) -> str:
    """The client's address; of IPv6 addresses the part that its network gives it."""
    host = request.client.host if request.client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(ip_network((address, 64), strict=False)) if address.version == 6 else host


async def read_upload(request: Request, limits: Limits, on_bytes: OnBytes) -> bytes:
    """Reads the image file, and calls `on_bytes` with the size of each part.

    Raises:
        RequestError: 408 too slow, 413 too many bytes, 415 unsupported content type or encoding,
            422 a form that is invalid or has no image, 499 the client disconnected.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise RequestError(
            415,
            "encoding",
            f"Content-Encoding '{encoding}' is not supported; send the file unchanged",
        )
    read = _reader(request.headers.get("content-type", ""))
    try:
        with anyio.fail_after(limits.upload_timeout):
            return await read(request, limits.max_bytes, on_bytes)
    except TimeoutError:
        raise RequestError(
            408,
            "slow_upload",
            f"the upload took longer than {limits.upload_timeout:g} s",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise RequestError(
            CLIENT_CLOSED_REQUEST, "gone", "the client disconnected during the upload"
        ) from None


def _reader(content_type: str) -> Callable[[Request, int, OnBytes], Awaitable[bytes]]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _from_form
    if kind.startswith("image/") or kind == "application/octet-stream":
        return _from_body
    found = f"Content-Type '{kind[:100]}' is not an image" if kind else "Content-Type is missing"
    raise RequestError(415, "content_type", f"{found}; {_USAGE}")


async def _from_body(request: Request, max_bytes: int, on_bytes: OnBytes) -> bytes:
    data = bytearray()
    async for chunk in _bounded(request, max_bytes, max_bytes, on_bytes):
        data += chunk
    return bytes(data)


async def _from_form(request: Request, max_bytes: int, on_bytes: OnBytes) -> bytes:
    max_form_bytes = max_bytes + _FORM_BYTES
    parser = MultiPartParser(
        request.headers,
        _small(_bounded(request, max_form_bytes, max_bytes, on_bytes)),
        max_files=1,
        max_fields=8,
        max_part_size=_FORM_BYTES,
    )
    parser.spool_max_size = max_form_bytes + 1  # never write to disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(422, "form", f"invalid form: {error.message}") from None
    try:
        others = sorted(set(form) - {_FIELD})
        if others:
            raise RequestError(
                422, "form", f"the form has an unknown field '{others[0][:100]}'; {_USAGE}"
            )
        file = form.get(_FIELD)
        if not isinstance(file, UploadFile):
            missing = "has no" if file is None else "has no file in its"
            raise RequestError(422, "form", f"the form {missing} field '{_FIELD}'; {_USAGE}")
        data = await file.read()
    finally:
        await form.close()
    if len(data) > max_bytes:
        raise _too_large_upload(f"{len(data)}", max_bytes)
    return data


async def _small(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The chunks in parts that do not keep others waiting, however they are parsed."""
    async for chunk in chunks:
        for at in range(0, len(chunk), _PARSED_BYTES):
            yield chunk[at : at + _PARSED_BYTES]
            await anyio.lowlevel.checkpoint()


async def _bounded(
    request: Request, most: int, max_bytes: int, on_bytes: OnBytes
) -> AsyncGenerator[bytes, None]:
    """The body's chunks; RequestError 413 if Content-Length or the data exceed `most` bytes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large_upload(announced[:20], max_bytes)
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        on_bytes(len(chunk))
        if count > most:
            raise _too_large_upload(f"more than {most}", max_bytes)
        yield chunk


def _too_large_upload(found: str, max_bytes: int) -> RequestError:
    return RequestError(
        413, "too_many_bytes", f"the upload has {found} bytes; at most {max_bytes} are allowed"
    )
