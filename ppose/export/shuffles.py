"""Shuffle blocks without copies: channels stay where they are.

A shuffle block splits its input, changes one half of the channels, and joins both halves in
another order. Backends copy at each of these steps, often from one layout of the memory into
another. Here the block works on all channels: those that only pass meet weights of 1. The order is
known at export, and goes into the weights of what reads the channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program, settings

# σ of it is 1.
_OPEN = np.float32(100)
# Each channel of the result depends on that channel alone.
_CHANNELWISE = {
    *("relu", "leaky_relu", "sigmoid", "scale", "pool2d"),
    *("nearest_interp_v2", "bilinear_interp_v2"),
}
_PAIRS = {"elementwise_add", "elementwise_mul"}
# These give nothing below 0 where they read nothing below 0.
_SIGN_KEEPING = {
    *("split", "concat", "unsqueeze2", "flatten_contiguous_range", "pool2d", "leaky_relu"),
    *("nearest_interp_v2", "bilinear_interp_v2", "elementwise_add", "elementwise_mul"),
}


def keep_channels_in_place(program: Program, *, dense: bool) -> int:
    """Takes the copies out of shuffle blocks; the output is the same up to rounding.

    Args:
        program: float; it is changed.
        dense: of blocks with convolutions over several channels too, which then cost up to four
            times as many multiplications.

    Returns:
        blocks that were rewritten.
    """
    blocks = [b for b in _blocks(program) if dense or all(op.kind != "conv2d" for op in b.chain)]
    while blocks:
        try:
            places = _Layout(program, blocks).resolve()
        except _ConflictError as conflict:
            blocks = [block for block in blocks if block is not conflict.block]
        else:
            _Rewriter(program, blocks, places).rewrite()
            break
    return len(blocks)


@dataclass(eq=False)
class _Places:
    """Where channels lie in a tensor that may hold others too.

    Attributes:
        slots: of each channel.
        width: channels of the tensor.
        blocks: whose rewriting they follow from.
    """

    slots: np.ndarray
    width: int
    blocks: frozenset[_Block] = frozenset()

    @property
    def plain(self) -> bool:
        """Whether they are all there is, in order."""
        return self.width == len(self.slots) and bool((np.diff(self.slots) == 1).all())

    @property
    def others(self) -> np.ndarray:
        return np.setdiff1d(np.arange(self.width), self.slots)

    def same(self, other: _Places) -> bool:
        return self.width == other.width and np.array_equal(self.slots, other.slots)

    def spread(self, array: np.ndarray, axis: int) -> np.ndarray:
        """An array with this axis as wide as the tensor; 0 at the slots of other channels."""
        shape = list(array.shape)
        shape[axis] = self.width
        wide = np.zeros(shape, array.dtype)
        np.moveaxis(wide, axis, 0)[self.slots] = np.moveaxis(array, axis, 0)
        return wide


@dataclass(eq=False)
class _Block:
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


class _ConflictError(Exception):
    """Channels would have to lie in two places; without this block they might not."""

    def __init__(self, block: _Block):
        super().__init__()
        self.block = block


def _blocks(program: Program) -> list[_Block]:
    graph = _Graph(program)
    return [block for op in program.operators if (block := graph.block(op))]


class _Graph:
    """Who makes and who reads what."""

    def __init__(self, program: Program):
        self.program = program
        self.makers, self.readers = program.makers(), program.readers()
        self._positive: dict[str, bool] = {}

    def block(self, last: Operator) -> _Block | None:
        """The block that ends with this operator."""
        joined = self._joined(last)
        if joined is None:
            return None
        ends, glue, interleaved = joined
        if any(name in self.program.results for op in glue[:-1] for name in op.made):
            return None
        for kept, end in (ends, ends[::-1]):
            split = self.makers.get(kept)
            if not split or not self._halves(split) or len(self.readers[kept]) > 1:
                continue
            parts = split.made
            changed = parts[1 - parts.index(kept)]
            found = self._chain(changed, end)
            if found is None:
                continue
            cuts = any(op.kind in ("relu", "leaky_relu") for op in found[0])
            if cuts and not self._not_negative(kept):
                continue
            (source,) = split.inputs["X"]
            width = self.program.shapes[source][1]
            halves = np.arange(width).reshape(2, -1)
            order = halves[[parts.index(kept if e == kept else changed) for e in ends]]
            order = (order.T if interleaved else order).reshape(-1)
            return _Block(source, parts, changed, *found, [split, *glue], last.made[0], order)
        return None

    def _joined(self, last: Operator) -> tuple[list[str], list[Operator], bool] | None:
        """What an operator joins, all operators of the joining, and whether by turns."""
        if last.kind == "concat" and _integer(last, "axis") == 1:
            ends = last.inputs["X"]
            return (ends, [last], False) if len(ends) == 2 else None
        if last.kind != "flatten_contiguous_range":
            return None
        if (_integer(last, "start_axis"), _integer(last, "stop_axis")) != (1, 2):
            return None
        concat = self._only_maker(last.inputs["X"][0], "concat")
        if concat is None or _integer(concat, "axis") != 2 or len(concat.inputs["X"]) != 2:
            return None
        raised = [self._only_maker(name, "unsqueeze2") for name in concat.inputs["X"]]
        if any(op is None or list(op.settings["axes"].ints) != [2] for op in raised):
            return None
        found = [op for op in raised if op]
        return [op.inputs["X"][0] for op in found], [*found, concat, last], True

    def _only_maker(self, value: str, kind: str) -> Operator | None:
        """The operator of this kind that makes a value which one operator reads."""
        maker = self.makers.get(value)
        return maker if maker and maker.kind == kind and len(self.readers[value]) == 1 else None

    def _halves(self, op: Operator) -> bool:
        if op.kind != "split" or _integer(op, "axis") != 1 or len(op.made) != 2:
            return False
        one, two = (self.program.shapes[name] for name in op.made)
        return len(one) == 4 and one == two

    def _chain(self, changed: str, end: str) -> tuple[list[Operator], list[Operator]] | None:
        """Operators from one value to the other that can let further channels pass, and the
        additions of the biases of their factors."""
        chain: list[Operator] = []
        factors: list[Operator] = []
        while end != changed:
            op = self.makers.get(end)
            if op is None or not self._passes(op) or self._channels(end) != self._channels(changed):
                return None
            main = op.inputs["Input" if op.kind in CONVOLUTIONS else "X"][0]
            if op.kind == "elementwise_mul":
                factor = self._factor(op.inputs["Y"][0])
                if factor is None:
                    main, factor = op.inputs["Y"][0], self._factor(main)
                if factor is None:
                    return None
                factors.append(factor)
            chain.append(op)
            end = main
        return chain[::-1], factors

    def _channels(self, value: str) -> int:
        return self.program.shapes[value][1]

    def _passes(self, op: Operator) -> bool:
        """Whether it can let channels pass that are not below 0."""
        if op.kind in CONVOLUTIONS:
            sides = self.program.tensors[op.inputs["Filter"][0]].shape[2:]
            dilations = op.settings["dilations"].ints
            return (
                (op.kind == "depthwise_conv2d" or _integer(op, "groups") == 1)
                and set(op.settings["strides"].ints) == {1}
                and all(side % 2 for side in sides)
                and list(op.settings["paddings"].ints)
                == [side // 2 * d for side, d in zip(sides, dilations, strict=True)]
            )
        if op.kind == "elementwise_add":
            return self._is_bias(op)
        return op.kind in ("relu", "leaky_relu", "elementwise_mul")

    def _is_bias(self, op: Operator) -> bool:
        (bias,) = op.inputs["Y"]
        return bias in self.program.tensors and _integer(op, "axis") == 1

    def _factor(self, value: str) -> Operator | None:
        """The addition of a convolution's bias behind which a value is σ, moved at most."""
        maker = self.makers.get(value)
        while maker and maker.kind in ("nearest_interp_v2", "split", "sigmoid"):
            (source,) = maker.inputs["X"]
            made_by, maker = maker.kind, self.makers.get(source)
            if made_by == "sigmoid":
                break
        else:
            return None
        if maker is None or maker.kind != "elementwise_add" or not self._is_bias(maker):
            return None
        made = self.makers.get(maker.inputs["X"][0])
        return maker if made and made.kind == "conv2d" else None

    def _not_negative(self, value: str) -> bool:
        if value not in self._positive:
            maker = self.makers.get(value)
            kind = maker.kind if maker else ""
            self._positive[value] = kind in ("relu", "sigmoid") or (
                maker is not None
                and kind in _SIGN_KEEPING
                and all(map(self._not_negative, maker.read))
            )
        return self._positive[value]


