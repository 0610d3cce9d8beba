"""Reading of uploaded images, as the request body or in a form, with a size limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from ppose.deploy.service.errors import CLIENT_CLOSED_REQUEST, RequestError
from ppose.deploy.service.limits import Limits

_FIELD = "image"
# Allowance for boundaries, headers and other fields of a form.
_FORM_BYTES = 65_536
_USAGE = (
    "send the file as the body with a Content-Type such as image/jpeg, or as the field "
    f"'{_FIELD}' of multipart/form-data"
)


async def read_upload(request: Request, limits: Limits) -> bytes:
    """Reads the image file.

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
            return await read(request, limits.max_bytes)
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


def _reader(content_type: str) -> Callable[[Request, int], Awaitable[bytes]]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _from_form
    if kind.startswith("image/") or kind == "application/octet-stream":
        return _from_body
    found = f"Content-Type '{kind[:100]}' is not an image" if kind else "Content-Type is missing"
    raise RequestError(415, "content_type", f"{found}; {_USAGE}")


async def _from_body(request: Request, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in _bounded(request, max_bytes, max_bytes):
        data += chunk
    return bytes(data)


async def _from_form(request: Request, max_bytes: int) -> bytes:
    max_form_bytes = max_bytes + _FORM_BYTES
    parser = MultiPartParser(
        request.headers,
        _bounded(request, max_form_bytes, max_bytes),
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


async def _bounded(request: Request, most: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks; RequestError 413 if Content-Length or the data exceed `most` bytes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large_upload(announced, max_bytes)
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > most:
            raise _too_large_upload(f"more than {most}", max_bytes)
        yield chunk


def _too_large_upload(found: str, max_bytes: int) -> RequestError:
    return RequestError(
        413, "too_many_bytes", f"the upload has {found} bytes; at most {max_bytes} are allowed"
    )
