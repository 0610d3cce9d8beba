"""ONNX export, for ONNX Runtime, OpenVINO and other backends.

The model is written here instead of by paddle2onnx, which does not convert the `.json` format of
Paddle 3.3.1, aborts the process on Lite-HRNet with dynamic height and width, and takes 38-90 s for
HRNet-w32. The int8 form also needs QuantizeLinear and DequantizeLinear exactly where `to_int8` puts
the corresponding operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ppose.export.int8_program import INT8_MAX
from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program, Shape, TraceError, proto
from ppose.utils.files import atomic_write

OPSET = 17
# The oldest IR version that allows this opset.
_IR_VERSION = 8
_END = np.iinfo(np.int64).max

# Operators that differ only in their names.
_RENAMED = {"relu": "Relu", "sigmoid": "Sigmoid", "where": "Where"}
_BINARY = {
    **{"elementwise_add": "Add", "elementwise_sub": "Sub", "elementwise_mul": "Mul"},
    **{"elementwise_div": "Div", "equal": "Equal", "less_than": "Less"},
    **{"less_equal": "LessOrEqual", "greater_than": "Greater"},
    **{"greater_equal": "GreaterOrEqual"},
}
_REDUCTIONS = {"reduce_mean": "ReduceMean", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
_TYPES = {
    proto.VarType.BOOL: TensorProto.BOOL,
    proto.VarType.UINT8: TensorProto.UINT8,
    proto.VarType.INT32: TensorProto.INT32,
    proto.VarType.INT64: TensorProto.INT64,
    proto.VarType.FP32: TensorProto.FLOAT,
}


def write_onnx(program: Program, path: str | Path) -> None:
    """Writes a program, float or converted by `to_int8`, to an ONNX file.

    Args:
        program: not modified.
        path: output file; an existing file is replaced atomically.

    Raises:
        TraceError: an operator cannot be converted to ONNX.
        OSError: the file cannot be written.
    """
    model = to_onnx(program)
    with atomic_write(path) as file:
        file.write_bytes(model.SerializeToString(deterministic=True))


def to_onnx(program: Program) -> onnx.ModelProto:
    """Converts a program to an ONNX model; see `write_onnx`.

    int8 programs use QuantizeLinear and DequantizeLinear, with per-channel scales for weights.
    """
    return _OnnxBuilder(program).model()


class _OnnxBuilder:
    """Builds an ONNX model from a program.

    Attributes:
        nodes: the nodes so far.
        tensors: their initializers, name → array.
        fused: `id` of each operator that is already part of another operator's node.
    """

    def __init__(self, program: Program):
        self.program = program
        self.consumers = program.consumers()
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.fused: set[int] = set()
        self._names = program.inputs | program.outputs

    def model(self) -> onnx.ModelProto:
        for op in self.program.operators:
            if id(op) in self.fused:
                continue
            if op.type in _RENAMED:
                self.add(_RENAMED[op.type], op.input_names, op.output_names)
            elif op.type in _CONVERTERS:
                _CONVERTERS[op.type](self, op)
            else:
                raise TraceError(
                    f"{op.type}: converting this Paddle operator to ONNX is not supported"
                )
        graph = helper.make_graph(
            self.nodes,
            "ppose",
            [self._value_info(name) for name in self.program.inputs],
            [self._value_info(name) for name in self.program.outputs],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], producer_name="ppose")
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model)
        return model

    def _value_info(self, name: str) -> onnx.ValueInfoProto:
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(self.program.dtype_of(name)))
        onnx_name = self._names[name]
        # The batch size is shared; every other dynamic size gets a name of its own.
        shape = [
            size if size >= 0 else f"{onnx_name}_{i}" if i else "batch"
            for i, size in enumerate(self.shape(name))
        ]
        return helper.make_tensor_value_info(onnx_name, dtype, shape)

    def add(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Adds a node and the weights that it reads."""
        for name in inputs:
            if name in self.program.tensors:
                self._add_tensor(name, self.program.tensors[name])
        # Paddle's names are not used, as they depend on other networks built in the process.
        for i, name in enumerate(outputs):
            self._names.setdefault(name, f"{op_type}.{len(self.nodes)}" + f".{i}" * (i > 0))
        read, made = ([n and self._names[n] for n in names] for names in (inputs, outputs))
        self.nodes.append(helper.make_node(op_type, read, made, **attributes))

    def value(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        name = f"@{op_type}.{len(self.nodes)}"
        self.add(op_type, inputs, [name], **attributes)
        return name

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Adds a constant and returns its name; equal constants are shared."""
        array = np.asarray(values, dtype)
        name = f"@{array.dtype}{array.shape}{array.tobytes().hex()}"
        self._add_tensor(name, array)
        return name

    def _add_tensor(self, name: str, array: np.ndarray) -> None:
        if name not in self._names:
            self._names[name] = f"tensor.{len(self.tensors)}"
            self.tensors[self._names[name]] = array

    def shape(self, name: str) -> Shape:
        tensor = self.program.tensors.get(name)
        return self.program.shapes[name] if tensor is None else tensor.shape


def _convolution(builder: _OnnxBuilder, op: Operator) -> None:
    _check_attributes(op, padding_algorithm="EXPLICIT", data_format="NCHW")
    (image,), (weight,), (result,) = op.inputs["Input"], op.inputs["Filter"], op.outputs["Output"]
    read = [image, weight]
    bias = _bias_after(builder, result)
    if bias:
        read += bias.inputs["Y"]
        (result,) = bias.output_names
        builder.fused.add(id(bias))
    builder.add(
        "Conv",
        read,
        [result],
        kernel_shape=builder.shape(weight)[2:],
        strides=_attribute(op, "strides"),
        pads=_pads(op),
        dilations=_attribute(op, "dilations"),
        group=_attribute(op, "groups"),
    )


def _bias_after(builder: _OnnxBuilder, made: str) -> Operator | None:
    """The addition of a bias to a convolution's output, if nothing else reads the output."""
    consumers = builder.consumers.get(made, [])
    if len(consumers) != 1 or consumers[0].type != "elementwise_add":
        return None
    (bias,) = consumers[0].inputs["Y"]
    fits = (
        builder.shape(bias) == (builder.shape(made)[1],) and _attribute(consumers[0], "axis") == 1
    )
    return consumers[0] if fits and bias in builder.program.tensors else None


def _pads(op: Operator) -> list[int]:
    """Paddle's paddings, (top, bottom, left, right) or (height, width), in ONNX's order."""
    pads = _attribute(op, "paddings")
    top, bottom, left, right = pads if len(pads) == 4 else np.repeat(pads, 2).tolist()
    return [top, left, bottom, right]


def _binary(builder: _OnnxBuilder, op: Operator) -> None:
    (first,), (second,) = op.inputs["X"], op.inputs["Y"]
    axis, rank = _attribute(op, "axis", -1), len(builder.shape(second))
    # Paddle aligns the second input at this axis of the first, ONNX at the last axis.
    missing = len(builder.shape(first)) - rank - axis if axis >= 0 else 0
    if missing > 0:
        axes = builder.constant(range(rank, rank + missing))
        second = builder.value("Unsqueeze", second, axes)
    builder.add(_BINARY[op.type], [first, second], op.output_names)


def _batch_norm(builder: _OnnxBuilder, op: Operator) -> None:
    parameters = ("X", "Scale", "Bias", "Mean", "Variance")
    read = [op.inputs[parameter][0] for parameter in parameters]
    builder.add("BatchNormalization", read, op.outputs["Y"], epsilon=_attribute(op, "epsilon"))


def _leaky_relu(builder: _OnnxBuilder, op: Operator) -> None:
    # A slope of 1, from `to_int8`, is kept: OpenVINO propagates scales too.
    builder.add("LeakyRelu", op.input_names, op.output_names, alpha=_attribute(op, "alpha"))


def _pool(builder: _OnnxBuilder, op: Operator) -> None:
    _check_attributes(op, padding_algorithm="EXPLICIT", data_format="NCHW")
    average = _attribute(op, "pooling_type") == "avg"
    adaptive, sides = _attribute(op, "adaptive", False), _attribute(op, "ksize")
    if _attribute(op, "global_pooling", False) or (adaptive and set(sides) == {1}):
        builder.add(
            "GlobalAveragePool" if average else "GlobalMaxPool", op.input_names, op.output_names
        )
        return
    if adaptive:
        raise TraceError(f"pool2d: adaptive pooling to {sides}: ONNX export supports only [1, 1]")
    attributes: dict[str, Any] = {
        "kernel_shape": sides,
        "strides": _attribute(op, "strides"),
        "pads": _pads(op),
        "ceil_mode": int(_attribute(op, "ceil_mode", False)),
    }
    if average:
        attributes["count_include_pad"] = int(not _attribute(op, "exclusive"))
    builder.add(
        "AveragePool" if average else "MaxPool", op.input_names, op.output_names, **attributes
    )


def _resize(builder: _OnnxBuilder, op: Operator) -> None:
    _check_attributes(op, data_layout="NCHW")
    (source,), factors = op.inputs["X"], _attribute(op, "scale", [])
    if set(op.inputs) != {"X"} or len(factors) != 2:
        raise TraceError(f"{op.type}: ONNX export supports only constant scale factors")
    nearest = op.type == "nearest_interp_v2"
    if _attribute(op, "align_corners"):
        coordinates = "align_corners"
    else:
        coordinates = "asymmetric" if nearest or _attribute(op, "align_mode") == 1 else "half_pixel"
    scales = builder.constant([1, 1, *factors], np.float32)
    attributes = {"mode": "nearest", "nearest_mode": "floor"} if nearest else {"mode": "linear"}
    attributes["coordinate_transformation_mode"] = coordinates
    builder.add("Resize", [source, "", scales], op.output_names, **attributes)


def _concat(builder: _OnnxBuilder, op: Operator) -> None:
    builder.add("Concat", op.inputs["X"], op.output_names, axis=_attribute(op, "axis"))


def _split(builder: _OnnxBuilder, op: Operator) -> None:
    axis = _attribute(op, "axis")
    sizes = [builder.shape(name)[axis] for name in op.output_names]
    builder.add("Split", [*op.inputs["X"], builder.constant(sizes)], op.output_names, axis=axis)


def _slice(builder: _OnnxBuilder, op: Operator) -> None:
    read = [
        *op.inputs["Input"],
        *(builder.constant(_attribute(op, x)) for x in ("starts", "ends", "axes")),
    ]
    dropped = _attribute(op, "decrease_axis", [])
    if dropped:
        builder.add(
            "Squeeze", [builder.value("Slice", *read), builder.constant(dropped)], op.output_names
        )
    else:
        builder.add("Slice", read, op.output_names)


def _unsqueeze(builder: _OnnxBuilder, op: Operator) -> None:
    builder.add(
        "Unsqueeze", [*op.inputs["X"], builder.constant(_attribute(op, "axes"))], op.outputs["Out"]
    )


def _squeeze(builder: _OnnxBuilder, op: Operator) -> None:
    builder.add(
        "Squeeze", [*op.inputs["X"], builder.constant(_attribute(op, "axes"))], op.outputs["Out"]
    )


def _reshape(builder: _OnnxBuilder, op: Operator) -> None:
    if set(op.inputs) != {"X"}:
        raise TraceError("reshape2: ONNX export supports only constant shapes")
    shape = builder.constant(_attribute(op, "shape"))
    builder.add("Reshape", [*op.inputs["X"], shape], op.outputs["Out"])


def _flatten(builder: _OnnxBuilder, op: Operator) -> None:
    (source,) = op.inputs["X"]
    sides = builder.shape(source)
    start, stop = (_attribute(op, name) % len(sides) for name in ("start_axis", "stop_axis"))
    merged, after = sides[start : stop + 1], sides[stop + 1 :]
    size = -1 if -1 in merged else int(np.prod(merged))
    if (*after, size).count(-1) > 1:
        # Dynamic sizes after the merged axes are taken from the input.
        shape = builder.value("Shape", source, start=stop + 1)
        head = builder.constant([0] * start + [size])
        shape = builder.value("Concat", head, shape, axis=0)
    else:
        shape = builder.constant([0] * start + [size, *after])
    builder.add("Reshape", [source, shape], op.outputs["Out"])


def _transpose(builder: _OnnxBuilder, op: Operator) -> None:
    builder.add("Transpose", op.inputs["X"], op.outputs["Out"], perm=_attribute(op, "axis"))


def _scale(builder: _OnnxBuilder, op: Operator) -> None:
    (value,), (result,) = op.inputs["X"], op.outputs["Out"]
    if set(op.inputs) != {"X"}:
        raise TraceError("scale: ONNX export supports only a constant factor")
    dtype = builder.program.dtype_of(value)
    steps = [("Mul", _attribute(op, "scale"), 1), ("Add", _attribute(op, "bias"), 0)]
    if not _attribute(op, "bias_after_scale"):
        steps.reverse()
    steps = [step for step in steps if step[1] != step[2]] or [("Identity", 0, 0)]
    for i, (kind, number, _) in enumerate(steps):
        read = [value] if kind == "Identity" else [value, builder.constant(number, dtype)]
        if i + 1 < len(steps):
            value = builder.value(kind, *read)
        else:
            builder.add(kind, read, [result])


def _cast(builder: _OnnxBuilder, op: Operator) -> None:
    builder.add("Cast", op.input_names, op.output_names, to=_TYPES[_attribute(op, "out_dtype")])


def _matmul(builder: _OnnxBuilder, op: Operator) -> None:
    read = []
    for parameter, transposed in (("X", "trans_x"), ("Y", "trans_y")):
        (name,) = op.inputs[parameter]
        if _attribute(op, transposed):
            axes = list(range(len(builder.shape(name))))
            name = builder.value("Transpose", name, perm=[*axes[:-2], axes[-1], axes[-2]])
        read.append(name)
    builder.add("MatMul", read, op.output_names)


def _reduce(builder: _OnnxBuilder, op: Operator) -> None:
    axes = {} if _attribute(op, "reduce_all") else {"axes": _attribute(op, "dim")}
    builder.add(
        _REDUCTIONS[op.type],
        op.input_names,
        op.output_names,
        keepdims=_attribute(op, "keep_dim"),
        **axes,
    )


def _top_k(builder: _OnnxBuilder, op: Operator) -> None:
    attributes = {name: _attribute(op, name) for name in ("axis", "largest", "sorted")}
    builder.add(
        "TopK",
        [*op.inputs["X"], builder.constant([_attribute(op, "k")])],
        [*op.outputs["Out"], *op.outputs["Indices"]],
        **attributes,
    )


def _take_along_axis(builder: _OnnxBuilder, op: Operator) -> None:
    read = [*op.inputs["Input"], *op.inputs["Index"]]
    builder.add("GatherElements", read, op.output_names, axis=_attribute(op, "Axis"))


def _gather(builder: _OnnxBuilder, op: Operator) -> None:
    read = [*op.inputs["X"], *op.inputs["Index"]]
    builder.add("Gather", read, op.output_names, axis=_attribute(op, "axis"))


def _pad(builder: _OnnxBuilder, op: Operator) -> None:
    """`pad3d` of (N, C, D, H, W); its paddings start with the last axis."""
    _check_attributes(op, data_format="NCDHW")
    mode = {"constant": "constant", "replicate": "edge"}[_attribute(op, "mode")]
    left, right, top, bottom, front, back = _attribute(op, "paddings")
    pads = builder.constant([0, 0, front, top, left, 0, 0, back, bottom, right])
    value = builder.constant(_attribute(op, "value"), np.float32)
    builder.add("Pad", [*op.inputs["X"], pads, value], op.output_names, mode=mode)


def _quantize(builder: _OnnxBuilder, op: Operator) -> None:
    (source,) = op.inputs["X"]
    builder.add("QuantizeLinear", [source, *_scale_and_zero_point(builder, op)], op.output_names)


def _dequantize(builder: _OnnxBuilder, op: Operator) -> None:
    (source,), axis = op.inputs["X"], _attribute(op, "quant_axis")
    attributes = {"axis": axis} if axis >= 0 else {}
    builder.add(
        "DequantizeLinear",
        [source, *_scale_and_zero_point(builder, op)],
        op.output_names,
        **attributes,
    )


def _scale_and_zero_point(builder: _OnnxBuilder, op: Operator) -> list[str]:
    """Names of the scale, the value of 1, and the zero point; Paddle stores the value of 127."""
    (scale,) = op.inputs["Scale"]
    steps = builder.program.tensors[scale] / np.float32(INT8_MAX)
    # The scale of an all-zero channel is arbitrary, but not 0: backends divide biases by it.
    steps = np.where(steps > 0, steps, steps.max() or 1)
    if _attribute(op, "quant_axis") < 0:
        steps = steps[0]
    return [builder.constant(steps, np.float32), builder.constant(np.zeros_like(steps), np.int8)]


_CONVERTERS: dict[str, Callable[[_OnnxBuilder, Operator], None]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("nearest_interp_v2", "bilinear_interp_v2"), _resize),
    "batch_norm": _batch_norm,
    "cast": _cast,
    "concat": _concat,
    "dequantize_linear": _dequantize,
    "flatten_contiguous_range": _flatten,
    "gather": _gather,
    "leaky_relu": _leaky_relu,
    "matmul_v2": _matmul,
    "pad3d": _pad,
    "pool2d": _pool,
    "quantize_linear": _quantize,
    "reshape2": _reshape,
    "scale": _scale,
    "slice": _slice,
    "split": _split,
    "squeeze2": _squeeze,
    "take_along_axis": _take_along_axis,
    "top_k_v2": _top_k,
    "transpose2": _transpose,
    "unsqueeze2": _unsqueeze,
}


def _attribute(op: Operator, name: str, default: Any = None) -> Any:
    """The value of an attribute; without a default it must exist."""
    attribute = op.attributes.get(name)
    if attribute is None:
        if default is None:
            raise TraceError(f"{op.type}: the attribute {name} is missing")
        return default
    value = getattr(attribute, _FIELDS[attribute.type])
    return list(value) if attribute.type in _LISTS else value


_FIELDS = {
    **{proto.INT: "i", proto.FLOAT: "f", proto.STRING: "s", proto.INTS: "ints"},
    **{proto.FLOATS: "floats", proto.BOOLEAN: "b", proto.LONG: "l", proto.LONGS: "longs"},
}
_LISTS = {proto.INTS, proto.FLOATS, proto.LONGS}


def _check_attributes(op: Operator, **values: Any) -> None:
    for name, wanted in values.items():
        found = _attribute(op, name, wanted)
        if found != wanted:
            raise TraceError(
                f"{op.type}: {name} is {found!r}; ONNX export supports only {wanted!r}"
            )
