"""Paddle's old inference format: tracing a network to a program, and writing it.

The files are `.pdmodel`, a protobuf, and `.pdiparams`. Paddle 3's new format (`.json`) is not used:
Paddle's int8 CPU kernels read the old one only, and with oneDNN the new one fails on these networks
in Paddle 3.3.1 and gave wrong outputs in 3.1.1 and 3.2.2. The program is written here instead of by
`paddle.jit.save`, which writes the old format only if `FLAGS_enable_pir_api=0` is set in the
environment, because it is first rewritten (int8, fewer operators) and also exported to ONNX.

A network is traced operator by operator; its Python code is not translated. Python control flow,
such as a branch on `training`, is evaluated during tracing.
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
from paddle.jit.dy2static.program_translator import ProgramTranslator

from ppose.deploy.backends.paddle_trial import trust
from ppose.utils.errors import PposeError

# The message classes are generated at import time, so type checkers do not know them.
proto: Any = framework_pb2
Message = Any

INPUT, OUTPUT = "images", "maps"
CONVOLUTIONS = ("conv2d", "depthwise_conv2d")
Shape = tuple[int, ...]

# Attributes about the origin or execution of an operator, on which its output does not depend.
_IGNORED_ATTRIBUTES = {
    *("op_callstack", "op_device", "op_namescope", "op_role", "op_role_var", "with_quant_attr"),
    *("use_mkldnn", "use_onednn", "mkldnn_data_type", "onednn_data_type", "use_quantizer"),
    *("use_cudnn", "exhaustive_search", "workspace_size_MB", "use_addto", "force_fp32_output"),
}
# Attributes written by oneDNN's passes.
_IGNORED_PREFIXES = ("Scale_", "fuse_")
# Outputs for the backward pass only; those of batch norms are required by Paddle's kernels.
_DROPPED_OUTPUTS = {"XShape"}
_LETTERS = string.digits + string.ascii_letters
_TENSOR_TYPES = {
    **{"float32": "FP32", "int8": "INT8", "uint8": "UINT8", "int32": "INT32", "int64": "INT64"},
    **{"bool": "BOOL"},
}


class TraceError(PposeError):
    """A network cannot be traced or exported."""


@dataclass
class Operator:
    """An operator of a program.

    Attributes:
        type: Paddle's name of it, such as conv2d.
        inputs, outputs: parameter name, such as X → names of values.
        attributes: attributes by name, such as strides.
    """

    type: str
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    attributes: dict[str, Message] = field(default_factory=dict)

    @property
    def input_names(self) -> list[str]:
        """Names of all input values."""
        return [name for names in self.inputs.values() for name in names]

    @property
    def output_names(self) -> list[str]:
        """Names of all output values."""
        return [name for names in self.outputs.values() for name in names]

    def integer(self, name: str) -> int:
        """The value of an integer attribute."""
        return int(self.attributes[name].i)

    def rename(self, names: dict[str, str]) -> None:
        """Renames input and output values."""
        for values in (self.inputs, self.outputs):
            for parameter, old in values.items():
                values[parameter] = [names.get(name, name) for name in old]


@dataclass
class Program:
    """A network as a list of operators and their weights.

    Attributes:
        operators: in topological order.
        tensors: name → weights.
        shapes: name → shape of an input or an operator's output, -1 for a dynamic size.
        inputs, outputs: names of the inputs and outputs → their names in files, in order.
        op_versions: versions of the operators, as saved by Paddle.
        dtypes: name → dtype of an input or an operator's output; float32 if missing.
    """

    operators: list[Operator]
    tensors: dict[str, np.ndarray]
    shapes: dict[str, Shape]
    inputs: dict[str, str]
    outputs: dict[str, str]
    op_versions: Message
    dtypes: dict[str, str] = field(default_factory=dict)

    def dtype_of(self, name: str) -> str:
        """NumPy name of the dtype of a value."""
        if name in self.tensors:
            return self.tensors[name].dtype.name
        return self.dtypes.get(name, "float32")

    def producers(self) -> dict[str, Operator]:
        """Name of each value → the operator that computes it."""
        return {name: op for op in self.operators for name in op.output_names}

    def consumers(self) -> dict[str, list[Operator]]:
        """Name of each value → the operators that read it."""
        found: dict[str, list[Operator]] = {}
        for op in self.operators:
            for name in op.input_names:
                found.setdefault(name, []).append(op)
        return found

    def copy(self) -> Program:
        """A copy that can be modified; it shares the arrays of the weights."""
        operators = [
            Operator(op.type, dict(op.inputs), dict(op.outputs), dict(op.attributes))
            for op in self.operators
        ]
        return replace(
            self,
            operators=operators,
            tensors=dict(self.tensors),
            shapes=dict(self.shapes),
            dtypes=dict(self.dtypes),
        )

    def drop_unused_tensors(self) -> None:
        """Removes weights that no operator reads."""
        read = {name for op in self.operators for name in op.input_names}
        self.tensors = {name: array for name, array in self.tensors.items() if name in read}

    def save(self, program: Path, weights: Path) -> None:
        """Writes the two files, with short names for weights and intermediate values."""
        values = [*self.tensors, *(name for op in self.operators for name in op.output_names)]
        names = {name: _short_name(i) for i, name in enumerate(values)}
        names |= self.inputs | self.outputs
        described = self._to_desc(names)
        program.write_bytes(described.SerializeToString(deterministic=True))
        with weights.open("wb") as file:
            # Paddle reads them sorted by name.
            for name in sorted(self.tensors, key=lambda name: names[name]):
                file.write(_tensor_bytes(self.tensors[name]))
        trust([program, weights])

    def _to_desc(self, names: dict[str, str]) -> Message:
        described = proto.ProgramDesc()
        described.CopyFrom(self.op_versions)
        block = described.blocks.add(idx=0, parent_idx=-1)
        for name, kind in (("feed", "FEED_MINIBATCH"), ("fetch", "FETCH_LIST")):
            variable = block.vars.add(name=name, persistable=True)
            variable.type.type = getattr(proto.VarType, kind)
        for name in [*self.inputs, *(n for op in self.operators for n in op.output_names)]:
            if name not in self.tensors:  # the outputs of a batch norm include its statistics
                _add_variable(block, names[name], self.dtype_of(name), self.shapes[name])
        for name, array in self.tensors.items():
            _add_variable(block, names[name], array.dtype.name, array.shape, persistable=True)
        feeds = [
            Operator("feed", {"X": ["feed"]}, {"Out": [name]}, make_attributes(col=i))
            for i, name in enumerate(self.inputs)
        ]
        fetches = [
            Operator("fetch", {"X": [name]}, {"Out": ["fetch"]}, make_attributes(col=i))
            for i, name in enumerate(self.outputs)
        ]
        for op in [*feeds, *self.operators, *fetches]:
            _add_operator(block, op, names)
        return described


def trace(network: nn.Layer, inputs: Shape | dict[str, tuple[Shape, str]]) -> Program:
    """Traces a network to a program.

    Args:
        network: in eval mode; it is not modified. Its output is a tensor, or a dict of tensors by
            their names in files.
        inputs: shape of the images (float32), or name → shape and dtype of each input. A size of
            -1 is dynamic.

    Raises:
        TraceError: an operator is not supported in the old format, or the output is not one
            tensor or a dict of tensors.
    """
    if not isinstance(inputs, dict):
        inputs = {INPUT: (inputs, "float32")}
    with paddle.pir_utils.OldIrGuard(), _static_sigmoid(), warnings.catch_warnings():
        # Paddle warns about a change from Paddle 1 to 2 at every addition.
        warnings.simplefilter("ignore", DeprecationWarning)
        main = paddle.static.Program()
        with paddle.static.program_guard(main), to_static_mode_guard(True):
            given = [paddle.static.data(n, list(s), kind) for n, (s, kind) in inputs.items()]
            try:
                made = network(*given)
            except TypeError as error:
                raise TraceError(
                    f"{type(network).__name__}: Paddle {paddle.__version__} cannot trace one of "
                    f"its operators to the old format: {error}"
                ) from error
            finally:
                # Paddle keeps the parameters of a trace under the program's id until they are
                # taken: they would stay in memory, and turn up in a later program of that id.
                ProgramTranslator.get_instance()._params_recorder.pop(main)
    results = made if isinstance(made, dict) else {OUTPUT: made}
    if not all(isinstance(value, paddle.static.Variable) for value in results.values()):
        raise TraceError(
            f"{type(network).__name__} returns a {type(made).__name__}, expected one tensor; is it "
            "in eval mode?"
        )
    core.save_op_version_info(main.desc)
    described = proto.ProgramDesc.FromString(main.desc.serialize_to_string())
    block = described.blocks[0]
    held = {t.name: t for t in [*network.parameters(), *network.buffers()]}
    operators = [_from_desc(op) for op in block.ops]
    read = [name for op in operators for name in op.input_names]
    described.ClearField("blocks")
    program = Program(
        operators,
        tensors={name: held[name].numpy() for name in dict.fromkeys(read) if name in held},
        shapes={v.name: tuple(v.type.dense_tensor.tensor.dims) for v in block.vars},
        inputs={value.name: name for value, name in zip(given, inputs, strict=True)},
        outputs={value.name: name for name, value in results.items()},
        op_versions=described,
        dtypes={v.name: _dtype_of(v) for v in block.vars},
    )
    _rename_duplicates(program)
    _unreshape_biases(program)
    return program


def _dtype_of(variable: Message) -> str:
    kind = proto.VarType.Type.Name(variable.type.dense_tensor.tensor.data_type)
    return next((name for name, of in _TENSOR_TYPES.items() if of == kind), kind)


@contextmanager
def _static_sigmoid() -> Iterator[None]:
    """Patches sigmoid for tracing: Paddle 3.3 traces it to the new format only."""
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


def _reachable(operators: list[Operator], results: Iterable[str]) -> list[Operator]:
    """The operators that the results depend on."""
    wanted, kept = set(results), []
    for op in reversed(operators):
        if wanted.intersection(op.output_names):
            wanted.update(op.input_names)
            kept.append(op)
    return kept[::-1]


def _rename_duplicates(program: Program) -> None:
    """Makes the names of values unique: fake quantization names its output after its input, so
    two layers that read the same value produce the same name."""
    latest: dict[str, str] = {}
    for i, op in enumerate(program.operators):
        op.inputs = {k: [latest.get(n, n) for n in v] for k, v in op.inputs.items()}
        for name in op.output_names:
            if name in latest:
                program.shapes[f"{name}.{i}"] = program.shapes[name]
                program.dtypes[f"{name}.{i}"] = program.dtypes[name]
            latest[name] = f"{name}.{i}" if name in latest else name
        op.outputs = {k: [latest[n] for n in v] for k, v in op.outputs.items()}
    program.outputs = {latest.get(n, n): called for n, called in program.outputs.items()}


def _unreshape_biases(program: Program) -> None:
    """Adds convolution biases along the channel axis instead of reshaping them first."""
    producers = program.producers()
    for op in program.operators:
        if op.type != "elementwise_add":
            continue
        reshape = producers.get(op.inputs["Y"][0])
        if reshape and reshape.type == "reshape2" and reshape.inputs["X"][0] in program.tensors:
            (bias,) = reshape.inputs["X"]
            if program.shapes[reshape.outputs["Out"][0]] == (1, program.tensors[bias].size, 1, 1):
                op.inputs["Y"] = [bias]
                op.attributes |= make_attributes(axis=1)
    program.operators = _reachable(program.operators, program.outputs)


def _from_desc(described: Message) -> Operator:
    return Operator(
        described.type,
        {p.parameter: list(p.arguments) for p in described.inputs if p.arguments},
        {
            p.parameter: list(p.arguments)
            for p in described.outputs
            if p.arguments and p.parameter not in _DROPPED_OUTPUTS
        },
        {a.name: a for a in described.attrs if not _is_ignored(a.name)},
    )


def _is_ignored(attribute: str) -> bool:
    return attribute in _IGNORED_ATTRIBUTES or attribute.startswith(_IGNORED_PREFIXES)


def make_attributes(**values: int | float | list[int]) -> dict[str, Message]:
    """Attributes for `Operator.attributes`."""
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


def _short_name(number: int) -> str:
    """A short name for a number, as large networks repeat thousands of names in the file."""
    name = ""
    while number >= 0:
        number, digit = divmod(number, len(_LETTERS))
        name += _LETTERS[digit]
        number -= 1
    return name


def _add_variable(
    block: Message, name: str, dtype: str, shape: Shape, persistable: bool = False
) -> None:
    variable = block.vars.add(name=name)
    variable.type.type = proto.VarType.DENSE_TENSOR
    variable.type.dense_tensor.tensor.CopyFrom(_tensor_desc(dtype, shape))
    if persistable:
        variable.persistable = True


def _tensor_desc(dtype: str, shape: Shape) -> Message:
    kind = getattr(proto.VarType, _TENSOR_TYPES[dtype])
    return proto.VarType.TensorDesc(data_type=kind, dims=shape)


def _add_operator(block: Message, op: Operator, names: dict[str, str]) -> None:
    described = block.ops.add(type=op.type)
    for slots, named in ((described.inputs, op.inputs), (described.outputs, op.outputs)):
        for parameter, arguments in named.items():
            slots.add(parameter=parameter, arguments=[names.get(name, name) for name in arguments])
    described.attrs.extend(op.attributes.values())


def _tensor_bytes(array: np.ndarray) -> bytes:
    """A tensor as read by `load_combine`: version, LoD levels, version, descriptor, values."""
    form = _tensor_desc(array.dtype.name, array.shape).SerializeToString()
    head = struct.pack("<IQIi", 0, 0, 0, len(form))
    return head + form + np.ascontiguousarray(array).tobytes()
