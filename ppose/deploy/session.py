"""Models run by one of several backends, all called alike; a backend is imported when asked for."""

from __future__ import annotations

import glob
import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ppose.cpu import default_threads, usable_cores
from ppose.errors import PposeError

BACKENDS = ("paddle", "onnxruntime", "openvino")
DEVICES = ("cpu", "gpu")
PRECISIONS = ("fp32", "fp16", "int8")

# What each reads, the best first, and what it is called where packages are installed.
SUFFIXES = {
    "paddle": (".pdmodel", ".json"),
    "onnxruntime": (".onnx",),
    "openvino": (".xml", ".onnx", ".pdmodel"),
}
PACKAGES = {
    "paddle": ("paddlepaddle", "paddlepaddle-gpu"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
}
_CLASSES = {
    "paddle": "PaddleSession",
    "onnxruntime": "OnnxRuntimeSession",
    "openvino": "OpenVinoSession",
}
_WEIGHTS = {".pdmodel": ".pdiparams", ".json": ".pdiparams", ".xml": ".bin"}
_STEMS = ("model", "inference")
# Threads beyond the cores only wait for each other; what a user may have reason to try is allowed.
_THREADS_PER_CORE, _ALWAYS_ALLOWED = 8, 64
# How lines of OpenVINO's errors begin that say where.
_PLACES = ("Exception from ", "Check '", "While validating node ")


class BackendError(PposeError):
    """A model cannot be run as asked for; the message has the file, the reason and what to do."""


class SettingError(BackendError, ValueError):
    """A backend, device or precision that there is not, or a useless number of threads."""


@dataclass(frozen=True)
class Tensor:
    """What goes into a model or comes out.

    Attributes:
        name: in the model.
        dtype: as NumPy names it.
        shape: -1 where open.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def takes(self, array: np.ndarray) -> bool:
        """Whether an array has this type and, with no empty axis, this shape."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(a == b or b < 0 < a for a, b in zip(array.shape, self.shape, strict=True))
        )

    @property
    def open_batch(self) -> bool:
        """Whether it takes any number in its first axis."""
        return self.shape[:1] == (-1,)

    def __str__(self) -> str:
        sizes = ", ".join("any" if size < 0 else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} ({sizes})"


