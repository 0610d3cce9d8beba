"""Removal of the split, concat and channel shuffle operators of shuffle blocks.

A shuffle block splits its input, processes one half of the channels, and joins both halves in
another order. Backends copy at each of these steps, often with a memory layout conversion. In the
rewritten block the operators process all channels, with identity weights for those that only pass
through. The channel order is known at export and is applied to the weights of the consumers.
"""

from __future__ import annotations

import numpy as np

from ppose.export.layout import Block, ChannelLayout, ChannelSlots, ConflictError
from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program, make_attributes

# The sigmoid of it is 1.
_OPEN_GATE = np.float32(100)
# Operators whose output is non-negative if their inputs are.
_NONNEGATIVE_PRESERVING = {
    *("split", "concat", "unsqueeze2", "flatten_contiguous_range", "pool2d", "leaky_relu"),
    *("nearest_interp_v2", "bilinear_interp_v2", "elementwise_add", "elementwise_mul"),
}


def remove_shuffle_copies(program: Program, *, dense: bool) -> int:
    """Rewrites shuffle blocks without copies, in place; the output is the same up to rounding.

    Args:
        program: a float program.
        dense: also rewrite blocks with dense (not depthwise) convolutions, which then need up to
            four times as many multiplications.

    Returns:
        the number of rewritten blocks.
    """
    blocks = [b for b in _blocks(program) if dense or all(op.type != "conv2d" for op in b.chain)]
    while blocks:
        try:
            slots = ChannelLayout(program, blocks).resolve()
        except ConflictError as conflict:
            blocks = [block for block in blocks if block is not conflict.block]
        else:
            _Rewriter(program, blocks, slots).rewrite()
            break
    return len(blocks)


def _blocks(program: Program) -> list[Block]:
    finder = _BlockFinder(program)
    return [block for op in program.operators if (block := finder.block(op))]


