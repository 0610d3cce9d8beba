"""Routes for the demo page at `/` and its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import Response

_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
    "/draw.js": ("draw.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def add_page(app: FastAPI) -> None:
    """Adds a route for each file of the page; files are read once."""
    for path, (name, media_type) in _FILES.items():
        content = (_FOLDER / name).read_bytes()
        app.get(path, include_in_schema=False)(_file_endpoint(content, media_type))


def _file_endpoint(content: bytes, media_type: str) -> Callable[[], Response]:
    def endpoint() -> Response:
        return Response(content, media_type=media_type)

    return endpoint
