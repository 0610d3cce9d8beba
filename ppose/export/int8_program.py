"""Conversion of a fake-quantized program to int8 weights with quantize and dequantize operators.

The weights of a convolution are int8, followed by `dequantize_linear`; its input passes through
`quantize_linear` and `dequantize_linear`. Paddle Inference fuses these into oneDNN's int8 kernels,
TensorRT into its own.

oneDNN's passes use one scale per value, keep a convolution's output in int8 for all its consumers,
propagate scales through operators that only move data (pooling, concat, split …), and use unsigned
integers after ReLU. In training each convolution has its own scale and signed integers, and nothing
else is rounded. The program is written so that the passes give the results of training.
"""

from __future__ import annotations

import numpy as np

from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program, make_attributes

INT8_MAX = 127
_WEIGHTS = {
    "fake_channel_wise_quantize_dequantize_abs_max",
    "fake_quantize_dequantize_abs_max",
}
_INPUTS = "fake_quantize_dequantize_moving_average_abs_max"
# oneDNN propagates scales through these, to the first output and back.
_SCALE_PRESERVING = {
    *("concat", "nearest_interp_v2", "pool2d", "reshape2", "scale", "shape", "slice", "split"),
    "transpose2",
}


def is_fake_quantized(program: Program) -> bool:
    """Whether the program has fake-quantized activations."""
    return any(op.type == _INPUTS for op in program.operators)


def to_int8(program: Program) -> int:
    """Replaces fake quantization by int8, in place.

    Linear layers compute in float with the rounded weights: they are small, and oneDNN's passes
    use the wrong axis of a square matrix.

    Returns:
        the number of convolutions that compute in int8.
    """
    converter = _Int8Converter(program)
    operators = []
    for op in program.operators:
        if op.type in _WEIGHTS:
            operators += converter.weights(op)
        elif op.type == _INPUTS:
            operators += converter.inputs(op)
        else:
            op.rename(converter.names)
            operators.append(op)
    program.operators = operators
    used = {name for op in operators for name in op.input_names}
    program.tensors = {name: a for name, a in program.tensors.items() if name in used}
    return converter.convolutions


