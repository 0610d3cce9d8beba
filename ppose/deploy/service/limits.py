"""What the service takes at most."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf

from ppose.errors import PposeError


@dataclass(frozen=True)
class Limits:
    """Bounds of memory and time; all above 0, but `max_wait_ms` may be 0.

    At worst pictures take about max_queue × max_bytes + 3 × max_batch × max_pixels × 3 bytes of
    memory: files are held by everybody in the queue, pixels by the batch that runs, the one that
    waits, and one whose requests were given up.

    Attributes:
        max_bytes: of a picture's file.
        max_pixels: of a picture, by its header.
        max_queue: requests at once, from the first byte of the picture to the answer.
        max_batch: pictures for each run of the network.
        max_wait_ms: milliseconds that a picture waits for others that are on their way.
        timeout: seconds from the head of a request to its answer.
        upload_timeout: seconds in which the picture has to arrive.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    max_queue: int = 32
    max_batch: int = 8
    max_wait_ms: float = 5.0
    timeout: float = 30.0
    upload_timeout: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                fits, wanted = 1 <= value < inf and value == int(value), "a whole number from 1"
            elif field.name == "max_wait_ms":
                fits, wanted = 0 <= value < inf, "a number from 0"
            else:
                fits, wanted = 0 < value < inf, "a number above 0"
            if not fits:
                raise LimitError(f"{field.name}: expected {wanted}, found {value}")


class LimitError(PposeError, ValueError):
    """A limit that is no limit."""
