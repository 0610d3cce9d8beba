"""Networks in Paddle's old inference format: `.pdmodel`, a protobuf, and `.pdiparams`.

Paddle 3 writes a newer format too, but its int8 kernels for CPUs read the old one only. A network
is traced operator by operator, without a translation of its Python code: what a layer decides in
Python, such as by `training`, is decided then.
"""

from __future__ import annotations

import string
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import _C_ops, nn
from paddle.base import core
from paddle.base.dygraph.base import to_static_mode_guard
from paddle.base.layer_helper import LayerHelper
from paddle.base.proto import framework_pb2

from ppose.errors import PposeError

# Its classes are made when it is imported, so that no type is known before.
proto: Any = framework_pb2
Message = Any

INPUT, OUTPUT = "images", "maps"
CONVOLUTIONS = ("conv2d", "depthwise_conv2d")
Shape = tuple[int, ...]

# Where an operator was made and how it may be run: nothing that the result depends on.
_NOTES = {
    *("op_callstack", "op_device", "op_namescope", "op_role", "op_role_var", "with_quant_attr"),
    *("use_mkldnn", "use_onednn", "mkldnn_data_type", "onednn_data_type", "use_quantizer"),
    *("use_cudnn", "exhaustive_search", "workspace_size_MB", "use_addto", "force_fp32_output"),
}
# What oneDNN's passes write down.
_FUSED = ("Scale_", "fuse_")
# A result for a backward pass; those of batch norms Paddle's own kernels want.
_UNREAD = {"XShape"}
_LETTERS = string.digits + string.ascii_letters
_TENSOR_TYPES = {
    **{"float32": "FP32", "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "int64": "INT64"},
    **{"bool": "BOOL"},
}


class TraceError(PposeError):
    """A network cannot be written down; the message says why."""


@dataclass
class Operator:
    """A step of a program.

    Attributes:
        kind: as Paddle calls it, such as conv2d.
        inputs, outputs: Paddle's name of a place → names of values.
        settings: strides and the like.
    """

    kind: str
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    settings: dict[str, Message] = field(default_factory=dict)

    @property
    def read(self) -> list[str]:
        """Names of all values that it reads."""
        return [name for names in self.inputs.values() for name in names]

    @property
    def made(self) -> list[str]:
        """Names of all values that it makes."""
        return [name for names in self.outputs.values() for name in names]

    def integer(self, name: str) -> int:
        """A setting that is a whole number."""
        return int(self.settings[name].i)

    def rename(self, names: dict[str, str]) -> None:
        """Lets it read and make values of other names."""
        for places in (self.inputs, self.outputs):
            for place, old in places.items():
                places[place] = [names.get(name, name) for name in old]


@dataclass
class Program:
    """Operators in order, from images to maps, and their weights.

    Attributes:
        operators: each reads what is before it.
        tensors: name → weights.
        shapes: name → sizes of what operators make and of the inputs, -1 where open.
        sources, results: names of inputs and outputs → what files call them, in order.
        versions: of the operators, as Paddle saves them.
        types: name → type of inputs and of what operators make, where it is not float32.
    """

    operators: list[Operator]
    tensors: dict[str, np.ndarray]
    shapes: dict[str, Shape]
    sources: dict[str, str]
    results: dict[str, str]
    versions: Message
    types: dict[str, str] = field(default_factory=dict)

    def type_of(self, name: str) -> str:
        """Type of a value as NumPy calls it."""
        if name in self.tensors:
            return self.tensors[name].dtype.name
        return self.types.get(name, "float32")

    def makers(self) -> dict[str, Operator]:
        """Name of each value → the operator that makes it."""
        return {name: op for op in self.operators for name in op.made}

    def readers(self) -> dict[str, list[Operator]]:
        """Name of each value → the operators that read it."""
        found: dict[str, list[Operator]] = {}
        for op in self.operators:
            for name in op.read:
                found.setdefault(name, []).append(op)
        return found

    def copied(self) -> Program:
        """A copy that may be rewritten; both share the arrays of the weights."""
        operators = [
            Operator(op.kind, dict(op.inputs), dict(op.outputs), dict(op.settings))
            for op in self.operators
        ]
        return replace(
            self,
            operators=operators,
            tensors=dict(self.tensors),
            shapes=dict(self.shapes),
            types=dict(self.types),
        )

    def drop_unread(self) -> None:
        """Removes weights that no operator reads."""
        read = {name for op in self.operators for name in op.read}
        self.tensors = {name: array for name, array in self.tensors.items() if name in read}

    def save(self, program: Path, weights: Path) -> None:
        """Writes the two files, with short names for what lies between inputs and outputs."""
        values = [*self.tensors, *(name for op in self.operators for name in op.made)]
        names = {name: _short(i) for i, name in enumerate(values)}
        names |= self.sources | self.results
        described = self._described(names)
        program.write_bytes(described.SerializeToString(deterministic=True))
        with weights.open("wb") as file:
            # Paddle reads them in the order of their names.
            for name in sorted(self.tensors, key=lambda name: names[name]):
                file.write(_tensor_bytes(self.tensors[name]))

    def _described(self, names: dict[str, str]) -> Message:
        described = proto.ProgramDesc()
        described.CopyFrom(self.versions)
        block = described.blocks.add(idx=0, parent_idx=-1)
        for name, kind in (("feed", "FEED_MINIBATCH"), ("fetch", "FETCH_LIST")):
            variable = block.vars.add(name=name, persistable=True)
            variable.type.type = getattr(proto.VarType, kind)
        for name in [*self.sources, *(n for op in self.operators for n in op.made)]:
            if name not in self.tensors:  # a batch norm hands its statistics on
                _describe_variable(block, names[name], self.type_of(name), self.shapes[name])
        for name, array in self.tensors.items():
            _describe_variable(block, names[name], array.dtype.name, array.shape, kept=True)
        feeds = [
            Operator("feed", {"X": ["feed"]}, {"Out": [name]}, settings(col=i))
            for i, name in enumerate(self.sources)
        ]
        fetches = [
            Operator("fetch", {"X": [name]}, {"Out": ["fetch"]}, settings(col=i))
            for i, name in enumerate(self.results)
        ]
        for op in [*feeds, *self.operators, *fetches]:
            _describe_operator(block, op, names)
        return described


def trace(network: nn.Layer, inputs: Shape | dict[str, tuple[Shape, str]]) -> Program:
    """The operators that a network runs as it is now.

    Args:
        network: stays as it is; put it in eval mode before. It gives one tensor, or several in a
            dict by the names that they get in files.
        inputs: shape of the images, float32; or by name the shape and type of each input. -1
            leaves a size open.

    Raises:
        TraceError: an operator of it has no old form, or it gives something else.
    """
    if not isinstance(inputs, dict):
        inputs = {INPUT: (inputs, "float32")}
    with paddle.pir_utils.OldIrGuard(), _static_sigmoid(), warnings.catch_warnings():
        # Of a change between Paddle 1 and 2, at every sum.
        warnings.simplefilter("ignore", DeprecationWarning)
        main = paddle.static.Program()
        with paddle.static.program_guard(main), to_static_mode_guard(True):
            given = [paddle.static.data(n, list(s), kind) for n, (s, kind) in inputs.items()]
            try:
                made = network(*given)
            except TypeError as error:
                raise TraceError(
                    f"{type(network).__name__}: Paddle {paddle.__version__} cannot write one of "
                    f"its operators in the old format: {error}"
                ) from error
    results = made if isinstance(made, dict) else {OUTPUT: made}
    if not all(isinstance(value, paddle.static.Variable) for value in results.values()):
        raise TraceError(
            f"{type(network).__name__} gives a {type(made).__name__}, expected one tensor; is it "
            "in eval mode?"
        )
    core.save_op_version_info(main.desc)
    described = proto.ProgramDesc.FromString(main.desc.serialize_to_string())
    block = described.blocks[0]
    held = {t.name: t for t in [*network.parameters(), *network.buffers()]}
    operators = [_operator(op) for op in block.ops]
    read = [name for op in operators for name in op.read]
    described.ClearField("blocks")
    program = Program(
        operators,
        tensors={name: held[name].numpy() for name in dict.fromkeys(read) if name in held},
        shapes={v.name: tuple(v.type.dense_tensor.tensor.dims) for v in block.vars},
        sources={value.name: name for value, name in zip(given, inputs, strict=True)},
        results={value.name: name for name, value in results.items()},
        versions=described,
        types={v.name: _type_of(v) for v in block.vars},
    )
    _name_apart(program)
    _plain_biases(program)
    return program


def _type_of(variable: Message) -> str:
    kind = proto.VarType.Type.Name(variable.type.dense_tensor.tensor.data_type)
    return next((name for name, of in _TENSOR_TYPES.items() if of == kind), kind)


@contextmanager
def _static_sigmoid() -> Iterator[None]:
    """Paddle 3.3 traces sigmoid in the new form only, though the old one has the operator."""
    operators: Any = _C_ops
    original = operators.sigmoid

    def sigmoid(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, paddle.static.Variable):
            return original(x, *args, **kwargs)
        helper = LayerHelper("sigmoid")
        result = helper.create_variable_for_type_inference(x.dtype)
        helper.append_op(type="sigmoid", inputs={"X": x}, outputs={"Out": result})
        return result

    operators.sigmoid = sigmoid
    try:
        yield
    finally:
        operators.sigmoid = original


def _needed(operators: list[Operator], results: Iterable[str]) -> list[Operator]:
    """Those that the results depend on."""
    wanted, kept = set(results), []
    for op in reversed(operators):
        if wanted.intersection(op.made):
            wanted.update(op.read)
            kept.append(op)
    return kept[::-1]


def _name_apart(program: Program) -> None:
    """Gives every value a name of its own: fake quantization names what it makes after what it
    reads, even where two layers read the same."""
    latest: dict[str, str] = {}
    for i, op in enumerate(program.operators):
        op.inputs = {k: [latest.get(n, n) for n in v] for k, v in op.inputs.items()}
        for name in op.made:
            if name in latest:
                program.shapes[f"{name}.{i}"] = program.shapes[name]
                program.types[f"{name}.{i}"] = program.types[name]
            latest[name] = f"{name}.{i}" if name in latest else name
        op.outputs = {k: [latest[n] for n in v] for k, v in op.outputs.items()}
    program.results = {latest.get(n, n): called for n, called in program.results.items()}


def _plain_biases(program: Program) -> None:
    """Convolutions add their bias along the channels, where Paddle traces a reshaped one."""
    makers = program.makers()
    for op in program.operators:
        if op.kind != "elementwise_add":
            continue
        reshape = makers.get(op.inputs["Y"][0])
        if reshape and reshape.kind == "reshape2" and reshape.inputs["X"][0] in program.tensors:
            (bias,) = reshape.inputs["X"]
            if program.shapes[reshape.outputs["Out"][0]] == (1, program.tensors[bias].size, 1, 1):
                op.inputs["Y"] = [bias]
                op.settings |= settings(axis=1)
    program.operators = _needed(program.operators, program.results)


def _operator(described: Message) -> Operator:
    return Operator(
        described.type,
        {p.parameter: list(p.arguments) for p in described.inputs if p.arguments},
        {
            p.parameter: list(p.arguments)
            for p in described.outputs
            if p.arguments and p.parameter not in _UNREAD
        },
        {a.name: a for a in described.attrs if not _is_note(a.name)},
    )


def _is_note(setting: str) -> bool:
    return setting in _NOTES or setting.startswith(_FUSED)


def settings(**values: int | float | list[int]) -> dict[str, Message]:
    """Settings of an operator in the form that `Operator` holds them."""
    made = {}
    for name, value in values.items():
        attribute = made[name] = proto.OpDesc.Attr(name=name)
        if isinstance(value, list):
            attribute.type = proto.INTS
            attribute.ints.extend(value)
        elif isinstance(value, int):
            attribute.type, attribute.i = proto.INT, value
        else:
            attribute.type, attribute.f = proto.FLOAT, value
    return made


def _short(number: int) -> str:
    """A name of few letters; large networks have thousands, each of them named several times."""
    name = ""
    while number >= 0:
        number, digit = divmod(number, len(_LETTERS))
        name += _LETTERS[digit]
        number -= 1
    return name


def _describe_variable(
    block: Message, name: str, dtype: str, shape: Shape, kept: bool = False
) -> None:
    variable = block.vars.add(name=name)
    variable.type.type = proto.VarType.DENSE_TENSOR
    variable.type.dense_tensor.tensor.CopyFrom(_tensor_form(dtype, shape))
    if kept:
        variable.persistable = True


def _tensor_form(dtype: str, shape: Shape) -> Message:
    kind = getattr(proto.VarType, _TENSOR_TYPES[dtype])
    return proto.VarType.TensorDesc(data_type=kind, dims=shape)


def _describe_operator(block: Message, op: Operator, names: dict[str, str]) -> None:
    described = block.ops.add(type=op.kind)
    for slots, places in ((described.inputs, op.inputs), (described.outputs, op.outputs)):
        for place, arguments in places.items():
            slots.add(parameter=place, arguments=[names.get(name, name) for name in arguments])
    described.attrs.extend(op.settings.values())


def _tensor_bytes(array: np.ndarray) -> bytes:
    """A tensor as `load_combine` reads it: version, levels, version, form, values."""
    form = _tensor_form(array.dtype.name, array.shape).SerializeToString()
    head = struct.pack("<IQIi", 0, 0, 0, len(form))
    return head + form + np.ascontiguousarray(array).tobytes()
