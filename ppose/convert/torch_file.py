"""Safe reading of PyTorch checkpoints, without running code from the pickle."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ppose.utils.errors import PposeError
from ppose.weights.weight_file import WeightsError, read_arrays

# First bytes of PyTorch's zip format and of its older format.
_TORCH = (b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46")
# Usual keys of the network's state dict, in order of preference.
_STATE_KEYS = ("state_dict", "weights", "model_state_dict", "model")
_WRAPPER = "module."
# Number of averaged models in `torch.optim.swa_utils.AveragedModel`.
AVERAGED = "n_averaged"
_NUMPY = (
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
)


@dataclass(frozen=True)
class Checkpoint:
    """The state dict in a checkpoint file.

    Attributes:
        arrays: name without the `module.` of DataParallel → array; bfloat16 as its bits in uint16.
        key: key of the state dict in the file; "" if the file is the state dict.
        other_keys: the other keys in the file.
    """

    arrays: Mapping[str, np.ndarray]
    key: str = ""
    other_keys: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, key: str | None = None) -> Checkpoint:
    """Reads the state dict of a PyTorch file or a .safetensors file, detected from its content.

    Args:
        path: the file. A PyTorch file needs PyTorch, and is read with `weights_only=True`.
        key: key of the state dict in the file; None for the usual ones.

    Raises:
        FileNotFoundError: the file does not exist.
        WeightsError: damaged, no weights, a pickle that needs to import code, or a missing key.
        PposeError: PyTorch is needed but not installed.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith(_TORCH):
        if key is not None:
            raise WeightsError(f"{path} has no keys to choose from; leave out --key {key}")
        return Checkpoint(_unwrapped(read_arrays(path)))
    torch = _torch()
    content = _load(path, torch)
    key, state = _state(path, content, torch, key)
    other_keys = tuple(str(k) for k in content if k != key) if key else ()
    arrays = {name: _array(path, name, value, torch) for name, value in state.items()}
    return Checkpoint(_unwrapped(arrays), key, other_keys)


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError:
        raise PposeError(
            "reading a PyTorch checkpoint needs PyTorch, which is not installed: "
            "pip install torch (the CPU build is enough). A .safetensors file does not need it"
        ) from None
    return torch


class _Inert:
    """Placeholder for NumPy arrays in a checkpoint's metadata, which is not used."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _load(path: Path, torch: ModuleType) -> Any:
    inert = [(_Inert, name) for name in _NUMPY]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from None
    except Exception as error:  # a damaged file can raise nearly anything
        reason = re.split(r"\n|\. ", str(error).strip(), maxsplit=1)[0]
        raise WeightsError(
            f"{path}: PyTorch cannot read it, so it is damaged, cut off or not a checkpoint "
            f"({type(error).__name__}: {reason}); get the file again"
        ) from None


def _refusal(path: Path, reason: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", reason)
    problem = f"imports '{found[1]}'" if found else f"is not a plain state dict ({reason})"
    return (
        f"{path}: {problem}, which PyTorch's safe loader refuses, as it could run arbitrary code. "
        "Weights need only tensors. If you trust the file, save them alone where it was made: "
        "torch.save(torch.load(IN, weights_only=False)['state_dict'], OUT)"
    )


def _state(
    path: Path, content: Any, torch: ModuleType, key: str | None
) -> tuple[str, Mapping[Any, Any]]:
    """The key of the state dict in the loaded content, and the state dict."""

    def is_state(value: object) -> bool:
        return isinstance(value, Mapping) and any(map(torch.is_tensor, value.values()))

    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: contains a {type(content).__name__}, expected a state_dict")
    states = [k for k, value in content.items() if is_state(value)]
    if key is not None:
        if key not in states:
            known = ", ".join(map(repr, states)) or "none"
            raise WeightsError(f"{path}: no tensors under '{key}'; keys with tensors: {known}")
        return key, content[key]
    usual = next((k for k in _STATE_KEYS if k in states), None)
    if usual is not None:
        return usual, content[usual]
    if is_state(content):
        return "", content
    if len(states) == 1:
        return states[0], content[states[0]]
    if states:
        raise WeightsError(
            f"{path}: contains tensors under {', '.join(map(repr, states))}; choose one with --key"
        )
    raise WeightsError(f"{path}: contains no tensors; its keys: {', '.join(map(str, content))}")


def _array(path: Path, name: object, value: Any, torch: ModuleType) -> np.ndarray:
    if not isinstance(name, str) or not torch.is_tensor(value):
        raise WeightsError(f"{path}: entry {name!r} is a {type(value).__name__}, expected a tensor")
    try:
        tensor = value.detach()
        plain = tensor.untyped_storage().nbytes() >= tensor.nbytes
        # As bits, because NumPy has no bfloat16.
        array = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{path}: '{name}' is not a plain tensor ({reason})") from None
    if not plain:  # expanded tensors: a small file could allocate any amount of memory
        raise WeightsError(f"{path}: '{name}' is an expanded tensor, expected all values stored")
    return array


def _unwrapped(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes the prefix `module.` of (Distributed)DataParallel and AveragedModel."""
    names = {name: name for name in arrays}
    while all(n.startswith(_WRAPPER) or n == AVERAGED for n in names.values()):
        names = {name: n.removeprefix(_WRAPPER) for name, n in names.items()}
    return {n: arrays[name] for name, n in names.items()}
