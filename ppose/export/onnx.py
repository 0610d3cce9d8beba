"""Programs as ONNX, for ONNX Runtime, OpenVINO and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ppose.export.int8graph import LEVELS
from ppose.export.pdmodel import CONVOLUTIONS, Operator, Program, Shape, TraceError, proto
from ppose.files import whole_file

OPSET = 17
# The oldest form of file that may hold these operators.
_IR_VERSION = 8
_END = np.iinfo(np.int64).max

# Operators that differ in their names only.
_PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "where": "Where"}
_PAIRS = {
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
    """Writes a program, float or from `to_int8`, as an ONNX file.

    Args:
        program: stays as it is.
        path: of the file; one there is replaced as a whole.

    Raises:
        TraceError: an operator that has no ONNX form here.
        OSError: the file cannot be written.
    """
    model = to_onnx(program)
    with whole_file(path) as file:
        file.write_bytes(model.SerializeToString(deterministic=True))


def to_onnx(program: Program) -> onnx.ModelProto:
    """A program as an ONNX model; see `write_onnx`.

    int8 is QuantizeLinear and DequantizeLinear with a scale for each output channel.
    """
    return _Writer(program).model()


class _Writer:
    """A program on its way to ONNX.

    Attributes:
        nodes: written so far.
        tensors: weights and other constants that they read.
        written: by `id`, operators that are parts of nodes already.
    """

    def __init__(self, program: Program):
        self.program = program
        self.readers = program.readers()
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.written: set[int] = set()
        self._names = program.sources | program.results

    def model(self) -> onnx.ModelProto:
        for op in self.program.operators:
            if id(op) in self.written:
                continue
            if op.kind in _PLAIN:
                self.add(_PLAIN[op.kind], op.read, op.made)
            elif op.kind in _WRITERS:
                _WRITERS[op.kind](self, op)
            else:
                raise TraceError(f"{op.kind}: this operator of Paddle has no ONNX form here")
        graph = helper.make_graph(
            self.nodes,
            "ppose",
            [self._described(name) for name in self.program.sources],
            [self._described(name) for name in self.program.results],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], producer_name="ppose")
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model)
        return model

    def _described(self, name: str) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.program.type_of(name)))
        called = self._names[name]
        # The batch is one and the same everywhere; other open sides have names of their own.
        sides = [
            side if side >= 0 else f"{called}_{i}" if i else "batch"
            for i, side in enumerate(self.shape(name))
        ]
        return helper.make_tensor_value_info(called, kind, sides)

    def add(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """A node; weights that it reads come along."""
        for name in inputs:
            if name in self.program.tensors:
                self._keep(name, self.program.tensors[name])
        # Paddle's names depend on what else the process has built.
        for i, name in enumerate(outputs):
            self._names.setdefault(name, f"{kind}.{len(self.nodes)}" + f".{i}" * (i > 0))
        read, made = ([n and self._names[n] for n in names] for names in (inputs, outputs))
        self.nodes.append(helper.make_node(kind, read, made, **attributes))

    def value(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The name of what a new node makes."""
        name = f"@{kind}.{len(self.nodes)}"
        self.add(kind, inputs, [name], **attributes)
        return name

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """The name of a tensor of these values; equal ones are one."""
        array = np.asarray(values, dtype)
        name = f"@{array.dtype}{array.shape}{array.tobytes().hex()}"
        self._keep(name, array)
        return name

    def _keep(self, name: str, array: np.ndarray) -> None:
        if name not in self._names:
            self._names[name] = f"tensor.{len(self.tensors)}"
            self.tensors[self._names[name]] = array

    def shape(self, name: str) -> Shape:
        tensor = self.program.tensors.get(name)
        return self.program.shapes[name] if tensor is None else tensor.shape


