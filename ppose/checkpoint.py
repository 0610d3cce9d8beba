"""Weights into a network: strictly, or as the start of a training run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import paddle

from ppose.download import fetch
from ppose.models.network import Network
from ppose.slim.quantize import float_names, is_quantized
from ppose.weightfile import WeightsError, from_bfloat16, read_arrays

# How a training state names its kinds of tensors.
MODEL, OPTIMIZER, AVERAGE, EMA, ADAPTER = "model.", "optimizer.", "average.", "ema.", "adapter."
_BACKBONE = "backbone."
_SHOWN = 4


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` or `load_pretrained` did.

    Args:
        source: the file or address.
        loaded: names of the network's tensors that were set.
        fresh: name → why it kept its values.
        unused: names in the file that the network has no place for.
    """

    source: str
    loaded: tuple[str, ...]
    fresh: Mapping[str, str]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.fresh)
        text = f"{self.source}: loaded {len(self.loaded)} of {total} tensors"
        if self.fresh:
            text += f"; fresh: {some(f'{name} ({why})' for name, why in self.fresh.items())}"
        if self.unused:
            text += f"; unused: {some(self.unused)}"
        return text


def load_weights(
    network: paddle.nn.Layer, source: str | Path, *, part: Literal["all", "backbone"] = "all"
) -> LoadReport:
    """Sets the tensors of a network to those of a file, whose names and shapes must be the same.

    Args:
        network: its parameters and persistent buffers are set, cast to their own dtypes.
        source: path or http(s) address of a .pdparams or .safetensors file.
        part: "backbone" compares and sets the tensors below `backbone.` only.

    Raises:
        WeightsError: unreadable, other names or shapes, or not finite; nothing was set.
        FileNotFoundError, AddressError, DownloadError: from `ppose.download.fetch`.
    """
    targets, arrays = network.state_dict(), weights_in(source)
    _check_kind(source, targets, arrays)
    if is_quantized(targets) and not is_quantized(arrays):
        raise WeightsError(
            f"{source} holds a float network, and this config a quantized one, whose scales are "
            "not in the file: train it (pretrain_weights), or take the config without 'quantize'"
        )
    unused: tuple[str, ...] = ()
    if part == "backbone":
        targets = _backbone_of(network)
        unused = tuple(name for name in arrays if not name.startswith(_BACKBONE))
        arrays = {name: a for name, a in arrays.items() if name.startswith(_BACKBONE)}
    unexpected = [name for name in arrays if name not in targets]
    advice = (
        "Build the network from the config that the file was trained with; to start a training "
        "from another head or a backbone alone, give the file as pretrain_weights."
    )
    _check_fit(network, source, targets, arrays, unexpected, advice)
    _assign(source, targets, arrays)
    fresh = {k: "outside the backbone" for k in network.state_dict() if k not in targets}
    return LoadReport(str(source), tuple(targets), fresh, unused)


def load_pretrained(network: paddle.nn.Layer, source: str | Path) -> LoadReport:
    """Starts a training from a backbone or from a model with another head.

    Every tensor below `backbone.` must be in the file, with or without that prefix, in the same
    shape. A tensor outside the backbone stays fresh if the file lacks it or has another shape.
    In a network without a backbone the tensors that `Network.heads` names may stay fresh. A
    quantized network takes the weights of a float one, and is still to be calibrated then.

    Args:
        network: as for `load_weights`.
        source: as for `load_weights`.

    Raises:
        WeightsError: unreadable, a backbone that does not fit, or not finite; nothing was set.
        FileNotFoundError, AddressError, DownloadError: from `ppose.download.fetch`.
    """
    targets, backbone = network.state_dict(), _trunk_of(network)
    arrays = _with_prefix(weights_in(source), backbone)
    _check_kind(source, targets, arrays)
    if not is_quantized(arrays):
        targets, backbone = ({k: d[k] for k in float_names(d)} for d in (targets, backbone))
    # A name under a module that our backbone has too belongs to a larger backbone, not to a head.
    modules = {_module(name) for name in backbone}
    unexpected = [n for n in arrays if n not in targets and _module(n) in modules]
    below = {n: a for n, a in arrays.items() if n in backbone}
    advice = (
        "All but the head must be as in the file: compare the network's settings in both configs."
    )
    _check_fit(network, source, backbone, below, unexpected, advice)

    fresh = {}
    for name in (n for n in targets if n not in backbone):
        here = list(targets[name].shape)
        if name not in arrays:
            fresh[name] = "not in the file"
        elif here != list(arrays[name].shape):
            fresh[name] = f"{here} here, {list(arrays[name].shape)} in the file"
    fitting = {name: tensor for name, tensor in targets.items() if name not in fresh}
    _assign(source, fitting, arrays)
    unused = tuple(name for name in arrays if name not in targets)
    return LoadReport(str(source), tuple(fitting), fresh, unused)


def _check_kind(
    source: str | Path, targets: Mapping[str, object], arrays: Mapping[str, object]
) -> None:
    if is_quantized(arrays) and not is_quantized(targets):
        raise WeightsError(
            f"{source} holds a quantized network, and this config a float one: take the config "
            "that it was trained with, which has 'quantize'"
        )


