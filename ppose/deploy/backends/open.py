"""`open_session`: opens a model with a given backend, or with the fastest one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ppose.deploy.backends.load import load_session
from ppose.deploy.backends.model_files import find_model
from ppose.deploy.backends.session import Session
from ppose.deploy.backends.settings import BACKENDS, check_choice, check_settings


def open_session(
    model: str | Path,
    *,
    backend: str = "auto",
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    size_wh: tuple[int, int] | None = None,
    checked: Mapping[str, str] | None = None,
) -> Session:
    """Opens a model.

    Args:
        model: a model file, or a folder; in a folder the file for the backend is `model.*`,
            `inference.*`, or the only one.
        backend: one of `BACKENDS`, or auto: measures the installed ones at first use and
            remembers the fastest (`ppose.deploy.backends.auto`).
        device: one of `DEVICES`.
        precision: one of `PRECISIONS`.
        threads: CPU threads; None for OMP_NUM_THREADS, or all cores.
        size_wh: size of the images that auto measures with, if the model's size is dynamic.
        checked: file name → SHA-256 of the files in the folder that may be used, already verified
            by the caller; None for all files.

    Raises:
        BackendError: the model or the backend's package is missing or cannot be used.
        SettingError: unknown backend, device or precision, or an invalid number of threads.
    """
    check_choice("backend", backend, ("auto", *BACKENDS))
    check_settings(device, precision, threads)
    if backend == "auto":
        from ppose.deploy.backends.auto import open_fastest

        return open_fastest(model, device, precision, threads, size_wh, checked)
    return load_session(find_model(model, backend, checked), backend, device, precision, threads)
