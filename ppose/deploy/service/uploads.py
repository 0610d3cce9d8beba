"""The bytes of a picture out of a request: raw or in a form, bounded while they arrive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from ppose.deploy.service.limits import Limits
from ppose.deploy.service.refusals import GONE, RefusedError

_FIELD = "image"
# What boundaries, headers and stray fields of a form may add to the picture.
_FORM_BYTES = 65_536
_HOW = (
    "send the file as the body with a Content-Type such as image/jpeg, or as the field "
    f"'{_FIELD}' of multipart/form-data"
)


async def read_upload(request: Request, limits: Limits) -> bytes:
    """The picture's file.

    Raises RefusedError: 408 too slow, 413 too many bytes, 415 another content type, 422 a form that
    cannot be read or has no picture, 499 the client left.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise RefusedError(
            415, "encoding", f"Content-Encoding '{encoding}' is not taken; send the file as it is"
        )
    read = _reader(request.headers.get("content-type", ""))
    try:
        with anyio.fail_after(limits.upload_timeout):
            return await read(request, limits.max_bytes)
    except TimeoutError:
        raise RefusedError(
            408,
            "slow_upload",
            f"the picture did not arrive within {limits.upload_timeout:g} s",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise RefusedError(GONE, "gone", "the client left while it sent the picture") from None


def _reader(content_type: str) -> Callable[[Request, int], Awaitable[bytes]]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _from_form
    if kind.startswith("image/") or kind == "application/octet-stream":
        return _from_body
    found = f"Content-Type '{kind[:100]}'" if kind else "a request without Content-Type"
    raise RefusedError(415, "content_type", f"{found} is no picture; {_HOW}")


async def _from_body(request: Request, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in _bounded(request, max_bytes, max_bytes):
        data += chunk
    return bytes(data)


async def _from_form(request: Request, max_bytes: int) -> bytes:
    most = max_bytes + _FORM_BYTES
    parser = MultiPartParser(
        request.headers,
        _bounded(request, most, max_bytes),
        max_files=1,
        max_fields=8,
        max_part_size=_FORM_BYTES,
    )
    parser.spool_max_size = most + 1  # in memory, never in a file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RefusedError(422, "form", f"the form cannot be read: {error.message}") from None
    try:
        others = sorted(set(form) - {_FIELD})
        if others:
            raise RefusedError(
                422, "form", f"the form has an unknown field '{others[0][:100]}'; {_HOW}"
            )
        file = form.get(_FIELD)
        if not isinstance(file, UploadFile):
            missing = "has no" if file is None else "has no file in its"
            raise RefusedError(422, "form", f"the form {missing} field '{_FIELD}'; {_HOW}")
        data = await file.read()
    finally:
        await form.close()
    if len(data) > max_bytes:
        raise _too_long(f"{len(data)}", max_bytes)
    return data


async def _bounded(request: Request, most: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body; RefusedError 413 as soon as it is announced to be longer than `most`, or is."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_long(announced, max_bytes)
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > most:
            raise _too_long(f"more than {most}", max_bytes)
        yield chunk


def _too_long(found: str, max_bytes: int) -> RefusedError:
    return RefusedError(
        413, "too_many_bytes", f"the upload has {found} bytes; at most {max_bytes} are taken"
    )