def set_weights(
    network: paddle.nn.Layer, arrays: Mapping[str, np.ndarray], source: str = "the weights"
) -> None:
    """Sets all tensors of a network to arrays of the same names and shapes.

    Args:
        network: as for `load_weights`.
        arrays: name → array.
        source: what to call them in an error.

    Raises:
        WeightsError: other names or shapes, or not finite; nothing was set.
    """
    targets = network.state_dict()
    unexpected = [name for name in arrays if name not in targets]
    _check_fit(network, source, targets, arrays, unexpected, "They belong to another network.")
    _assign(source, targets, arrays)


def weights_in(source: str | Path) -> dict[str, np.ndarray]:
    """The network's tensors of a weight file or of a training state, by path or address.

    Of a state with a moving average that is taken, as it is what the run evaluates.
    """
    arrays = read_arrays(fetch(source))
    if not any(name.startswith(OPTIMIZER) for name in arrays):
        return arrays
    kind = EMA if any(name.startswith(EMA) for name in arrays) else MODEL
    return {k.removeprefix(kind): v for k, v in arrays.items() if k.startswith(kind)}


def _trunk_of(network: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """The tensors that a training cannot start without: the backbone, or all but the heads."""
    state = network.state_dict()
    if isinstance(network, Network) and not any(name.startswith(_BACKBONE) for name in state):
        return {k: v for k, v in state.items() if not re.match(network.heads, k)}
    return _backbone_of(network)


def _backbone_of(network: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    backbone = {k: v for k, v in network.state_dict().items() if k.startswith(_BACKBONE)}
    if not backbone:
        raise WeightsError(f"{type(network).__name__} has no tensors below '{_BACKBONE}'")
    return backbone


def _with_prefix(
    arrays: dict[str, np.ndarray], backbone: Mapping[str, object]
) -> dict[str, np.ndarray]:
    """Adds `backbone.` to the names of a backbone that was saved alone."""
    if any(name.startswith(_BACKBONE) for name in arrays):
        return arrays
    modules = {_module(name) for name in backbone}
    return {
        _BACKBONE + name if _module(_BACKBONE + name) in modules else name: array
        for name, array in arrays.items()
    }


def _module(name: str) -> str:
    """The part of a tensor's name that says to which child of the backbone it belongs."""
    return ".".join(name.split(".")[:2]) if name.startswith(_BACKBONE) else ""


def _check_fit(
    network: paddle.nn.Layer,
    source: str | Path,
    targets: Mapping[str, paddle.Tensor],
    arrays: Mapping[str, np.ndarray],
    unexpected: list[str],
    advice: str,
) -> None:
    missing = [name for name in targets if name not in arrays]
    shapes = [
        f"{name} ({list(targets[name].shape)} here, {list(arrays[name].shape)} in the file)"
        for name in targets
        if name in arrays and list(targets[name].shape) != list(arrays[name].shape)
    ]
    if not (missing or unexpected or shapes):
        return
    lines = [f"{source} does not fit {type(network).__name__} ({len(targets)} tensors wanted):"]
    if missing:
        lines.append(f"  {len(missing)} missing: {some(hinted(missing, unexpected))}")
    if unexpected:
        lines.append(f"  {len(unexpected)} unexpected: {some(unexpected)}")
    if shapes:
        lines.append(f"  {len(shapes)} of another shape: {some(shapes)}")
    raise WeightsError("\n".join([*lines, advice]))


def hinted(missing: Sequence[str], unexpected: Sequence[str], shown: int = _SHOWN) -> list[str]:
    """The missing names; those that `some` will show with their nearest unexpected one."""
    near = [get_close_matches(name, unexpected, 1, 0.8) for name in missing[:shown]]
    first = [
        f"{name} (the file has {close[0]})" if close else name
        for name, close in zip(missing, near, strict=False)
    ]
    return [*first, *missing[shown:]]


def _assign(
    source: str | Path, targets: Mapping[str, paddle.Tensor], arrays: Mapping[str, np.ndarray]
) -> None:
    """Casts and checks every tensor, then sets all."""
    values = {name: _cast(source, name, arrays[name], targets[name]) for name in targets}
    for name, tensor in targets.items():
        tensor.set_value(values[name])


def _cast(
    source: str | Path, name: str, array: np.ndarray, target: paddle.Tensor
) -> np.ndarray | paddle.Tensor:
    wanted = str(target.dtype).removeprefix("paddle.")
    floating = "float" in wanted
    if floating and array.dtype == np.uint16:
        array = from_bfloat16(array)
    if floating != (array.dtype.kind == "f"):
        raise WeightsError(f"{source}: '{name}' is {array.dtype}, expected {wanted}")
    if not np.isfinite(array).all():
        count = np.count_nonzero(~np.isfinite(array))
        raise WeightsError(
            f"{source}: '{name}' holds {count} values that are not finite, of {array.size}: the "
            "training that wrote it had diverged; take an earlier checkpoint"
        )
    if wanted == "bfloat16":
        return paddle.to_tensor(array.astype(np.float32)).astype("bfloat16")
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if not (np.isfinite(cast).all() if floating else np.array_equal(cast, array)):
        raise WeightsError(f"{source}: '{name}' holds values beyond the range of {wanted}")
    return cast


def some(names: Iterable[str], shown: int = _SHOWN) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
