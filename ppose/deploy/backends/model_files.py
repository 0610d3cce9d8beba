"""Model files: which formats each backend reads, and which files belong to a model."""

from __future__ import annotations

import glob
from collections.abc import Collection
from pathlib import Path

from ppose.deploy.backends.settings import BACKENDS, BackendError

# File formats of each backend, the preferred one first.
SUFFIXES = {
    "paddle": (".pdmodel", ".json"),
    "onnxruntime": (".onnx",),
    "openvino": (".xml", ".onnx", ".pdmodel"),
}
_WEIGHTS = {".pdmodel": ".pdiparams", ".json": ".pdiparams", ".xml": ".bin"}
_STEMS = ("model", "inference")


def find_model(model: str | Path, backend: str, listed: Collection[str] | None = None) -> Path:
    """The model file for a backend.

    Args:
        model: the file itself, or its folder.
        backend: one of `BACKENDS`.
        listed: names of the files in the folder that may be used; None for all.

    Raises:
        BackendError: no such file, or several candidates.
    """
    model = Path(model)
    suffixes = SUFFIXES[backend]
    if not model.exists():
        raise BackendError(f"{model}: no such file or folder; export a model there first")
    if model.is_file():
        if model.suffix in suffixes:
            return model
        raise BackendError(f"{model}: {backend} reads {', '.join(suffixes)}{_backend_hint(model)}")
    for suffix in suffixes:
        found = _candidates(model, suffix, listed)
        for stem in _STEMS:
            if model / f"{stem}{suffix}" in found:
                return model / f"{stem}{suffix}"
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise BackendError(f"{model}: contains several models, give one of them: {names}")
        if found:
            return found[0]
    others = [
        name for name in BACKENDS if any(_candidates(model, s, listed) for s in SUFFIXES[name])
    ]
    hint = f"; it contains a model for {', '.join(others)}" if others else ""
    raise BackendError(
        f"{model}: no model for {backend}, which reads {', '.join(suffixes)}{hint}; export it "
        "in one of these formats"
    )


def _candidates(folder: Path, suffix: str, listed: Collection[str] | None) -> list[Path]:
    found = sorted(folder.glob(f"*{suffix}"))
    if listed is not None:
        found = [path for path in found if {p.name for p in _with_weights(path)}.issubset(listed)]
    if suffix == ".json":  # not every JSON file is a model
        found = [path for path in found if path.with_suffix(".pdiparams").is_file()]
    return found


def _backend_hint(file: Path) -> str:
    others = [name for name, suffixes in SUFFIXES.items() if file.suffix in suffixes]
    return f"; use the backend {' or '.join(others)}" if others else ", not this file"


def model_files(path: Path) -> list[Path]:
    """A model file and the separate weight files that belong to it."""
    if path.suffix in _WEIGHTS:
        return _with_weights(path)
    return [path, *sorted(path.parent.glob(f"{glob.escape(path.name)}*data"))]


def _with_weights(path: Path) -> list[Path]:
    """A model file and, where its format keeps weights separately, the weight file."""
    suffix = _WEIGHTS.get(path.suffix)
    return [path, path.with_suffix(suffix)] if suffix else [path]
