"""Folders of pictures under names that no picture should have."""

from __future__ import annotations

import functools
import json
import os
import random
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import ROOT

from hostile.harness import Reader
from ppose.deploy.session_runner import load_estimator
from ppose.inference.estimator import PoseEstimator
from ppose.inference.image_files import infer

_PHOTO = ROOT / "dataset" / "test_image" / "people.jpg"
_PARTS = (
    *("photo", "-o", "--help", "..", ".", " ", "*", "[a]", "?", "%s", "{}", "~", "$HOME", "`id`"),
    *("a\nb", "\r", "\t", "\x1b[31m", "\x1b]0;title\x07", "\x7f", "\x80", "\u202e", "\u200b"),
    *("é", "e\u0301", "人", "\U0001f9cd", "ﬀ", "İ", "ß", "NUL", "CON", "x" * 100, "人" * 40),
    *map(os.fsdecode, (b"\xff", b"\xe9", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f")),
)
_ENDS = (
    ".jpg",
    ".JPG",
    ".jpeg",
    ".png",
    ".webp",
    ".tif",
    ".jpg.part",
    "",
    ".gif",
    ".jpg ",
    ".jpg\n",
)
_KINDS = ("picture",) * 6 + ("empty", "folder", "dangling", "loop", "pipe", "socket", "other")


def _generate(rng: random.Random) -> bytes:
    """JSON: what lies in the folder, as pairs of a name and a kind, and what is asked for."""
    entries = {}
    for _ in range(rng.choice((1, 3, 8))):
        name = "".join(rng.choices(_PARTS, k=rng.choice((1, 1, 2, 3)))) + rng.choice(_ENDS)
        while len(os.fsencode(name)) > 255:
            name = name[1:]
        if name.strip("."):
            entries[name] = rng.choice(_KINDS)
    asked = rng.choice(
        ("", "", "", "/*", "/**", "/**/*.jpg", "/[", "/no", *(f"/{n}" for n in entries))
    )
    return json.dumps([list(entries.items()), asked]).encode()


@functools.cache
def _estimator() -> PoseEstimator:
    bundle = ROOT / "configs" / "weights" / "bundles" / "quickstart"
    return load_estimator(bundle, backend="onnxruntime", threads=1)


def _read(path: Path) -> None:
    entries, asked = json.loads(path.read_text())
    _estimator()
    with TemporaryDirectory() as name:
        folder = Path(name, "in")
        folder.mkdir()
        for entry, kind in entries:
            _make(folder / entry, kind)
        try:
            infer(_estimator, f"{folder}{asked}", Path(name, "out"))
        finally:
            _check(Path(name, "out"))


def _make(path: Path, kind: str) -> None:
    match kind:
        case "picture":
            path.write_bytes(_PHOTO.read_bytes())
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
            (path / "photo.jpg").write_bytes(_PHOTO.read_bytes())
        case "dangling":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case "pipe":
            os.mkfifo(path)
        case "socket":
            here = Path.cwd()
            os.chdir(path.parent)  # the address of a socket is short
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(os.fsencode(path.name)[:100])
            os.chdir(here)
        case "other":
            path.write_bytes(b"text")


def _check(out: Path) -> None:
    """What was written is whole, and each picture of `poses.json` has its drawing."""
    if out.exists():
        report = json.loads((out / "poses.json").read_text())
        drawn = [file for file in out.iterdir() if file.name != "poses.json"]
        assert len(drawn) == len(report["images"]), (drawn, report)
        assert all(Path(image["image"]).exists() for image in report["images"])


READERS = [Reader("picture names", ".json", _generate, _read)]