class _BlockFinder:
    """Finds the shuffle blocks of a program."""

    def __init__(self, program: Program):
        self.program = program
        self.producers, self.consumers = program.producers(), program.consumers()
        self._nonnegative: dict[str, bool] = {}

    def block(self, last: Operator) -> Block | None:
        """The block whose last operator is this one."""
        joined = self._join(last)
        if joined is None:
            return None
        ends, copies, interleaved = joined
        if any(name in self.program.outputs for op in copies[:-1] for name in op.output_names):
            return None
        for kept, end in (ends, ends[::-1]):
            split = self.producers.get(kept)
            if not split or not self._is_halving(split) or len(self.consumers[kept]) > 1:
                continue
            parts = split.output_names
            changed = parts[1 - parts.index(kept)]
            found = self._chain(changed, end)
            if found is None:
                continue
            has_relu = any(op.type in ("relu", "leaky_relu") for op in found[0])
            if has_relu and not self._is_nonnegative(kept):
                continue
            (source,) = split.inputs["X"]
            width = self.program.shapes[source][1]
            halves = np.arange(width).reshape(2, -1)
            order = halves[[parts.index(kept if e == kept else changed) for e in ends]]
            order = (order.T if interleaved else order).reshape(-1)
            return Block(
                source, parts, changed, *found, [split, *copies], last.output_names[0], order
            )
        return None

    def _join(self, last: Operator) -> tuple[list[str], list[Operator], bool] | None:
        """The joined values, the operators that join them, and whether channels are interleaved."""
        if last.type == "concat" and last.integer("axis") == 1:
            ends = last.inputs["X"]
            return (ends, [last], False) if len(ends) == 2 else None
        if last.type != "flatten_contiguous_range":
            return None
        if (last.integer("start_axis"), last.integer("stop_axis")) != (1, 2):
            return None
        concat = self._sole_producer(last.inputs["X"][0], "concat")
        if concat is None or concat.integer("axis") != 2 or len(concat.inputs["X"]) != 2:
            return None
        unsqueezed = [self._sole_producer(name, "unsqueeze2") for name in concat.inputs["X"]]
        if any(op is None or list(op.attributes["axes"].ints) != [2] for op in unsqueezed):
            return None
        found = [op for op in unsqueezed if op]
        return [op.inputs["X"][0] for op in found], [*found, concat, last], True

    def _sole_producer(self, value: str, op_type: str) -> Operator | None:
        """The producer of a value, if it has this type and the value is read once."""
        producer = self.producers.get(value)
        if producer and producer.type == op_type and len(self.consumers[value]) == 1:
            return producer
        return None

    def _is_halving(self, op: Operator) -> bool:
        if op.type != "split" or op.integer("axis") != 1 or len(op.output_names) != 2:
            return False
        one, two = (self.program.shapes[name] for name in op.output_names)
        return len(one) == 4 and one == two

    def _chain(self, changed: str, end: str) -> tuple[list[Operator], list[Operator]] | None:
        """The operators from `changed` to `end`, if all can pass further channels through, and
        the operators that add the biases of their sigmoid gates."""
        chain: list[Operator] = []
        gate_biases: list[Operator] = []
        while end != changed:
            op = self.producers.get(end)
            if (
                op is None
                or not self._can_pass_channels(op)
                or self._channels(end) != self._channels(changed)
            ):
                return None
            main = op.inputs["Input" if op.type in CONVOLUTIONS else "X"][0]
            if op.type == "elementwise_mul":
                gate = self._gate_bias(op.inputs["Y"][0])
                if gate is None:
                    main, gate = op.inputs["Y"][0], self._gate_bias(main)
                if gate is None:
                    return None
                gate_biases.append(gate)
            chain.append(op)
            end = main
        return chain[::-1], gate_biases

    def _channels(self, value: str) -> int:
        return self.program.shapes[value][1]

    def _can_pass_channels(self, op: Operator) -> bool:
        """Whether suitable weights make it pass non-negative channels through unchanged."""
        if op.type in CONVOLUTIONS:
            sides = self.program.tensors[op.inputs["Filter"][0]].shape[2:]
            dilations = op.attributes["dilations"].ints
            return (
                (op.type == "depthwise_conv2d" or op.integer("groups") == 1)
                and set(op.attributes["strides"].ints) == {1}
                and all(side % 2 for side in sides)
                and list(op.attributes["paddings"].ints)
                == [side // 2 * d for side, d in zip(sides, dilations, strict=True)]
            )
        if op.type == "elementwise_add":
            return self._is_bias(op)
        return op.type in ("relu", "leaky_relu", "elementwise_mul")

    def _is_bias(self, op: Operator) -> bool:
        (bias,) = op.inputs["Y"]
        return bias in self.program.tensors and op.integer("axis") == 1

    def _gate_bias(self, value: str) -> Operator | None:
        """The operator that adds a convolution's bias, if the value is the sigmoid of its output,
        at most upsampled or split after that."""
        producer = self.producers.get(value)
        while producer and producer.type in ("nearest_interp_v2", "split", "sigmoid"):
            (source,) = producer.inputs["X"]
            op_type, producer = producer.type, self.producers.get(source)
            if op_type == "sigmoid":
                break
        else:
            return None
        if producer is None or producer.type != "elementwise_add" or not self._is_bias(producer):
            return None
        convolution = self.producers.get(producer.inputs["X"][0])
        return producer if convolution and convolution.type == "conv2d" else None

    def _is_nonnegative(self, value: str) -> bool:
        if value not in self._nonnegative:
            producer = self.producers.get(value)
            op_type = producer.type if producer else ""
            self._nonnegative[value] = op_type in ("relu", "sigmoid") or (
                producer is not None
                and op_type in _NONNEGATIVE_PRESERVING
                and all(map(self._is_nonnegative, producer.input_names))
            )
        return self._nonnegative[value]


class _Rewriter:
    """Applies the channel slots to the operators and weights of a program."""

    def __init__(self, program: Program, blocks: list[Block], slots: dict[str, ChannelSlots]):
        self.program = program
        self.slots = slots
        self._copies = {id(op) for block in blocks for op in block.copies}
        self._passing = {id(op) for block in blocks for op in block.chain}
        self._gate_biases = {id(op) for block in blocks for op in block.gate_biases}
        self._replaced: dict[str, str] = {}
        for block in blocks:
            self._replaced[block.changed] = block.source
            self._replaced[block.result] = (
                block.chain[-1].output_names[0] if block.chain else block.source
            )

    def rewrite(self) -> None:
        program = self.program
        program.operators = [op for op in program.operators if id(op) not in self._copies]
        for op in program.operators:
            self._rewrite_operator(op)
            op.inputs = {k: [self._current_name(name) for name in v] for k, v in op.inputs.items()}
        for name, slots in self.slots.items():
            batch, _, *sides = program.shapes[name]
            program.shapes[name] = (batch, slots.width, *sides)
        program.drop_unused_tensors()

    def _current_name(self, value: str) -> str:
        while value in self._replaced:
            value = self._replaced[value]
        return value

    def _rewrite_operator(self, op: Operator) -> None:
        if op.type in CONVOLUTIONS:
            self._rewrite_convolution(op)
        elif op.type == "elementwise_add" and op.inputs["Y"][0] in self.program.tensors:
            self._rewrite_bias(op)
        elif op.type == "split" and op.output_names[0] in self.slots:
            widths = [self.slots[name].width for name in op.output_names]
            op.attributes = make_attributes(axis=1, sections=widths)

    def _rewrite_convolution(self, op: Operator) -> None:
        (source,), (name,), (result,) = op.inputs["Input"], op.inputs["Filter"], op.output_names
        before, after = self.slots[source], self.slots[result]
        if before.is_identity and after.is_identity:
            return
        weights = self.program.tensors[name]
        middle = tuple(side // 2 for side in weights.shape[2:])
        if op.type == "conv2d":
            weights = after.scatter(before.scatter(weights, 1), 0)
        else:
            weights = after.scatter(weights, 0)
            op.attributes = op.attributes | make_attributes(groups=after.width)
        if id(op) in self._passing:
            others = after.other_slots
            weights[(others, others if op.type == "conv2d" else 0, *middle)] = 1
        op.inputs["Filter"] = [self._store(f"{result}.weights", weights)]

    def _rewrite_bias(self, op: Operator) -> None:
        (name,), (result,) = op.inputs["Y"], op.output_names
        slots = self.slots.get(result)
        if slots is None or slots.is_identity:
            return
        bias = slots.scatter(self.program.tensors[name], 0)
        if id(op) in self._gate_biases:
            bias[slots.other_slots] = _OPEN_GATE
        op.inputs["Y"] = [self._store(f"{result}.bias", bias)]

    def _store(self, name: str, array: np.ndarray) -> str:
        self.program.tensors[name] = array
        return name