def _convolution(writer: _Writer, op: Operator) -> None:
    _expect(op, padding_algorithm="EXPLICIT", data_format="NCHW")
    (image,), (weight,), (result,) = op.inputs["Input"], op.inputs["Filter"], op.outputs["Output"]
    read = [image, weight]
    bias = _bias_behind(writer, result)
    if bias:
        read += bias.inputs["Y"]
        (result,) = bias.made
        writer.written.add(id(bias))
    writer.add(
        "Conv",
        read,
        [result],
        kernel_shape=writer.shape(weight)[2:],
        strides=_get(op, "strides"),
        pads=_pads(op),
        dilations=_get(op, "dilations"),
        group=_get(op, "groups"),
    )


def _bias_behind(writer: _Writer, made: str) -> Operator | None:
    """The addition of a bias to what a convolution makes, if that is all that reads it."""
    readers = writer.readers.get(made, [])
    if len(readers) != 1 or readers[0].kind != "elementwise_add":
        return None
    (bias,) = readers[0].inputs["Y"]
    fits = writer.shape(bias) == (writer.shape(made)[1],) and _get(readers[0], "axis") == 1
    return readers[0] if fits and bias in writer.program.tensors else None


def _pads(op: Operator) -> list[int]:
    """Paddle's top, bottom, left, right, or of both sides, in ONNX's order."""
    pads = _get(op, "paddings")
    top, bottom, left, right = pads if len(pads) == 4 else np.repeat(pads, 2).tolist()
    return [top, left, bottom, right]


def _pair(writer: _Writer, op: Operator) -> None:
    (first,), (second,) = op.inputs["X"], op.inputs["Y"]
    axis, sides = _get(op, "axis", -1), len(writer.shape(second))
    # Paddle lays the second value from this axis on over the first one, NumPy at the end.
    lacking = len(writer.shape(first)) - sides - axis if axis >= 0 else 0
    if lacking > 0:
        axes = writer.constant(range(sides, sides + lacking))
        second = writer.value("Unsqueeze", second, axes)
    writer.add(_PAIRS[op.kind], [first, second], op.made)


def _batch_norm(writer: _Writer, op: Operator) -> None:
    places = ("X", "Scale", "Bias", "Mean", "Variance")
    read = [op.inputs[place][0] for place in places]
    writer.add("BatchNormalization", read, op.outputs["Y"], epsilon=_get(op, "epsilon"))


def _leaky_relu(writer: _Writer, op: Operator) -> None:
    # Those with a slope of 1, from `to_int8`, are no idle ones: OpenVINO too spreads ranges.
    writer.add("LeakyRelu", op.read, op.made, alpha=_get(op, "alpha"))


def _pool(writer: _Writer, op: Operator) -> None:
    _expect(op, padding_algorithm="EXPLICIT", data_format="NCHW")
    average = _get(op, "pooling_type") == "avg"
    adaptive, sides = _get(op, "adaptive", False), _get(op, "ksize")
    if _get(op, "global_pooling", False) or (adaptive and set(sides) == {1}):
        writer.add("GlobalAveragePool" if average else "GlobalMaxPool", op.read, op.made)
        return
    if adaptive:
        raise TraceError(f"pool2d: adaptive to {sides}: only a single cell has an ONNX form here")
    settings: dict[str, Any] = {
        "kernel_shape": sides,
        "strides": _get(op, "strides"),
        "pads": _pads(op),
        "ceil_mode": int(_get(op, "ceil_mode", False)),
    }
    if average:
        settings["count_include_pad"] = int(not _get(op, "exclusive"))
    writer.add("AveragePool" if average else "MaxPool", op.read, op.made, **settings)


def _resize(writer: _Writer, op: Operator) -> None:
    _expect(op, data_layout="NCHW")
    (source,), factors = op.inputs["X"], _get(op, "scale", [])
    if set(op.inputs) != {"X"} or len(factors) != 2:
        raise TraceError(f"{op.kind}: only fixed factors have an ONNX form here")
    nearest = op.kind == "nearest_interp_v2"
    if _get(op, "align_corners"):
        places = "align_corners"
    else:
        places = "asymmetric" if nearest or _get(op, "align_mode") == 1 else "half_pixel"
    scales = writer.constant([1, 1, *factors], np.float32)
    settings = {"mode": "nearest", "nearest_mode": "floor"} if nearest else {"mode": "linear"}
    settings["coordinate_transformation_mode"] = places
    writer.add("Resize", [source, "", scales], op.made, **settings)


