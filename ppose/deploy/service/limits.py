"""Limits of the service for memory, time and queue length."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf

from ppose.utils.errors import PposeError


@dataclass(frozen=True)
class Limits:
    """Limits for memory and time; positive, except `max_wait_ms`, which may be 0.

    Images need at most about (max_uploads + max_queue) × max_bytes + 3 × max_batch × max_pixels × 3
    bytes of memory: one file per upload and per queued request, and the pixels of three batches:
    one that is running, one that is waiting, and one whose requests were cancelled.

    Attributes:
        max_bytes: size of an image file.
        max_pixels: pixels of an image.
        max_queue: concurrent requests whose image has arrived.
        max_uploads: concurrent uploads; a client, which is an address, may have half of them.
        max_batch: images per run of the network.
        max_wait_ms: milliseconds that an image waits for others that are being uploaded.
        timeout: seconds from the head of a request to its response.
        upload_timeout: seconds for the upload of an image.
        decode_timeout: seconds of processor time for decoding an image.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_queue: int = 32
    max_uploads: int = 32
    max_batch: int = 8
    max_wait_ms: float = 5.0
    timeout: float = 30.0
    upload_timeout: float = 10.0
    decode_timeout: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                fits, wanted = 1 <= value < inf and value == int(value), "an integer of at least 1"
            elif field.name == "max_wait_ms":
                fits, wanted = 0 <= value < inf, "a number of at least 0"
            else:
                fits, wanted = 0 < value < inf, "a number above 0"
            if not fits:
                raise LimitError(f"{field.name}: expected {wanted}, found {value}")


class LimitError(PposeError, ValueError):
    """An invalid limit."""
