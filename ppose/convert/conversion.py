"""Conversion of PyTorch state dicts; every tensor must be used or known to be unneeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ppose.convert.imhn_source import SimplePoseSource
from ppose.convert.source import Source, TargetNetwork
from ppose.convert.topdown_source import MMPOSE, MMPOSE_1, ORIGINAL, HRNetSource, LiteHRNetSource
from ppose.weights.loading import set_weights, shortened, with_suggestions
from ppose.weights.weight_file import WeightsError, float32

SOURCES: tuple[Source, ...] = (
    HRNetSource("hrnet", ORIGINAL),
    HRNetSource("mmpose", MMPOSE),
    HRNetSource("mmpose", MMPOSE_1),
    LiteHRNetSource("mmpose", MMPOSE),
    LiteHRNetSource("mmpose", MMPOSE_1),
    SimplePoseSource(),
)
_SHOWN = 8


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Attributes:
        source: kind of the checkpoint.
        target: its network; `target.network` has the weights.
        arrays: the tensors by ppose's names, float32.
        changes: ppose's name → changes of the tensor other than its name.
        unused: name in the checkpoint → why it was skipped.
    """

    source: Source
    target: TargetNetwork
    arrays: Mapping[str, np.ndarray]
    changes: Mapping[str, str]
    unused: Mapping[str, str]

    def summary(self) -> str:
        """The numbers of tensors that were converted, changed and skipped."""
        numbers = sum(array.size for array in self.arrays.values())
        lines = [f"{len(self.arrays)} tensors converted, {numbers / 1e6:.1f} M numbers"]
        lines += [f"{n} of them: {what}" for what, n in Counter(self.changes.values()).items()]
        lines += [f"{n} left out: {why}" for why, n in Counter(self.unused.values()).items()]
        return "\n".join(f"  {line}" for line in lines)

    def table(self) -> str:
        """One line per tensor: its name in the checkpoint, ppose's name, shape, changes."""
        rows = [
            (
                self.target.names[name],
                name,
                str(list(array.shape)),
                self.changes.get(name, ""),
            )
            for name, array in self.arrays.items()
        ]
        rows += [(name, f"(left out: {why})", "", "") for name, why in self.unused.items()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            "  ".join(text.ljust(w) for text, w in zip(row, [*widths, 0], strict=True)).rstrip()
            for row in rows
        )


def convert(arrays: Mapping[str, np.ndarray], source: str | None = None) -> Conversion:
    """Converts the tensors of a checkpoint to ppose's names and layout.

    Args:
        arrays: name in the checkpoint → array, as returned by `read_checkpoint`.
        source: name of one of `SOURCES`; None to detect it from the tensor names.

    Raises:
        WeightsError: unsupported network, or tensors that are missing, unexpected, of another
            shape or not finite.
    """
    kind = recognise(arrays, source)
    target = kind.target({name: array.shape for name, array in arrays.items()})
    used = set(target.names.values())
    rest = [name for name in arrays if name not in used]
    unused = {name: why for name in rest if (why := kind.unused(name)) is not None}
    converted, changes = {}, {}
    for name, original in target.names.items():
        if original in arrays:
            converted[name], changes[name] = kind.adapt(name, arrays[original])
    _check_fit(target, converted, [name for name in rest if name not in unused])

    for name, array in converted.items():
        converted[name] = float32(target.names[name], array)
        if array.dtype != np.float32:
            stored = "bfloat16" if array.dtype == np.uint16 else array.dtype.name
            changes[name] = ", ".join(filter(None, [changes[name], f"from {stored}"]))
    set_weights(target.network, converted, target.title)
    changes = {name: change for name, change in changes.items() if change}
    return Conversion(kind, target, converted, changes, unused)


def recognise(names: Collection[str], source: str | None = None) -> Source:
    """Detects the kind of a checkpoint from its tensor names; WeightsError if it is unknown."""
    fitting = [s for s in SOURCES if s.recognises(names)]
    wanted = [s for s in fitting if source in (None, s.name)]
    if wanted:
        return wanted[0]
    if fitting:
        raise WeightsError(f"the names are those of '{fitting[0].name}', not of '{source}'")
    if any(name.startswith("backbone.conv_layer1_1.") or ".norm._mean" in name for name in names):
        raise WeightsError("the names are already those of ppose: the file needs no conversion")
    known = "\n".join(f"  {s.name}: {s.signature}" for s in SOURCES)
    raise WeightsError(
        f"unknown kind of checkpoint; its first names: {shortened(names, 3)}. Supported kinds and "
        f"their names:\n{known}"
    )


def _check_fit(
    target: TargetNetwork, converted: Mapping[str, np.ndarray], unexpected: Sequence[str]
) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in target.network.state_dict().items()}
    missing = [original for name, original in target.names.items() if name not in converted]
    shapes = [
        f"{target.names[name]} ({list(array.shape)}, expected {list(wanted[name])})"
        for name, array in converted.items()
        if array.shape != wanted[name]
    ]
    if not (missing or unexpected or shapes):
        return
    lines = [f"does not fit {target.title}, which has {len(wanted)} tensors:"]
    for kind, found in (
        ("missing", with_suggestions(missing, unexpected, _SHOWN)),
        ("unexpected", unexpected),
        ("of another shape", shapes),
    ):
        if found:
            lines.append(f"  {len(found)} {kind}: {shortened(found, _SHOWN)}")
    raise WeightsError("\n".join(lines))
