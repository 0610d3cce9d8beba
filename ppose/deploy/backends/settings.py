"""Names of backends, devices and precisions, their validation, and `BackendError`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ppose.utils.cpu import default_threads, usable_cores
from ppose.utils.errors import PposeError

BACKENDS = ("paddle", "onnxruntime", "openvino")
DEVICES = ("cpu", "gpu")
PRECISIONS = ("fp32", "fp16", "int8")
PACKAGES = {
    "paddle": ("paddlepaddle", "paddlepaddle-gpu"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
}
# More threads than cores only wait for each other, but a few more are allowed for experiments.
_THREADS_PER_CORE, _ALWAYS_ALLOWED = 8, 64


class BackendError(PposeError):
    """A model cannot be run with these settings; the message has file, reason and a fix."""


class SettingError(BackendError, ValueError):
    """An unknown backend, device or precision, or an invalid number of threads."""


def cache_folder() -> Path:
    """Where backends remember what they have found out: in XDG_CACHE_HOME, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ppose"


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Raises SettingError unless `value` is one of `choices`."""
    if value not in choices:
        raise SettingError(f"{what}: expected one of {', '.join(choices)}, found {value!r}")


def check_settings(device: str, precision: str, threads: int | None) -> None:
    """Raises SettingError for an unknown device or precision or an invalid number of threads."""
    check_choice("device", device, DEVICES)
    check_choice("precision", precision, PRECISIONS)
    name, count = (
        ("OMP_NUM_THREADS", default_threads()) if threads is None else ("threads", threads)
    )
    if count < 1:
        raise SettingError(f"{name}: expected 1 or more, found {count}")
    cores = usable_cores()
    most = max(_THREADS_PER_CORE * cores, _ALWAYS_ALLOWED)
    if count > most:
        raise SettingError(
            f"{name}: expected at most {most}, found {count}: this machine has {cores} cores"
        )
