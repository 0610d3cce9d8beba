"""A fake-quantized program with int8 weights, in the form that Paddle's backends read.

Convolutions have int8 weights behind `dequantize_linear` and inputs between `quantize_linear` and
`dequantize_linear`. Paddle Inference turns these into int8 kernels of oneDNN, TensorRT into its
own.

oneDNN's passes know one range for a value, keep a convolution's output in int8 for all that read
it, spread ranges over what is only moved (pooled, concatenated, split …), and take unsigned
integers behind ReLU. In training each convolution has a range of its own and signed integers, and
nothing else is rounded. The program is written so that the passes cannot differ from that.
"""

from __future__ import annotations

import numpy as np

from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program, settings

LEVELS = 127
_WEIGHTS = {
    "fake_channel_wise_quantize_dequantize_abs_max",
    "fake_quantize_dequantize_abs_max",
}
_INPUTS = "fake_quantize_dequantize_moving_average_abs_max"
# Through these, ranges are handed on to the (first) result and back.
_MOVING = {
    *("concat", "nearest_interp_v2", "pool2d", "reshape2", "scale", "shape", "slice", "split"),
    "transpose2",
}


def is_fake_quantized(program: Program) -> bool:
    """Whether it rounds inputs as quantized training does."""
    return any(op.kind == _INPUTS for op in program.operators)


def to_int8(program: Program) -> int:
    """Turns fake quantization into int8, in place.

    Linear layers compute in float with the rounded weights: they are small, and oneDNN's passes
    take the wrong axis of a square matrix.

    Returns:
        convolutions that compute in int8.
    """
    graph = _Graph(program)
    operators = []
    for op in program.operators:
        if op.kind in _WEIGHTS:
            operators += graph.weights(op)
        elif op.kind == _INPUTS:
            operators += graph.inputs(op)
        else:
            op.rename(graph.names)
            operators.append(op)
    program.operators = operators
    used = {name for op in operators for name in op.read}
    program.tensors = {name: a for name, a in program.tensors.items() if name in used}
    return graph.convolutions


class _Graph:
    """A program on its way to int8.

    Attributes:
        names: of what fake quantization made → of what is read instead.
        convolutions: that compute in int8.
    """

    def __init__(self, program: Program):
        self.program = program
        self.makers, self.readers = program.makers(), program.readers()
        self.names: dict[str, str] = {}
        self.convolutions = 0
        self._quantized: dict[tuple[str, np.float32], str] = {}
        self._ranges: dict[str, np.float32] = {}

    def weights(self, op: Operator) -> list[Operator]:
        """In place of the fake quantization of weights."""
        (source,), (result,) = op.inputs["X"], op.outputs["Out"]
        axis = op.settings["quant_axis"].i if "quant_axis" in op.settings else -1
        integers, scale = rounded(self.program.tensors[source], axis)
        if not self._of_convolution(result):
            self.names[result] = name = f"{source}.rounded"
            self.program.tensors[name] = dequantized(integers, scale, axis)
            return []
        self.convolutions += len(self.readers[result])
        self.program.tensors |= {f"{result}.int8": integers, f"{result}.scale": scale}
        return [self._linear("dequantize_linear", f"{result}.int8", result, result, axis)]

    def inputs(self, op: Operator) -> list[Operator]:
        """In place of the fake quantization of a layer's input."""
        (source,), (result,) = op.inputs["X"], op.outputs["Out"]
        if not self._of_convolution(result):
            self.names[result] = source
            return []
        scale = self._scale(op)
        if (source, scale) in self._quantized:
            self.names[result] = self._quantized[source, scale]
            return []
        self._quantized[source, scale] = result
        made = []
        if self._ranges.get(source, scale) != scale or not self._may_have_range(source, scale):
            made.append(self._copy(source, f"{result}.copy"))
            source = f"{result}.copy"
        elif self._maker(source) == "relu":
            # ReLU by another name: the integers stay signed.
            relu = self.makers[source]
            relu.kind, relu.settings = "leaky_relu", settings(alpha=0.0)
        self._ranges[source] = scale
        self.program.tensors[f"{result}.scale"] = np.atleast_1d(scale)
        made.append(self._linear("quantize_linear", source, f"{result}.int8", result, -1))
        made.append(self._linear("dequantize_linear", f"{result}.int8", result, result, -1))
        return made

    def _of_convolution(self, value: str) -> bool:
        return all(op.kind in CONVOLUTIONS for op in self.readers[value])

    def _scale(self, op: Operator) -> np.float32:
        return self.program.tensors[op.inputs["InScale"][0]].reshape(-1)[0]

    def _maker(self, value: str) -> str:
        return self.makers[value].kind if value in self.makers else ""

    def _may_have_range(self, value: str, scale: np.float32) -> bool:
        """Whether a range for it reaches nothing but the convolutions that it is for."""
        if self._maker(value) in _MOVING and value == self.makers[value].made[0]:
            return False
        return not self._is_convolved(value) or all(
            op.kind == _INPUTS
            and self._scale(op) == scale
            and self._of_convolution(op.outputs["Out"][0])
            for op in self.readers[value]
        )

    def _is_convolved(self, value: str) -> bool:
        """Whether a kernel of a convolution makes it, with bias and activation."""
        maker = self._maker(value)
        if maker in CONVOLUTIONS:
            return True
        if maker == "elementwise_add":
            added = self.makers[value].inputs
            return added["Y"][0] in self.program.tensors and self._is_convolved(added["X"][0])
        # Whatever has one input may be an activation.
        read = self.makers[value].read if maker else []
        return len(read) == 1 and len(self.readers[read[0]]) == 1 and self._is_convolved(read[0])

    def _copy(self, source: str, name: str) -> Operator:
        """An operator that changes nothing and that ranges do not pass."""
        self.program.shapes[name] = self.program.shapes[source]
        return Operator("leaky_relu", {"X": [source]}, {"Out": [name]}, settings(alpha=1.0))

    def _linear(self, kind: str, source: str, name: str, owner: str, axis: int) -> Operator:
        """`quantize_linear` or `dequantize_linear`, with the scale of `owner`."""
        tensors, shapes = self.program.tensors, self.program.shapes
        shapes[name] = tensors[source].shape if source in tensors else shapes[source]
        size = tensors[f"{owner}.scale"].size
        zero = f"zero{size}"
        tensors[zero] = np.zeros(size, np.int32)
        return Operator(
            kind,
            {"X": [source], "Scale": [f"{owner}.scale"], "ZeroPoint": [zero]},
            {"Y": [name]},
            # Their other settings mean 8 bits unless they say otherwise.
            settings(quant_axis=axis, bit_length=8),
        )


def rounded(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights, and what 127 stands for in each channel on the axis, or in all if it is -1."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.abs(weights).max(others if axis >= 0 else None, keepdims=True)
    steps = weights * (LEVELS / np.where(scale > 0, scale, 1))
    # Halves away from 0, as in training.
    integers = np.trunc(steps + np.copysign(0.5, steps)).astype(np.int8)
    return integers, scale.reshape(-1)


def dequantized(integers: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """Undoes `rounded`, up to the rounding."""
    form = [1] * integers.ndim
    if axis >= 0:
        form[axis] = -1
    return integers * (scale / LEVELS).reshape(form)