class _Rule(NamedTuple):
    """Says that a value's channels lie as all those of some values one after another do.

    Attributes:
        taken: which of those channels; None for all.
        block: whose rule it is.
    """

    value: str
    others: list[str]
    taken: np.ndarray | None = None
    block: _Block | None = None


class _Layout:
    """Where the channels of all values lie, if these blocks keep theirs in place.

    Values between which each channel depends on that channel alone form a class, and lie alike.
    """

    def __init__(self, program: Program, blocks: list[_Block]):
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
        self._found: dict[str, _Places] = {}
        self._asked: list[str] = []

    def resolve(self) -> dict[str, _Places]:
        """Places of each value that has channels.

        Raises:
            _ConflictError: they contradict each other.
        """
        values = [*self.program.sources, *(v for op in self.program.operators for v in op.made)]
        return {v: self._places(v) for v in values if len(self.program.shapes.get(v, ())) == 4}

    def _relate(self, op: Operator) -> None:
        """What an operator that stays demands."""
        shapes, made = self.program.shapes, op.made
        values = [name for name in op.read if name not in self.program.tensors]
        sides = {shapes[name][1] if len(shapes[name]) == 4 else 0 for name in [*values, *made]}
        on_channels = (
            op.kind in ("concat", "split") and _integer(op, "axis") == 1 and 0 not in sides
        )
        if op.kind == "conv2d" and _integer(op, "groups") == 1:
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
            return second not in self.program.tensors or _integer(op, "axis") == 1
        return op.kind in _CHANNELWISE or op.kind == "depthwise_conv2d"

    def _relate_block(self, block: _Block) -> None:
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

    def _places(self, value: str) -> _Places:
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
                found.append(_Places(np.arange(channels), channels))
            if not all(found[0].same(other) for other in found):
                raise self._conflict({block for places in found for block in places.blocks})
            self._found[name] = found[0]
            self._asked.pop()
        return self._found[name]

    def _conflict(self, blocks: set[_Block]) -> _ConflictError:
        """The last block is given up: what it hands on is what those before it have led to."""
        return _ConflictError(max(blocks, key=self._blocks.index))

    def _follow(self, rule: _Rule) -> _Places:
        others = [self._places(value) for value in rule.others]
        starts = np.cumsum([0, *(other.width for other in others)])
        slots = [other.slots + start for other, start in zip(others, starts[:-1], strict=True)]
        joined = np.concatenate(slots)
        blocks = frozenset([rule.block] if rule.block else []).union(*(o.blocks for o in others))
        return _Places(
            joined if rule.taken is None else joined[rule.taken], int(starts[-1]), blocks
        )


