"""A server with one file, and how tests fetch it."""

import hashlib
import os
from pathlib import Path

from http_server import Server

from ppose.utils.download import download

CONTENT = os.urandom(10_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def get(server: Server, target: Path, **options) -> Path:
    return download(server.url + "/a.bin", target, backoff=0.01, timeout=5, **options)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())
