"""Channel layout of a program whose shuffle blocks are rewritten without copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program

# Each output channel depends on the same input channel only.
_CHANNELWISE = {
    *("relu", "leaky_relu", "sigmoid", "scale", "pool2d"),
    *("nearest_interp_v2", "bilinear_interp_v2"),
}
_BINARY = {"elementwise_add", "elementwise_mul"}


@dataclass(eq=False)
class ChannelSlots:
    """Positions of a value's channels in a tensor that may have more channels.

    Attributes:
        slots: index of each channel in the tensor.
        width: number of channels of the tensor.
        blocks: the rewritten blocks that cause this layout.
    """

    slots: np.ndarray
    width: int
    blocks: frozenset[Block] = frozenset()

    @property
    def is_identity(self) -> bool:
        """Whether the tensor holds these channels only, in order."""
        return self.width == len(self.slots) and bool((np.diff(self.slots) == 1).all())

    @property
    def other_slots(self) -> np.ndarray:
        """Indices in the tensor that belong to other channels."""
        return np.setdiff1d(np.arange(self.width), self.slots)

    def equals(self, other: ChannelSlots) -> bool:
        return self.width == other.width and np.array_equal(self.slots, other.slots)

    def scatter(self, array: np.ndarray, axis: int) -> np.ndarray:
        """Expands an axis to the width of the tensor, with 0 for the other channels."""
        shape = list(array.shape)
        shape[axis] = self.width
        wide = np.zeros(shape, array.dtype)
        np.moveaxis(wide, axis, 0)[self.slots] = np.moveaxis(array, axis, 0)
        return wide


@dataclass(eq=False)
class Block:
    """A shuffle block: processes half of the channels and passes the others through.

    Attributes:
        source: input of the split.
        parts: outputs of the split, in order.
        changed: the half that is processed.
        chain: operators that process it, in order.
        gate_biases: for each sigmoid gate that the chain multiplies by, the operator that adds
            the bias before the sigmoid.
        copies: the split, and the operators that join the halves.
        result: output of the block.
        order: for each channel of the result, the channel of the source whose slot it takes.
    """

    source: str
    parts: list[str]
    changed: str
    chain: list[Operator]
    gate_biases: list[Operator]
    copies: list[Operator]
    result: str
    order: np.ndarray


class ConflictError(Exception):
    """Channels would need two different layouts; leaving out this block may resolve it."""

    def __init__(self, block: Block):
        super().__init__()
        self.block = block


class _Rule(NamedTuple):
    """A constraint: a value has the slots of some other values, concatenated.

    Attributes:
        taken: the channels of the concatenation that the value has; None for all.
        block: the block that the constraint comes from.
    """

    value: str
    sources: list[str]
    taken: np.ndarray | None = None
    block: Block | None = None


class ChannelLayout:
    """Slots of the channels of all values, if these blocks are rewritten.

    Values connected by channelwise operators form a class (union-find) and share their slots.
    """

    def __init__(self, program: Program, blocks: list[Block]):
        self.program = program
        self._blocks = blocks
        self._parent: dict[str, str] = {}
        self._fixed: set[str] = set()
        self._all_rules: list[_Rule] = []
        copies = {id(op) for block in blocks for op in block.copies}
        for op in program.operators:
            if id(op) not in copies:
                self._add_operator(op)
        self._fixed.update([*program.inputs, *program.outputs])
        for block in blocks:
            self._add_block(block)
        self._rules: dict[str, list[_Rule]] = {}
        for rule in self._all_rules:
            self._rules.setdefault(self._find(rule.value), []).append(rule)
        self._fixed_classes = {self._find(value) for value in self._fixed}
        self._resolved: dict[str, ChannelSlots] = {}
        self._pending: list[str] = []

    def resolve(self) -> dict[str, ChannelSlots]:
        """Slots of each value that has channels.

        Raises:
            ConflictError: the constraints contradict each other.
        """
        values = [
            *self.program.inputs,
            *(v for op in self.program.operators for v in op.output_names),
        ]
        return {v: self._slots(v) for v in values if len(self.program.shapes.get(v, ())) == 4}

    def _add_operator(self, op: Operator) -> None:
        """Adds the constraints of an operator that is not removed."""
        shapes, made = self.program.shapes, op.output_names
        values = [name for name in op.input_names if name not in self.program.tensors]
        sides = {shapes[name][1] if len(shapes[name]) == 4 else 0 for name in [*values, *made]}
        on_channels = op.type in ("concat", "split") and op.integer("axis") == 1 and 0 not in sides
        if op.type == "conv2d" and op.integer("groups") == 1:
            return
        if on_channels and op.type == "concat":
            self._all_rules.append(_Rule(made[0], values))
        elif on_channels:
            self._all_rules.append(_Rule(values[0], made))
        elif len(sides) == 1 and 0 not in sides and self._is_channelwise(op):
            self._union([*values, *made])
        else:
            self._fixed.update([*values, *made])

    def _is_channelwise(self, op: Operator) -> bool:
        if op.type in _BINARY:
            (second,) = op.inputs["Y"]
            return second not in self.program.tensors or op.integer("axis") == 1
        return op.type in _CHANNELWISE or op.type == "depthwise_conv2d"

    def _add_block(self, block: Block) -> None:
        half = np.arange(len(block.order)).reshape(2, -1)[block.parts.index(block.changed)]
        convolved = [op.output_names[0] for op in block.chain if op.type in CONVOLUTIONS]
        for value in (block.changed, *convolved):
            self._all_rules.append(_Rule(value, [block.source], half, block))
        self._all_rules.append(_Rule(block.result, [block.source], block.order, block))

    def _union(self, values: list[str]) -> None:
        first = self._find(values[0])
        for value in values[1:]:
            self._parent[self._find(value)] = first

    def _find(self, value: str) -> str:
        while value in self._parent and self._parent[value] != value:
            value = self._parent[value]
        return value

    def _slots(self, value: str) -> ChannelSlots:
        name = self._find(value)
        if name in self._pending:
            cycle = self._pending[self._pending.index(name) :]
            raise self._conflict({r.block for c in cycle for r in self._rules[c] if r.block})
        if name not in self._resolved:
            self._pending.append(name)
            channels = self.program.shapes[value][1]
            rules = self._rules.get(name, [])
            found = [self._apply(rule) for rule in rules]
            if name in self._fixed_classes or not rules:
                found.append(ChannelSlots(np.arange(channels), channels))
            if not all(found[0].equals(other) for other in found):
                raise self._conflict({block for slots in found for block in slots.blocks})
            self._resolved[name] = found[0]
            self._pending.pop()
        return self._resolved[name]

    def _conflict(self, blocks: set[Block]) -> ConflictError:
        """Gives up the last block, as its layout depends on the blocks before it."""
        return ConflictError(max(blocks, key=self._blocks.index))

    def _apply(self, rule: _Rule) -> ChannelSlots:
        others = [self._slots(value) for value in rule.sources]
        starts = np.cumsum([0, *(other.width for other in others)])
        slots = [other.slots + start for other, start in zip(others, starts[:-1], strict=True)]
        joined = np.concatenate(slots)
        blocks = frozenset([rule.block] if rule.block else []).union(*(o.blocks for o in others))
        return ChannelSlots(
            joined if rule.taken is None else joined[rule.taken], int(starts[-1]), blocks
        )