class _Rewriter:
    """Puts the channels of a program to their places."""

    def __init__(self, program: Program, blocks: list[_Block], places: dict[str, _Places]):
        self.program = program
        self.places = places
        self._glue = {id(op) for block in blocks for op in block.glue}
        self._passing = {id(op) for block in blocks for op in block.chain}
        self._factors = {id(op) for block in blocks for op in block.factors}
        self._moved: dict[str, str] = {}
        for block in blocks:
            self._moved[block.changed] = block.source
            self._moved[block.result] = block.chain[-1].made[0] if block.chain else block.source

    def rewrite(self) -> None:
        program = self.program
        program.operators = [op for op in program.operators if id(op) not in self._glue]
        for op in program.operators:
            self._place(op)
            op.inputs = {k: [self._now(name) for name in v] for k, v in op.inputs.items()}
        for name, places in self.places.items():
            batch, _, *sides = program.shapes[name]
            program.shapes[name] = (batch, places.width, *sides)
        program.drop_unread()

    def _now(self, value: str) -> str:
        while value in self._moved:
            value = self._moved[value]
        return value

    def _place(self, op: Operator) -> None:
        if op.kind in CONVOLUTIONS:
            self._place_convolution(op)
        elif op.kind == "elementwise_add" and op.inputs["Y"][0] in self.program.tensors:
            self._place_bias(op)
        elif op.kind == "split" and op.made[0] in self.places:
            widths = [self.places[name].width for name in op.made]
            op.settings = settings(axis=1, sections=widths)

    def _place_convolution(self, op: Operator) -> None:
        (source,), (name,), (result,) = op.inputs["Input"], op.inputs["Filter"], op.made
        before, after = self.places[source], self.places[result]
        if before.plain and after.plain:
            return
        weights = self.program.tensors[name]
        middle = tuple(side // 2 for side in weights.shape[2:])
        if op.kind == "conv2d":
            weights = after.spread(before.spread(weights, 1), 0)
        else:
            weights = after.spread(weights, 0)
            op.settings = op.settings | settings(groups=after.width)
        if id(op) in self._passing:
            others = after.others
            weights[(others, others if op.kind == "conv2d" else 0, *middle)] = 1
        op.inputs["Filter"] = [self._keep(f"{result}.weights", weights)]

    def _place_bias(self, op: Operator) -> None:
        (name,), (result,) = op.inputs["Y"], op.made
        places = self.places.get(result)
        if places is None or places.plain:
            return
        bias = places.spread(self.program.tensors[name], 0)
        if id(op) in self._factors:
            bias[places.others] = _OPEN
        op.inputs["Y"] = [self._keep(f"{result}.bias", bias)]

    def _keep(self, name: str, array: np.ndarray) -> str:
        self.program.tensors[name] = array
        return name


def _integer(op: Operator, name: str) -> int:
    return int(op.settings[name].i)
