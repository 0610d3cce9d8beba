"""Shuffle blocks without copies: channels stay where they are.

A shuffle block splits its input, changes one half of the channels, and joins both halves in
another order. Backends copy at each of these steps, often from one layout of the memory into
another. Here the block works on all channels: those that only pass meet weights of 1. The order is
known at export, and goes into the weights of what reads the channels.
"""

from __future__ import annotations

import numpy as np

from ppose.export.layout import Block, ConflictError, Layout, Places
from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program, settings

# σ of it is 1.
_OPEN = np.float32(100)
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
            places = Layout(program, blocks).resolve()
        except ConflictError as conflict:
            blocks = [block for block in blocks if block is not conflict.block]
        else:
            _Rewriter(program, blocks, places).rewrite()
            break
    return len(blocks)


def _blocks(program: Program) -> list[Block]:
    graph = _Graph(program)
    return [block for op in program.operators if (block := graph.block(op))]


class _Graph:
    """Who makes and who reads what."""

    def __init__(self, program: Program):
        self.program = program
        self.makers, self.readers = program.makers(), program.readers()
        self._positive: dict[str, bool] = {}

    def block(self, last: Operator) -> Block | None:
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
            return Block(source, parts, changed, *found, [split, *glue], last.made[0], order)
        return None

    def _joined(self, last: Operator) -> tuple[list[str], list[Operator], bool] | None:
        """What an operator joins, all operators of the joining, and whether by turns."""
        if last.kind == "concat" and last.integer("axis") == 1:
            ends = last.inputs["X"]
            return (ends, [last], False) if len(ends) == 2 else None
        if last.kind != "flatten_contiguous_range":
            return None
        if (last.integer("start_axis"), last.integer("stop_axis")) != (1, 2):
            return None
        concat = self._only_maker(last.inputs["X"][0], "concat")
        if concat is None or concat.integer("axis") != 2 or len(concat.inputs["X"]) != 2:
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
        if op.kind != "split" or op.integer("axis") != 1 or len(op.made) != 2:
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
                (op.kind == "depthwise_conv2d" or op.integer("groups") == 1)
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
        return bias in self.program.tensors and op.integer("axis") == 1

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


class _Rewriter:
    """Puts the channels of a program to their places."""

    def __init__(self, program: Program, blocks: list[Block], places: dict[str, Places]):
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