def _concat(writer: _Writer, op: Operator) -> None:
    writer.add("Concat", op.inputs["X"], op.made, axis=_get(op, "axis"))


def _split(writer: _Writer, op: Operator) -> None:
    axis = _get(op, "axis")
    sizes = [writer.shape(name)[axis] for name in op.made]
    writer.add("Split", [*op.inputs["X"], writer.constant(sizes)], op.made, axis=axis)


def _slice(writer: _Writer, op: Operator) -> None:
    read = [
        *op.inputs["Input"],
        *(writer.constant(_get(op, x)) for x in ("starts", "ends", "axes")),
    ]
    dropped = _get(op, "decrease_axis", [])
    if dropped:
        writer.add("Squeeze", [writer.value("Slice", *read), writer.constant(dropped)], op.made)
    else:
        writer.add("Slice", read, op.made)


def _unsqueeze(writer: _Writer, op: Operator) -> None:
    writer.add("Unsqueeze", [*op.inputs["X"], writer.constant(_get(op, "axes"))], op.outputs["Out"])


def _squeeze(writer: _Writer, op: Operator) -> None:
    writer.add("Squeeze", [*op.inputs["X"], writer.constant(_get(op, "axes"))], op.outputs["Out"])


def _reshape(writer: _Writer, op: Operator) -> None:
    if set(op.inputs) != {"X"}:
        raise TraceError("reshape2: only sizes that are known have an ONNX form here")
    shape = writer.constant(_get(op, "shape"))
    writer.add("Reshape", [*op.inputs["X"], shape], op.outputs["Out"])


def _flatten(writer: _Writer, op: Operator) -> None:
    (source,) = op.inputs["X"]
    sides = writer.shape(source)
    start, stop = (_get(op, name) % len(sides) for name in ("start_axis", "stop_axis"))
    merged, behind = sides[start : stop + 1], sides[stop + 1 :]
    size = -1 if -1 in merged else int(np.prod(merged))
    if (*behind, size).count(-1) > 1:
        # What is open behind the merged axes is asked of the input.
        shape = writer.value("Shape", source, start=stop + 1)
        head = writer.constant([0] * start + [size])
        shape = writer.value("Concat", head, shape, axis=0)
    else:
        shape = writer.constant([0] * start + [size, *behind])
    writer.add("Reshape", [source, shape], op.outputs["Out"])


def _transpose(writer: _Writer, op: Operator) -> None:
    writer.add("Transpose", op.inputs["X"], op.outputs["Out"], perm=_get(op, "axis"))


def _scale(writer: _Writer, op: Operator) -> None:
    (value,), (result,) = op.inputs["X"], op.outputs["Out"]
    if set(op.inputs) != {"X"}:
        raise TraceError("scale: only a factor that is known has an ONNX form here")
    dtype = writer.program.type_of(value)
    steps = [("Mul", _get(op, "scale"), 1), ("Add", _get(op, "bias"), 0)]
    if not _get(op, "bias_after_scale"):
        steps.reverse()
    steps = [step for step in steps if step[1] != step[2]] or [("Identity", 0, 0)]
    for i, (kind, number, _) in enumerate(steps):
        read = [value] if kind == "Identity" else [value, writer.constant(number, dtype)]
        if i + 1 < len(steps):
            value = writer.value(kind, *read)
        else:
            writer.add(kind, read, [result])


def _cast(writer: _Writer, op: Operator) -> None:
    writer.add("Cast", op.read, op.made, to=_TYPES[_get(op, "out_dtype")])


def _matmul(writer: _Writer, op: Operator) -> None:
    read = []
    for place, turned in (("X", "trans_x"), ("Y", "trans_y")):
        (name,) = op.inputs[place]
        if _get(op, turned):
            axes = list(range(len(writer.shape(name))))
            name = writer.value("Transpose", name, perm=[*axes[:-2], axes[-1], axes[-2]])
        read.append(name)
    writer.add("MatMul", read, op.made)


