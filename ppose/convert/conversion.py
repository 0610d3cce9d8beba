"""PyTorch's tensors to ppose's: each one finds its place, or the checkpoint is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ppose.checkpoint import hinted, set_weights, some
from ppose.convert.imhn import SimplePoseSource
from ppose.convert.source import Source, Variant
from ppose.convert.topdown import MMPOSE, MMPOSE_1, ORIGINAL, HRNetSource, LiteHRNetSource
from ppose.weightfile import WeightsError, float32

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
    """What became of a checkpoint.

    Attributes:
        source: its kind.
        variant: its network; `variant.network` has the weights.
        arrays: the tensors by ppose's names, float32.
        changes: ppose's name → what was changed beside the name.
        unused: name in the checkpoint → why it was left out.
    """

    source: Source
    variant: Variant
    arrays: Mapping[str, np.ndarray]
    changes: Mapping[str, str]
    unused: Mapping[str, str]

    def summary(self) -> str:
        """How many tensors were converted, changed and left out."""
        numbers = sum(array.size for array in self.arrays.values())
        lines = [f"{len(self.arrays)} tensors converted, {numbers / 1e6:.1f} M numbers"]
        lines += [f"{n} of them: {what}" for what, n in Counter(self.changes.values()).items()]
        lines += [f"{n} left out: {why}" for why, n in Counter(self.unused.values()).items()]
        return "\n".join(f"  {line}" for line in lines)

    def table(self) -> str:
        """A line for every tensor: its name in the checkpoint, ppose's, shape, changes."""
        rows = [
            (
                self.variant.names[name],
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
    """Puts every tensor of a checkpoint into its place in ppose's network.

    Args:
        arrays: by the checkpoint's names, as `read_checkpoint` gives them.
        source: name of one of `SOURCES`; None tells it from the tensors' names.

    Raises:
        WeightsError: a network that ppose does not have, or tensors that are missing, unexpected,
            of another shape or not finite.
    """
    kind = recognise(arrays, source)
    variant = kind.variant({name: array.shape for name, array in arrays.items()})
    places = set(variant.names.values())
    rest = [name for name in arrays if name not in places]
    unused = {name: why for name in rest if (why := kind.unused(name)) is not None}
    converted, changes = {}, {}
    for name, original in variant.names.items():
        if original in arrays:
            converted[name], changes[name] = kind.adapt(name, arrays[original])
    _check_fit(variant, converted, [name for name in rest if name not in unused])

    for name, array in converted.items():
        converted[name] = float32(variant.names[name], array)
        if array.dtype != np.float32:
            stored = "bfloat16" if array.dtype == np.uint16 else array.dtype.name
            changes[name] = ", ".join(filter(None, [changes[name], f"from {stored}"]))
    set_weights(variant.network, converted, variant.title)
    changes = {name: change for name, change in changes.items() if change}
    return Conversion(kind, variant, converted, changes, unused)


def recognise(names: Collection[str], source: str | None = None) -> Source:
    """The kind of a checkpoint by the names of its tensors; WeightsError if there is none."""
    fitting = [s for s in SOURCES if s.recognises(names)]
    wanted = [s for s in fitting if source in (None, s.name)]
    if wanted:
        return wanted[0]
    if fitting:
        raise WeightsError(f"the names are those of '{fitting[0].name}', not of '{source}'")
    if any(name.startswith("backbone.conv_layer1_1.") or ".norm._mean" in name for name in names):
        raise WeightsError("the names are ppose's own: the file needs no conversion")
    known = "\n".join(f"  {s.name}: {s.sign}" for s in SOURCES)
    raise WeightsError(
        f"no kind of checkpoint that is known; its first names: {some(names, 3)}. Known are "
        f"names like\n{known}"
    )


def _check_fit(
    variant: Variant, converted: Mapping[str, np.ndarray], unexpected: Sequence[str]
) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in variant.network.state_dict().items()}
    missing = [original for name, original in variant.names.items() if name not in converted]
    shapes = [
        f"{variant.names[name]} ({list(array.shape)}, expected {list(wanted[name])})"
        for name, array in converted.items()
        if array.shape != wanted[name]
    ]
    if not (missing or unexpected or shapes):
        return
    lines = [f"does not fit {variant.title}, which has {len(wanted)} tensors:"]
    for kind, found in (
        ("missing", hinted(missing, unexpected, _SHOWN)),
        ("unexpected", unexpected),
        ("of another shape", shapes),
    ):
        if found:
            lines.append(f"  {len(found)} {kind}: {some(found, _SHOWN)}")
    raise WeightsError("\n".join(lines))