class Session(ABC):
    """A model that one backend runs. Not for several threads at once.

    Args:
        path: of the model's file.
        device: of `DEVICES`.
        precision: of `PRECISIONS`. An int8 model has int8 kernels for int8; for fp32 its rounding
            is computed in float, which is slow and meant for comparison.
        threads: of the CPU; None for OMP_NUM_THREADS, or all cores.

    Attributes:
        backend: of `BACKENDS`.
        engine: what runs the model inside a backend that has several.
        path, device, precision, threads: as above.
        inputs, outputs: in the order of `run`.

    Raises:
        SettingError: another device or precision, or a number of threads that makes no sense.
        BackendError: the file is missing or damaged, or not to be run like that.
    """

    backend: ClassVar[str]
    engine: str = ""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
    ):
        _check_settings(device, precision, threads)
        self.path = Path(path)
        self.device = device
        self.precision = precision
        self.threads = default_threads() if threads is None else threads
        for file in model_files(self.path):
            if not file.is_file():
                raise BackendError(f"{file}: no such file; export the model again")
        self._load()

    def run(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The outputs for the inputs, each in its order. Later runs do not change them.

        Raises:
            ValueError: arrays of another number, type or shape.
            BackendError: the backend cannot compute it, such as for a size that does not go
                through the network.
        """
        self._check(arrays)
        try:
            return self._run([np.ascontiguousarray(array) for array in arrays])
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise BackendError(
                f"{self.path}: {self.backend} cannot run it with {shapes}: {reason(error)}"
            ) from error

    @abstractmethod
    def _load(self) -> None:
        """Makes the model ready to run, and sets `inputs` and `outputs`."""

    @abstractmethod
    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]: ...

    def _check(self, arrays: Sequence[np.ndarray]) -> None:
        if len(arrays) != len(self.inputs):
            names = ", ".join(tensor.name for tensor in self.inputs)
            raise ValueError(
                f"{self.path}: takes {len(self.inputs)} arrays ({names}), found {len(arrays)}"
            )
        for tensor, array in zip(self.inputs, arrays, strict=True):
            if not isinstance(array, np.ndarray) or not tensor.takes(array):
                found = (
                    f"{array.dtype} {array.shape}"
                    if isinstance(array, np.ndarray)
                    else type(array).__name__
                )
                raise ValueError(f"{self.path}: takes {tensor}, found {found}")
        counts = [a.shape[0] for t, a in zip(self.inputs, arrays, strict=True) if t.open_batch]
        if len(set(counts)) > 1:
            raise ValueError(f"{self.path}: takes as many of each input, found {counts}")

    def _refuse(self, why: str) -> BackendError:
        """The error that says why this backend does not run this model like that."""
        return BackendError(f"{self.path}: {self.backend}: {why}")


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
    """A model in the hands of a backend.

    Args:
        model: a model's file, or a folder in which the file that fits the backend is found:
            `model.*`, `inference.*`, or the only one.
        backend: of `BACKENDS`; auto measures those that are installed at the first use, and takes
            the fastest now and later (`ppose.deploy.auto`).
        device: of `DEVICES`.
        precision: of `PRECISIONS`.
        threads: of the CPU; None for OMP_NUM_THREADS, or all cores.
        size_wh: of the pictures that auto measures with, where the model leaves it open.
        checked: name → SHA-256 of the files in the folder that may be taken, which the caller has
            checked; None for all files that are there.

    Raises:
        BackendError: the model, or the backend's package, is missing, or cannot be used.
        SettingError: another backend, device or precision, or a useless number of threads.
    """
    _check_choice("backend", backend, ("auto", *BACKENDS))
    _check_settings(device, precision, threads)
    if backend == "auto":
        from ppose.deploy.auto import fastest

        return fastest(model, device, precision, threads, size_wh, checked)
    return session_of(find_model(model, backend, checked), backend, device, precision, threads)


def session_of(
    path: Path, backend: str, device: str, precision: str, threads: int | None
) -> Session:
    """A model's file in the hands of one backend, which is imported."""
    try:
        module = importlib.import_module(f"ppose.deploy.backends.{backend}")
    except ImportError as error:
        package = PACKAGES[backend][0]
        if isinstance(error, ModuleNotFoundError) and error.name == backend:
            raise BackendError(
                f"the backend {backend} is not installed; pip install {package}"
            ) from None
        raise BackendError(
            f"the backend {backend} cannot be imported: {error}; install {package} again"
        ) from error
    made: Session = getattr(module, _CLASSES[backend])(
        path, device=device, precision=precision, threads=threads
    )
    return made


def find_model(model: str | Path, backend: str, listed: Collection[str] | None = None) -> Path:
    """The file that a backend reads.

    Args:
        model: the file itself, or its folder.
        backend: of `BACKENDS`.
        listed: names of the files in the folder that may be taken; None for all.

    Raises:
        BackendError: there is none, or several.
    """
    model = Path(model)
    suffixes = SUFFIXES[backend]
    if not model.exists():
        raise BackendError(f"{model}: no such file or folder; export a model there first")
    if model.is_file():
        if model.suffix in suffixes:
            return model
        raise BackendError(f"{model}: {backend} reads {', '.join(suffixes)}{_who_reads(model)}")
    for suffix in suffixes:
        found = _candidates(model, suffix, listed)
        for stem in _STEMS:
            if model / f"{stem}{suffix}" in found:
                return model / f"{stem}{suffix}"
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise BackendError(f"{model}: name one of its models: {names}")
        if found:
            return found[0]
    others = [
        name for name in BACKENDS if any(_candidates(model, s, listed) for s in SUFFIXES[name])
    ]
    hint = f"; it has a model for {', '.join(others)}" if others else ""
    raise BackendError(
        f"{model}: no model for {backend}, which reads {', '.join(suffixes)}{hint}; export it "
        "in a format that the backend reads"
    )


def _candidates(folder: Path, suffix: str, listed: Collection[str] | None) -> list[Path]:
    found = sorted(folder.glob(f"*{suffix}"))
    if listed is not None:
        found = [path for path in found if {p.name for p in _parts(path)}.issubset(listed)]
    if suffix == ".json":  # anything may be JSON
        found = [path for path in found if path.with_suffix(".pdiparams").is_file()]
    return found


def _who_reads(file: Path) -> str:
    others = [name for name, suffixes in SUFFIXES.items() if file.suffix in suffixes]
    return f"; take the backend {' or '.join(others)}" if others else ", not such a file"


def model_files(path: Path) -> list[Path]:
    """A model's file and those that belong to it: the weights, where they are apart."""
    if path.suffix in _WEIGHTS:
        return _parts(path)
    return [path, *sorted(path.parent.glob(f"{glob.escape(path.name)}*data"))]


def _parts(path: Path) -> list[Path]:
    """A model's file and the weights that its form has apart."""
    apart = _WEIGHTS.get(path.suffix)
    return [path, path.with_suffix(apart)] if apart else [path]


def reason(error: BaseException) -> str:
    """The line of a backend's error that says what is wrong, without where in its sources."""
    text = str(error)
    _, _, summary = text.rpartition("Error Message Summary:")
    lines = [line.strip() for line in summary.splitlines()]
    lines = [line for line in lines if line.strip("-") and not line.startswith(_PLACES)]
    return lines[0] if lines else type(error).__name__


def _check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SettingError(f"{what}: expected one of {', '.join(choices)}, found {value!r}")


def _check_settings(device: str, precision: str, threads: int | None) -> None:
    _check_choice("device", device, DEVICES)
    _check_choice("precision", precision, PRECISIONS)
    name, count = (
        ("OMP_NUM_THREADS", default_threads()) if threads is None else ("threads", threads)
    )
    if count < 1:
        raise SettingError(f"{name}: expected 1 or more, found {count}")
    cores = usable_cores()
    most = max(_THREADS_PER_CORE * cores, _ALWAYS_ALLOWED)
    if count > most:
        raise SettingError(
            f"{name}: expected at most {most}, found {count}: there are {cores} cores"
        )