def _reduce(writer: _Writer, op: Operator) -> None:
    axes = {} if _get(op, "reduce_all") else {"axes": _get(op, "dim")}
    writer.add(_REDUCTIONS[op.kind], op.read, op.made, keepdims=_get(op, "keep_dim"), **axes)


def _top_k(writer: _Writer, op: Operator) -> None:
    settings = {name: _get(op, name) for name in ("axis", "largest", "sorted")}
    writer.add(
        "TopK",
        [*op.inputs["X"], writer.constant([_get(op, "k")])],
        [*op.outputs["Out"], *op.outputs["Indices"]],
        **settings,
    )


def _take_along_axis(writer: _Writer, op: Operator) -> None:
    read = [*op.inputs["Input"], *op.inputs["Index"]]
    writer.add("GatherElements", read, op.made, axis=_get(op, "Axis"))


def _gather(writer: _Writer, op: Operator) -> None:
    read = [*op.inputs["X"], *op.inputs["Index"]]
    writer.add("Gather", read, op.made, axis=_get(op, "axis"))


def _pad(writer: _Writer, op: Operator) -> None:
    """`pad3d` of (N, C, D, H, W), its borders from the last axis on."""
    _expect(op, data_format="NCDHW")
    mode = {"constant": "constant", "replicate": "edge"}[_get(op, "mode")]
    left, right, top, bottom, front, back = _get(op, "paddings")
    borders = writer.constant([0, 0, front, top, left, 0, 0, back, bottom, right])
    value = writer.constant(_get(op, "value"), np.float32)
    writer.add("Pad", [*op.inputs["X"], borders, value], op.made, mode=mode)


def _quantize(writer: _Writer, op: Operator) -> None:
    (source,) = op.inputs["X"]
    writer.add("QuantizeLinear", [source, *_steps(writer, op)], op.made)


def _dequantize(writer: _Writer, op: Operator) -> None:
    (source,), axis = op.inputs["X"], _get(op, "quant_axis")
    settings = {"axis": axis} if axis >= 0 else {}
    writer.add("DequantizeLinear", [source, *_steps(writer, op)], op.made, **settings)


def _steps(writer: _Writer, op: Operator) -> list[str]:
    """Names of what 1 and 0 stand for, where Paddle holds what 127 stands for."""
    (scale,) = op.inputs["Scale"]
    steps = writer.program.tensors[scale] / np.float32(LEVELS)
    # Of a channel without weights any step will do, but not 0: backends divide biases by it.
    steps = np.where(steps > 0, steps, steps.max() or 1)
    if _get(op, "quant_axis") < 0:
        steps = steps[0]
    return [writer.constant(steps, np.float32), writer.constant(np.zeros_like(steps), np.int8)]


_WRITERS: dict[str, Callable[[_Writer, Operator], None]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(_PAIRS, _pair),
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


def _get(op: Operator, name: str, default: Any = None) -> Any:
    """The value of a setting."""
    setting = op.settings.get(name)
    if setting is None:
        if default is None:
            raise TraceError(f"{op.kind}: the setting {name} is missing")
        return default
    value = getattr(setting, _FIELDS[setting.type])
    return list(value) if setting.type in _LISTS else value


_FIELDS = {
    **{proto.INT: "i", proto.FLOAT: "f", proto.STRING: "s", proto.INTS: "ints"},
    **{proto.FLOATS: "floats", proto.BOOLEAN: "b", proto.LONG: "l", proto.LONGS: "longs"},
}
_LISTS = {proto.INTS, proto.FLOATS, proto.LONGS}


def _expect(op: Operator, **values: Any) -> None:
    for name, wanted in values.items():
        found = _get(op, name, wanted)
        if found != wanted:
            raise TraceError(
                f"{op.kind}: {name} is {found!r}; only {wanted!r} has an ONNX form here"
            )
