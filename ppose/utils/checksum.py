"""Checksums of downloaded files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Checksum:
    """The expected digest of a file.

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

        Digits without a letter are taken for a date.
        """
        match = re.search(r"-(?=[0-9]*[a-f])([0-9a-f]{8,64})\.", name)
        return cls("sha256", match[1]) if match else None

    def of(self, path: Path) -> str:
        """The digest of a file, with as many digits as `digest`."""
        found = hashlib.new(self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
        return found.hexdigest()[: len(self.digest)]


def mismatch(path: Path, size: int | None, checksum: Checksum | None) -> str | None:
    """How a file differs from the expected size or checksum; None if it does not."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"it has {found} bytes, expected {size}"
    if checksum is not None and (digest := checksum.of(path)) != checksum.digest.lower():
        return f"its {checksum.algorithm} begins with {digest}, expected {checksum.digest}"
    return None
