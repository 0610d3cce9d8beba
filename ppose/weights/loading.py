"""Loading weights into a network: strictly, or as pretrained weights for training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import paddle

from ppose.models.network import Network
from ppose.utils.download import fetch
from ppose.weights.tensor_names import EMA, MODEL, OPTIMIZER, float_names, is_quantized
from ppose.weights.weight_file import WeightsError, from_bfloat16, read_arrays, read_metadata

_BACKBONE = "backbone."
_SHOWN = 4


@dataclass(frozen=True)
class LoadReport:
    """Result of `load_weights` or `load_pretrained`.

    Args:
        source: the file or URL.
        loaded: names of the tensors that were loaded.
        not_loaded: name of a tensor that kept its values → why.
        unused: names of tensors in the file that the network does not have.
    """

    source: str
    loaded: tuple[str, ...]
    not_loaded: Mapping[str, str]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.not_loaded)
        text = f"{self.source}: loaded {len(self.loaded)} of {total} tensors"
        if self.not_loaded:
            reasons = (f"{name} ({why})" for name, why in self.not_loaded.items())
            text += f"; not loaded: {shortened(reasons)}"
        if self.unused:
            text += f"; unused: {shortened(self.unused)}"
        return text


def weights_metadata(source: str | Path) -> dict[str, str]:
    """The metadata of a weight file by path or URL; empty for one without, or that is damaged."""
    try:
        return read_metadata(fetch(source))
    except WeightsError:
        return {}


def load_weights(
    network: paddle.nn.Layer, source: str | Path, *, part: Literal["all", "backbone"] = "all"
) -> LoadReport:
    """Loads weights into a network; names and shapes must match.

    Args:
        network: network whose parameters and persistent buffers are set; dtypes are kept.
        source: path or http(s) URL of a .pdparams or .safetensors file.
        part: "backbone" loads and compares only the tensors under `backbone.`.

    Raises:
        WeightsError: unreadable file, other names or shapes, or values that are not finite; the
            network is not changed.
        FileNotFoundError, AddressError, DownloadError: raised by `ppose.utils.download.fetch`.
    """
    targets, arrays = network.state_dict(), read_weights(source)
    _check_kind(source, targets, arrays)
    if is_quantized(targets) and not is_quantized(arrays):
        raise WeightsError(
            f"{source} contains a float network, but this config has a quantized one, whose scales "
            "are not in the file: train it (pretrain_weights), or use the config without 'quantize'"
        )
    unused: tuple[str, ...] = ()
    if part == "backbone":
        targets = _backbone_of(network)
        unused = tuple(name for name in arrays if not name.startswith(_BACKBONE))
        arrays = {name: a for name, a in arrays.items() if name.startswith(_BACKBONE)}
    unexpected = [name for name in arrays if name not in targets]
    advice = (
        "Use the config that the file was trained with; to start training from a backbone or from "
        "a model with another head, set the file as pretrain_weights."
    )
    _check_fit(network, source, targets, arrays, unexpected, advice)
    _assign(source, targets, arrays)
    not_loaded = {k: "outside the backbone" for k in network.state_dict() if k not in targets}
    return LoadReport(str(source), tuple(targets), not_loaded, unused)


def load_pretrained(network: paddle.nn.Layer, source: str | Path) -> LoadReport:
    """Loads pretrained weights from a backbone or from a model with another head.

    Every tensor under `backbone.` must be in the file, with or without this prefix, and have the
    same shape. Tensors outside the backbone keep their values if they are missing in the file or
    have another shape. In a network without a backbone, this applies to the tensors that match
    `Network.heads`. A quantized network can load the weights of a float one; it must be calibrated
    afterwards.

    Args:
        network: see `load_weights`.
        source: see `load_weights`.

    Raises:
        WeightsError: unreadable file, a backbone that does not match, or values that are not
            finite; the network is not changed.
        FileNotFoundError, AddressError, DownloadError: raised by `ppose.utils.download.fetch`.
    """
    targets, backbone = network.state_dict(), _required_tensors(network)
    arrays = _with_prefix(read_weights(source), backbone)
    _check_kind(source, targets, arrays)
    if not is_quantized(arrays):
        targets, backbone = ({k: d[k] for k in float_names(d)} for d in (targets, backbone))
    # A name under a module that the backbone has too belongs to a larger backbone, not to a head.
    modules = {_module(name) for name in backbone}
    unexpected = [n for n in arrays if n not in targets and _module(n) in modules]
    below = {n: a for n, a in arrays.items() if n in backbone}
    advice = "All tensors except the head must match: compare the network settings of both configs."
    _check_fit(network, source, backbone, below, unexpected, advice)

    not_loaded = {}
    for name in (n for n in targets if n not in backbone):
        if name not in arrays:
            not_loaded[name] = "not in the file"
        elif list(targets[name].shape) != list(arrays[name].shape):
            not_loaded[name] = _shape_mismatch(targets[name], arrays[name])
    fitting = {name: tensor for name, tensor in targets.items() if name not in not_loaded}
    _assign(source, fitting, arrays)
    unused = tuple(name for name in arrays if name not in targets)
    return LoadReport(str(source), tuple(fitting), not_loaded, unused)


def _check_kind(
    source: str | Path, targets: Mapping[str, object], arrays: Mapping[str, object]
) -> None:
    if is_quantized(arrays) and not is_quantized(targets):
        raise WeightsError(
            f"{source} contains a quantized network, but this config has a float one: use the "
            "config that it was trained with, which has 'quantize'"
        )


def set_weights(
    network: paddle.nn.Layer, arrays: Mapping[str, np.ndarray], source: str = "the weights"
) -> None:
    """Sets all tensors of a network; names and shapes must match.

    Args:
        network: see `load_weights`.
        arrays: name → array.
        source: description of the arrays for error messages.

    Raises:
        WeightsError: other names or shapes, or values that are not finite; the network is not
            changed.
    """
    targets = network.state_dict()
    unexpected = [name for name in arrays if name not in targets]
    _check_fit(
        network, source, targets, arrays, unexpected, "The weights belong to another network."
    )
    _assign(source, targets, arrays)


def read_weights(source: str | Path) -> dict[str, np.ndarray]:
    """Reads the network's tensors from a weight file or training state, by path or URL.

    If a training state has an EMA of the weights, the EMA is returned, as that is what the run
    evaluates.
    """
    arrays = read_arrays(fetch(source))
    if not any(name.startswith(OPTIMIZER) for name in arrays):
        return arrays
    kind = EMA if any(name.startswith(EMA) for name in arrays) else MODEL
    return {k.removeprefix(kind): v for k, v in arrays.items() if k.startswith(kind)}


def _required_tensors(network: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """The tensors that pretrained weights must contain: the backbone, or all except the heads."""
    state = network.state_dict()
    if isinstance(network, Network) and not any(name.startswith(_BACKBONE) for name in state):
        return {k: v for k, v in state.items() if not re.match(network.heads, k)}
    return _backbone_of(network)


def _backbone_of(network: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    backbone = {k: v for k, v in network.state_dict().items() if k.startswith(_BACKBONE)}
    if not backbone:
        raise WeightsError(f"{type(network).__name__} has no tensors under '{_BACKBONE}'")
    return backbone


def _with_prefix(
    arrays: dict[str, np.ndarray], backbone: Mapping[str, object]
) -> dict[str, np.ndarray]:
    """Adds the prefix `backbone.` to the names of a backbone that was saved alone."""
    if any(name.startswith(_BACKBONE) for name in arrays):
        return arrays
    modules = {_module(name) for name in backbone}
    return {
        _BACKBONE + name if _module(_BACKBONE + name) in modules else name: array
        for name, array in arrays.items()
    }


def _module(name: str) -> str:
    """The child of the backbone that a tensor belongs to, from its name."""
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
        f"{name} ({_shape_mismatch(targets[name], arrays[name])})"
        for name in targets
        if name in arrays and list(targets[name].shape) != list(arrays[name].shape)
    ]
    if not (missing or unexpected or shapes):
        return
    lines = [f"{source} does not fit {type(network).__name__} ({len(targets)} tensors expected):"]
    if missing:
        lines.append(
            f"  {len(missing)} missing: {shortened(with_suggestions(missing, unexpected))}"
        )
    if unexpected:
        lines.append(f"  {len(unexpected)} unexpected: {shortened(unexpected)}")
    if shapes:
        lines.append(f"  {len(shapes)} of another shape: {shortened(shapes)}")
    raise WeightsError("\n".join([*lines, advice]))


def _shape_mismatch(target: paddle.Tensor, array: np.ndarray) -> str:
    return f"{list(target.shape)} in the network, {list(array.shape)} in the file"


def with_suggestions(
    missing: Sequence[str], unexpected: Sequence[str], shown: int = _SHOWN
) -> list[str]:
    """The missing names, the first `shown` of them with the nearest unexpected name."""
    near = [get_close_matches(name, unexpected, 1, 0.8) for name in missing[:shown]]
    first = [
        f"{name} (the file has {close[0]})" if close else name
        for name, close in zip(missing, near, strict=False)
    ]
    return [*first, *missing[shown:]]


def _assign(
    source: str | Path, targets: Mapping[str, paddle.Tensor], arrays: Mapping[str, np.ndarray]
) -> None:
    """Casts and checks all tensors before setting any."""
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
            f"{source}: {count} of {array.size} values of '{name}' are not finite: the training "
            "run had diverged; use an earlier checkpoint"
        )
    if wanted == "bfloat16":
        return paddle.to_tensor(array.astype(np.float32)).astype("bfloat16")
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if not (np.isfinite(cast).all() if floating else np.array_equal(cast, array)):
        raise WeightsError(f"{source}: '{name}' has values outside the range of {wanted}")
    return cast


def shortened(names: Iterable[str], shown: int = _SHOWN) -> str:
    """The first names, and the number of others."""
    names = list(names)
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
