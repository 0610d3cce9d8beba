"""Where the channels of a network lie, if shuffle blocks keep theirs in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program

# Each channel of the result depends on that channel alone.
_CHANNELWISE = {
    *("relu", "leaky_relu", "sigmoid", "scale", "pool2d"),
    *("nearest_interp_v2", "bilinear_interp_v2"),
}
_PAIRS = {"elementwise_add", "elementwise_mul"}


@dataclass(eq=False)
class Places:
    """Where channels lie in a tensor that may hold others too.

    Attributes:
        slots: of each channel.
        width: channels of the tensor.
        blocks: whose rewriting they follow from.
    """

    slots: np.ndarray
    width: int
    blocks: frozenset[Block] = frozenset()

    @property
    def plain(self) -> bool:
        """Whether they are all there is, in order."""
        return self.width == len(self.slots) and bool((np.diff(self.slots) == 1).all())

    @property
    def others(self) -> np.ndarray:
        return np.setdiff1d(np.arange(self.width), self.slots)

    def same(self, other: Places) -> bool:
        return self.width == other.width and np.array_equal(self.slots, other.slots)

    def spread(self, array: np.ndarray, axis: int) -> np.ndarray:
        """An array with this axis as wide as the tensor; 0 at the slots of other channels."""
        shape = list(array.shape)
        shape[axis] = self.width
        wide = np.zeros(shape, array.dtype)
        np.moveaxis(wide, axis, 0)[self.slots] = np.moveaxis(array, axis, 0)
        return wide


@dataclass(eq=False)
class Block:
    """A part of a network that changes half of the channels and lets the others pass.

    Attributes:
        source: what is split.
        parts: the halves, in order.
        changed: the one that is not just joined again.
        chain: operators from `changed` to what is joined, in order.
        factors: what the chain multiplies by, as operators that add the biases before σ.
        glue: the split, and the operators that join.
        result: what is joined.
        order: for each channel of the result, the channel of the source in whose place it lies.
    """

    source: str
    parts: list[str]
    changed: str
    chain: list[Operator]
    factors: list[Operator]
    glue: list[Operator]
    result: str
    order: np.ndarray


class ConflictError(Exception):
    """Channels would have to lie in two places; without this block they might not."""

    def __init__(self, block: Block):
        super().__init__()
        self.block = block


class _Rule(NamedTuple):
    """Says that a value's channels lie as all those of some values one after another do.

    Attributes:
        taken: which of those channels; None for all.
        block: whose rule it is.
    """

    value: str
    others: list[str]
    taken: np.ndarray | None = None
    block: Block | None = None


class Layout:
    """Where the channels of all values lie, if these blocks keep theirs in place.

    Values between which each channel depends on that channel alone form a class, and lie alike.
    """

    def __init__(self, program: Program, blocks: list[Block]):
        self.program = program
        self._blocks = blocks
        self._above: dict[str, str] = {}
        self._fixed: set[str] = set()
        self._said: list[_Rule] = []
        glue = {id(op) for block in blocks for op in block.glue}
        for op in program.operators:
            if id(op) not in glue:
                self._relate(op)
        self._fixed.update([*program.sources, *program.results])
        for block in blocks:
            self._relate_block(block)
        self._rules: dict[str, list[_Rule]] = {}
        for rule in self._said:
            self._rules.setdefault(self._class(rule.value), []).append(rule)
        self._still = {self._class(value) for value in self._fixed}
        self._found: dict[str, Places] = {}
        self._asked: list[str] = []

    def resolve(self) -> dict[str, Places]:
        """Places of each value that has channels.

        Raises:
            ConflictError: they contradict each other.
        """
        values = [*self.program.sources, *(v for op in self.program.operators for v in op.made)]
        return {v: self._places(v) for v in values if len(self.program.shapes.get(v, ())) == 4}

    def _relate(self, op: Operator) -> None:
        """What an operator that stays demands."""
        shapes, made = self.program.shapes, op.made
        values = [name for name in op.read if name not in self.program.tensors]
        sides = {shapes[name][1] if len(shapes[name]) == 4 else 0 for name in [*values, *made]}
        on_channels = op.kind in ("concat", "split") and op.integer("axis") == 1 and 0 not in sides
        if op.kind == "conv2d" and op.integer("groups") == 1:
            return
        if on_channels and op.kind == "concat":
            self._said.append(_Rule(made[0], values))
        elif on_channels:
            self._said.append(_Rule(values[0], made))
        elif len(sides) == 1 and 0 not in sides and self._is_channelwise(op):
            self._unite([*values, *made])
        else:
            self._fixed.update([*values, *made])

    def _is_channelwise(self, op: Operator) -> bool:
        if op.kind in _PAIRS:
            (second,) = op.inputs["Y"]
            return second not in self.program.tensors or op.integer("axis") == 1
        return op.kind in _CHANNELWISE or op.kind == "depthwise_conv2d"

    def _relate_block(self, block: Block) -> None:
        half = np.arange(len(block.order)).reshape(2, -1)[block.parts.index(block.changed)]
        convolved = [op.made[0] for op in block.chain if op.kind in CONVOLUTIONS]
        for value in (block.changed, *convolved):
            self._said.append(_Rule(value, [block.source], half, block))
        self._said.append(_Rule(block.result, [block.source], block.order, block))

    def _unite(self, values: list[str]) -> None:
        first = self._class(values[0])
        for value in values[1:]:
            self._above[self._class(value)] = first

    def _class(self, value: str) -> str:
        while value in self._above and self._above[value] != value:
            value = self._above[value]
        return value

    def _places(self, value: str) -> Places:
        name = self._class(value)
        if name in self._asked:
            asked = self._asked[self._asked.index(name) :]
            raise self._conflict({r.block for c in asked for r in self._rules[c] if r.block})
        if name not in self._found:
            self._asked.append(name)
            channels = self.program.shapes[value][1]
            rules = self._rules.get(name, [])
            found = [self._follow(rule) for rule in rules]
            if name in self._still or not rules:
                found.append(Places(np.arange(channels), channels))
            if not all(found[0].same(other) for other in found):
                raise self._conflict({block for places in found for block in places.blocks})
            self._found[name] = found[0]
            self._asked.pop()
        return self._found[name]

    def _conflict(self, blocks: set[Block]) -> ConflictError:
        """The last block is given up: what it hands on is what those before it have led to."""
        return ConflictError(max(blocks, key=self._blocks.index))

    def _follow(self, rule: _Rule) -> Places:
        others = [self._places(value) for value in rule.others]
        starts = np.cumsum([0, *(other.width for other in others)])
        slots = [other.slots + start for other, start in zip(others, starts[:-1], strict=True)]
        joined = np.concatenate(slots)
        blocks = frozenset([rule.block] if rule.block else []).union(*(o.blocks for o in others))
        return Places(joined if rule.taken is None else joined[rule.taken], int(starts[-1]), blocks)