class _Int8Converter:
    """Converts the fake-quantization operators of a program.

    Attributes:
        names: output of a removed fake-quantization operator → the value that replaces it.
        convolutions: number of convolutions that compute in int8.
    """

    def __init__(self, program: Program):
        self.program = program
        self.producers, self.consumers = program.producers(), program.consumers()
        self.names: dict[str, str] = {}
        self.convolutions = 0
        self._quantized: dict[tuple[str, np.float32], str] = {}
        self._scales: dict[str, np.float32] = {}

    def weights(self, op: Operator) -> list[Operator]:
        """The operators that replace the fake quantization of weights."""
        (source,), (result,) = op.inputs["X"], op.outputs["Out"]
        axis = op.attributes["quant_axis"].i if "quant_axis" in op.attributes else -1
        integers, scale = quantize(self.program.tensors[source], axis)
        if not self._feeds_convolutions(result):
            self.names[result] = name = f"{source}.rounded"
            self.program.tensors[name] = dequantize(integers, scale, axis)
            return []
        self.convolutions += len(self.consumers[result])
        self.program.tensors |= {f"{result}.int8": integers, f"{result}.scale": scale}
        return [self._quantization_op("dequantize_linear", f"{result}.int8", result, result, axis)]

    def inputs(self, op: Operator) -> list[Operator]:
        """The operators that replace the fake quantization of a layer's input."""
        (source,), (result,) = op.inputs["X"], op.outputs["Out"]
        if not self._feeds_convolutions(result):
            self.names[result] = source
            return []
        scale = self._scale(op)
        if (source, scale) in self._quantized:
            self.names[result] = self._quantized[source, scale]
            return []
        self._quantized[source, scale] = result
        made = []
        if self._scales.get(source, scale) != scale or not self._can_carry_scale(source, scale):
            made.append(self._identity(source, f"{result}.copy"))
            source = f"{result}.copy"
        elif self._producer_type(source) == "relu":
            # A leaky ReLU with slope 0, which oneDNN leaves signed.
            relu = self.producers[source]
            relu.type, relu.attributes = "leaky_relu", make_attributes(alpha=0.0)
        self._scales[source] = scale
        self.program.tensors[f"{result}.scale"] = np.atleast_1d(scale)
        made.append(self._quantization_op("quantize_linear", source, f"{result}.int8", result, -1))
        made.append(
            self._quantization_op("dequantize_linear", f"{result}.int8", result, result, -1)
        )
        return made

    def _feeds_convolutions(self, value: str) -> bool:
        return all(op.type in CONVOLUTIONS for op in self.consumers[value])

    def _scale(self, op: Operator) -> np.float32:
        return self.program.tensors[op.inputs["InScale"][0]].reshape(-1)[0]

    def _producer_type(self, value: str) -> str:
        return self.producers[value].type if value in self.producers else ""

    def _can_carry_scale(self, value: str, scale: np.float32) -> bool:
        """Whether a scale on this value affects only the convolutions that it belongs to."""
        if (
            self._producer_type(value) in _SCALE_PRESERVING
            and value == self.producers[value].output_names[0]
        ):
            return False
        return not self._is_convolution_output(value) or all(
            op.type == _INPUTS
            and self._scale(op) == scale
            and self._feeds_convolutions(op.outputs["Out"][0])
            for op in self.consumers[value]
        )

    def _is_convolution_output(self, value: str) -> bool:
        """Whether a convolution computes it, possibly with a fused bias and activation."""
        producer = self._producer_type(value)
        if producer in CONVOLUTIONS:
            return True
        if producer == "elementwise_add":
            added = self.producers[value].inputs
            return added["Y"][0] in self.program.tensors and self._is_convolution_output(
                added["X"][0]
            )
        # Any operator with one input may be an activation.
        read = self.producers[value].input_names if producer else []
        return (
            len(read) == 1
            and len(self.consumers[read[0]]) == 1
            and self._is_convolution_output(read[0])
        )

    def _identity(self, source: str, name: str) -> Operator:
        """An identity operator that stops the propagation of scales: leaky ReLU with slope 1."""
        self.program.shapes[name] = self.program.shapes[source]
        return Operator("leaky_relu", {"X": [source]}, {"Out": [name]}, make_attributes(alpha=1.0))

    def _quantization_op(
        self, op_type: str, source: str, name: str, owner: str, axis: int
    ) -> Operator:
        """`quantize_linear` or `dequantize_linear`, with the scale of `owner`."""
        tensors, shapes = self.program.tensors, self.program.shapes
        shapes[name] = tensors[source].shape if source in tensors else shapes[source]
        size = tensors[f"{owner}.scale"].size
        zero = f"zero{size}"
        tensors[zero] = np.zeros(size, np.int32)
        return Operator(
            op_type,
            {"X": [source], "Scale": [f"{owner}.scale"], "ZeroPoint": [zero]},
            {"Y": [name]},
            # The other attributes default to 8 bits.
            make_attributes(quant_axis=axis, bit_length=8),
        )


def quantize(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights and scale (the value of 127), per channel of the axis; one scale for axis -1."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.abs(weights).max(others if axis >= 0 else None, keepdims=True)
    steps = weights * (INT8_MAX / np.where(scale > 0, scale, 1))
    # Rounds half away from zero, as in training.
    integers = np.trunc(steps + np.copysign(0.5, steps)).astype(np.int8)
    return integers, scale.reshape(-1)


def dequantize(integers: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """Inverse of `quantize`, up to rounding."""
    form = [1] * integers.ndim
    if axis >= 0:
        form[axis] = -1
    return integers * (scale / INT8_MAX).reshape(form)
