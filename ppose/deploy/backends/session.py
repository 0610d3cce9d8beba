"""`Session`, the common interface of all backends: a loaded model with typed inputs and outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ppose.deploy.backends.model_files import model_files
from ppose.deploy.backends.settings import BackendError, check_settings
from ppose.utils.cpu import default_threads

# Lines of OpenVINO's errors that only give a source location start with these.
_LOCATION_PREFIXES = ("Exception from ", "Check '", "While validating node ")


@dataclass(frozen=True)
class TensorInfo:
    """Name, type and shape of a model's input or output.

    Attributes:
        name: in the model.
        dtype: NumPy's name of the type.
        shape: -1 for dynamic axes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def accepts(self, array: np.ndarray) -> bool:
        """Whether an array has this type and shape, with no empty dynamic axis."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(a == b or b < 0 < a for a, b in zip(array.shape, self.shape, strict=True))
        )

    @property
    def dynamic_batch(self) -> bool:
        """Whether the first axis is dynamic."""
        return self.shape[:1] == (-1,)

    def __str__(self) -> str:
        sizes = ", ".join("any" if size < 0 else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} ({sizes})"


class Session(ABC):
    """A model loaded by one backend. Not thread-safe.

    Args:
        path: the model file.
        device: one of `DEVICES`.
        precision: one of `PRECISIONS`. An int8 model uses int8 kernels with int8; with fp32 its
            quantization is simulated in float, which is slow and meant for comparison.
        threads: CPU threads; None for OMP_NUM_THREADS, or all cores.

    Attributes:
        backend: one of `BACKENDS`.
        engine: what runs the model, for backends with several engines.
        path, device, precision, threads: as above.
        inputs, outputs: in the order of `run`.

    Raises:
        SettingError: unknown device or precision, or an invalid number of threads.
        BackendError: the file is missing or damaged, or the backend does not support these
            settings.
    """

    backend: ClassVar[str]
    engine: str = ""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
    ):
        check_settings(device, precision, threads)
        self.path = Path(path)
        self.device = device
        self.precision = precision
        self.threads = default_threads() if threads is None else threads
        for file in model_files(self.path):
            if not file.is_file():
                raise BackendError(f"{file}: no such file; export the model again")
        self._load()

    def run(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Runs the model. The returned arrays are not changed by later runs.

        Args:
            arrays: one for each of `inputs`, in that order.

        Returns:
            one array for each of `outputs`, in that order.

        Raises:
            ValueError: wrong number, type or shape of the arrays.
            BackendError: the backend failed, for example for a size the network does not support.
        """
        self._check(arrays)
        try:
            return self._run([np.ascontiguousarray(array) for array in arrays])
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise BackendError(
                f"{self.path}: {self.backend} cannot run it with {shapes}: {error_summary(error)}"
            ) from error

    @abstractmethod
    def _load(self) -> None:
        """Loads the model, and sets `inputs` and `outputs`."""

    @abstractmethod
    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]: ...

    def _check(self, arrays: Sequence[np.ndarray]) -> None:
        if len(arrays) != len(self.inputs):
            names = ", ".join(tensor.name for tensor in self.inputs)
            raise ValueError(
                f"{self.path}: expected {len(self.inputs)} arrays ({names}), found {len(arrays)}"
            )
        for tensor, array in zip(self.inputs, arrays, strict=True):
            if not isinstance(array, np.ndarray) or not tensor.accepts(array):
                found = (
                    f"{array.dtype} {array.shape}"
                    if isinstance(array, np.ndarray)
                    else type(array).__name__
                )
                raise ValueError(f"{self.path}: expected {tensor}, found {found}")
        counts = [a.shape[0] for t, a in zip(self.inputs, arrays, strict=True) if t.dynamic_batch]
        if len(set(counts)) > 1:
            raise ValueError(
                f"{self.path}: expected the same batch size in all inputs, found {counts}"
            )

    def _error(self, why: str) -> BackendError:
        """A BackendError about this model and backend."""
        return BackendError(f"{self.path}: {self.backend}: {why}")


def error_summary(error: BaseException) -> str:
    """The line of a backend's error that says what is wrong, without the source location."""
    text = str(error)
    _, _, summary = text.rpartition("Error Message Summary:")
    lines = [line.strip() for line in summary.splitlines()]
    lines = [line for line in lines if line.strip("-") and not line.startswith(_LOCATION_PREFIXES)]
    return lines[0] if lines else type(error).__name__
