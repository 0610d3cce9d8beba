"""`load_session`: loads a model file with a given backend, which it imports."""

from __future__ import annotations

import importlib
from pathlib import Path

from ppose.deploy.backends.session import Session
from ppose.deploy.backends.settings import PACKAGES, BackendError

_CLASSES = {
    "paddle": "PaddleSession",
    "onnxruntime": "OnnxRuntimeSession",
    "openvino": "OpenVinoSession",
}


def load_session(
    path: Path, backend: str, device: str, precision: str, threads: int | None
) -> Session:
    """Loads a model file with one backend.

    Raises:
        BackendError: the backend's package is missing or broken, or it cannot run the model.
    """
    try:
        module = importlib.import_module(f"ppose.deploy.backends.{backend}")
    except ImportError as error:
        package = PACKAGES[backend][0]
        if isinstance(error, ModuleNotFoundError) and error.name == backend:
            raise BackendError(
                f"the backend {backend} is not installed; pip install {package}"
            ) from None
        raise BackendError(
            f"the backend {backend} cannot be imported: {error}; reinstall {package}"
        ) from error
    session: Session = getattr(module, _CLASSES[backend])(
        path, device=device, precision=precision, threads=threads
    )
    return session
