"""Reads and checks Paddle's model files (`.pdmodel`, `.json`, `.pdiparams`) without Paddle.

Paddle crashes the process on some damaged files, and accepts others. It also runs any operator:
only those that compute (`ppose.deploy.backends.operators`) are allowed.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ppose.deploy.backends import protobuf
from ppose.deploy.backends.operators import (
    PADDLE,
    PADDLE_BRANCHES,
    OperatorError,
    check_operators,
)
from ppose.deploy.backends.session import TensorInfo
from ppose.deploy.backends.settings import BackendError

# VarType.Type of Paddle's framework.proto.
_DTYPES = {
    **{0: "bool", 1: "int16", 2: "int32", 3: "int64", 4: "float16", 5: "float32", 6: "float64"},
    **{20: "uint8", 21: "int8", 22: "bfloat16"},
}
_DENSE = 7
_CONVOLUTIONS = {"conv2d", "depthwise_conv2d"}
_JSON_DTYPES = {
    **{"t_bool": "bool", "t_i8": "int8", "t_ui8": "uint8", "t_i16": "int16", "t_i32": "int32"},
    **{"t_i64": "int64", "t_f16": "float16", "t_bf16": "bfloat16", "t_f32": "float32"},
    **{"t_f64": "float64"},
}
_SIZES = {
    **{"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "int32": 4},
    **{"int64": 8, "float32": 4, "float64": 8},
}
# AttrType of framework.proto.
_INT, _BLOCK, _BLOCKS = 0, 8, 10
_INTS = 3
# Attributes that name axes. Paddle loops up to them, and checks few.
_AXES = {"axis", "axes", "Axis", "dim", "perm", "start_axis", "stop_axis", "decrease_axis"}
_MAX_AXIS = 16
_EMPTY = "@EMPTY@"  # stands for an optional value that is not given
_MAX_BLOCKS = 64
# Dialects of Paddle 3's programs: builtin, and Paddle's operators. Others are control flow,
# operators of plug-ins, and communication.
_DIALECTS = {"", "0", "1"}
_MAX_ELEMENTS = 1 << 40
# Limits for the header of a tensor in `.pdiparams`: LoD levels and bytes of its TensorDesc.
_MAX_LEVELS, _MAX_DESC_BYTES = 8, 1024
# What parsing other content raises; RecursionError is from json.
_PARSE_ERRORS = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
_ADVICE = "copy or export the model again"

TensorType = tuple[str, tuple[int, ...]]  # dtype and shape


@dataclass(frozen=True)
class ProgramInfo:
    """Operators and tensors of a Paddle program.

    Attributes:
        op_types: types of its operators, such as conv2d.
        tensors: name → inputs and outputs, and for `.pdmodel` the intermediate tensors too.
        weights: type and shape of each weight, in the order of the weight file.
        io_names: names of inputs and outputs; `.pdmodel` only.
        conv_output: output of the first convolution, empty if there is none; `.pdmodel` only.
    """

    op_types: frozenset[str]
    tensors: dict[str, TensorInfo]
    weights: list[TensorType]
    io_names: tuple[str, ...] = ()
    conv_output: str = ""


def read_program(path: Path) -> ProgramInfo:
    """Reads a program, `.pdmodel` or `.json`.

    Raises:
        BackendError: not a program, damaged, or with an operator that is not allowed.
    """
    try:
        if path.suffix == ".json":
            return _parse_json(json.loads(path.read_bytes(), object_pairs_hook=_unique_keys))
        return _parse_pdmodel(memoryview(path.read_bytes()))
    except OperatorError as error:
        raise BackendError(f"{path}: {error}") from None
    except _PARSE_ERRORS as error:
        raise BackendError(
            f"{path}: damaged, or not a Paddle model ({type(error).__name__}: {error}); {_ADVICE}"
        ) from None


def check_weights(path: Path, program: ProgramInfo) -> None:
    """Raises BackendError unless a file contains exactly the weights of a program."""
    expected = program.weights
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        for number, wanted in enumerate(expected):
            try:
                found = _skip_tensor(file, end)
            except (ValueError, KeyError, struct.error) as error:
                raise BackendError(
                    f"{path}: damaged at tensor {number} of {len(expected)} ({error}); {_ADVICE}"
                ) from None
            if found != wanted:
                raise BackendError(
                    f"{path}: belongs to another model: tensor {number} is {found[0]} {found[1]}, "
                    f"expected {wanted[0]} {wanted[1]}; {_ADVICE}"
                )
        if file.tell() != end:
            raise BackendError(f"{path}: belongs to another model: it has more tensors; {_ADVICE}")


@dataclass(frozen=True)
class _Operator:
    """An OpDesc; `blocks` are the indices of the blocks that it runs."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    integers: dict[str, int]
    blocks: list[int]


@dataclass(frozen=True)
class _Block:
    """A BlockDesc: name → type, None if it is not a tensor, and whether it is a weight."""

    parent: int
    variables: dict[str, tuple[TensorType | None, bool]]
    operators: list[_Operator]


def _parse_pdmodel(message: memoryview) -> ProgramInfo:
    """Field numbers of framework.proto: ProgramDesc 1 blocks."""
    blocks = [_block(block) for block in protobuf.messages(message, 1)]
    if not 0 < len(blocks) <= _MAX_BLOCKS:
        raise ValueError(f"{len(blocks)} blocks, expected 1 to {_MAX_BLOCKS}")
    check_operators(
        (op.kind for block in blocks for op in block.operators), PADDLE | PADDLE_BRANCHES
    )
    main = blocks[0]
    feeds, fetches = (
        [op for op in main.operators if op.kind == kind] for kind in ("feed", "fetch")
    )
    for ops in (feeds, fetches):
        if not ops:
            raise ValueError("a program without input or output")
        if sorted(op.integers.get("col", -1) for op in ops) != list(range(len(ops))):
            raise ValueError(f"the {len(ops)} operators {ops[0].kind} are not numbered")
    _check_blocks(blocks)
    _check_values(blocks)
    tensors = {name: TensorInfo(name, *kind) for name, (kind, _) in main.variables.items() if kind}
    weights = sorted(
        (name, k) for name, (k, is_weight) in main.variables.items() if k and is_weight
    )
    conv_outputs = [op.outputs[0] for op in main.operators if op.kind in _CONVOLUTIONS]
    io_names = [op.outputs[0] for op in feeds] + [op.inputs[0] for op in fetches]
    if unknown := [name for name in io_names if name not in tensors]:
        raise ValueError(f"{unknown[0]!r} is not a tensor")
    return ProgramInfo(
        frozenset(op.kind for block in blocks for op in block.operators),
        tensors,
        [kind for _, kind in weights],
        io_names=tuple(io_names),
        conv_output=next((name for name in conv_outputs if name in tensors), ""),
    )


def _block(message: memoryview) -> _Block:
    """Field numbers of BlockDesc: 2 parent_idx, 3 vars, 4 ops."""
    variables = [_variable(variable) for variable in protobuf.messages(message, 3)]
    if repeated := [name for name, n in Counter(v[0] for v in variables).items() if n > 1]:
        raise ValueError(f"the variable {repeated[0]!r} is described twice")
    return _Block(
        protobuf.integer(message, 2, -1),
        {name: (kind, is_weight) for name, kind, is_weight in variables},
        [_operator(op) for op in protobuf.messages(message, 4)],
    )


def _operator(message: memoryview) -> _Operator:
    """Field numbers: OpDesc 1 inputs, 2 outputs, 3 type, 4 attrs; OpDesc.Var 2 arguments; Attr
    1 name, 2 type, 3 i, 6 ints, 12 block_idx, 14 blocks_idx."""
    integers: dict[str, int] = {}
    blocks: list[int] = []
    for attribute in protobuf.messages(message, 4):
        name, kind = protobuf.text(attribute, 1), protobuf.integer(attribute, 2, -1)
        if kind == _INT:
            integers[name] = protobuf.integer(attribute, 3, 0)
            _check_axes(name, [integers[name]])
        elif kind == _INTS:
            _check_axes(name, protobuf.integers(attribute, 6))
        elif kind == _BLOCK:
            blocks.append(protobuf.integer(attribute, 12, -1))
        elif kind == _BLOCKS:
            blocks += protobuf.integers(attribute, 14)
    return _Operator(
        protobuf.text(message, 3),
        inputs=_arguments(message, 1),
        outputs=_arguments(message, 2),
        integers=integers,
        blocks=blocks,
    )


def _arguments(message: memoryview, number: int) -> list[str]:
    return [
        str(name, "utf-8")
        for slot in protobuf.messages(message, number)
        for name in protobuf.messages(slot, 2)
    ]


def _check_axes(attribute: str, values: Iterable[int]) -> None:
    if attribute in _AXES and any(abs(value) > _MAX_AXIS for value in values):
        raise ValueError(f"{attribute} is beyond {_MAX_AXIS} axes")


def _check_blocks(blocks: list[_Block]) -> None:
    """Blocks form a tree, and only branches run them: so a program ends."""
    runs = [
        (i, op, b) for i, block in enumerate(blocks) for op in block.operators for b in op.blocks
    ]
    if any(op.kind not in PADDLE_BRANCHES for _, op, _ in runs):
        raise ValueError("an operator that is not a branch has a block")
    if any(not i < b < len(blocks) or blocks[b].parent != i for i, _, b in runs):
        raise ValueError("a block that is not below the block that runs it")
    if len({b for _, _, b in runs}) < len(runs):
        raise ValueError("a block that is run at two places")


def _check_values(blocks: list[_Block]) -> None:
    """Operators name only variables of their block and those around it."""
    known: list[set[str]] = []
    for i, block in enumerate(blocks):
        if i and not 0 <= block.parent < i:
            raise ValueError(f"block {i} has the parent {block.parent}")
        known.append({_EMPTY, *block.variables} | (known[block.parent] if i else set()))
        for op in block.operators:
            if unknown := [name for name in (*op.inputs, *op.outputs) if name not in known[i]]:
                raise ValueError(f"{op.kind} names {unknown[0]!r}, which is not described")


def with_unique_variable(content: bytes, program: ProgramInfo, name: str) -> bytes:
    """A `.pdmodel` program with one more variable of the given name.

    Adds two fields to its first block: an operator that computes the variable, which nothing reads,
    from the output of a convolution; and the variable's VarDesc. Field numbers: OpDesc 1 inputs,
    2 outputs, 3 type; OpDesc.Var 1 parameter, 2 arguments.
    """
    block = _message(memoryview(content), 1)
    variables = protobuf.messages(block, 3)
    conv_output = next(v for v in variables if protobuf.text(v, 1) == program.conv_output)
    arguments = {1: ("X", program.conv_output), 2: ("Out", name)}
    inputs_outputs = (
        protobuf.field(
            number, protobuf.field(1, parameter.encode()) + protobuf.field(2, argument.encode())
        )
        for number, (parameter, argument) in arguments.items()
    )
    operator = b"".join(inputs_outputs) + protobuf.field(3, b"relu")
    variable = protobuf.field(1, name.encode()) + protobuf.field(2, bytes(_message(conv_output, 2)))
    extended = bytes(block) + protobuf.field(3, variable) + protobuf.field(4, operator)
    start = content.index(bytes(block))
    header_size = len(protobuf.field(1, bytes(block))) - len(block)
    before, after = content[: start - header_size], content[start + len(block) :]
    return before + protobuf.field(1, extended) + after


def _variable(message: memoryview) -> tuple[str, TensorType | None, bool]:
    """Name, type and shape, and whether it is a weight. Field numbers: VarDesc 1 name, 2 type,
    3 persistable; VarType 1 type, 3 dense_tensor, whose field 1 is a TensorDesc."""
    name, persistable = protobuf.text(message, 1), protobuf.integer(message, 3, 0) == 1
    kind = _message(message, 2)
    if protobuf.integer(kind, 1, -1) != _DENSE:
        return name, None, False
    return name, _tensor_type(_message(_message(kind, 3), 1)), persistable


def _tensor_type(message: memoryview) -> TensorType:
    """Field numbers of TensorDesc: 1 data_type, 2 dims."""
    return _checked_type(
        _DTYPES[protobuf.integer(message, 1, -1)], tuple(protobuf.integers(message, 2))
    )


def _checked_type(dtype: str, shape: tuple[int, ...]) -> TensorType:
    if any(side < -1 for side in shape) or math.prod(map(abs, shape)) > _MAX_ELEMENTS:
        raise ValueError(f"a tensor of shape {shape}"[:100])
    return dtype, shape


def _message(message: memoryview, number: int) -> memoryview:
    value = protobuf.single(message, number)
    if not isinstance(value, memoryview):
        raise ValueError(f"no message in field {number}")
    return value


def _parse_json(content: dict[str, Any]) -> ProgramInfo:
    if content["base_code"]["magic"] != "pir":
        raise ValueError("not a program of Paddle 3")
    [region] = content["program"]["regions"]
    [block] = region["blocks"]
    tensors: dict[str, TensorInfo] = {}
    weights: list[tuple[str, TensorType]] = []
    op_types = set()
    for op in block["ops"]:
        dialect, _, name = op["#"].rpartition(".")
        kind = name.removesuffix("_")
        if dialect not in _DIALECTS or "regions" in op:
            raise OperatorError.of([op["#"]])
        op_types.add(kind)
        if kind == "p":
            weights.append((op["A"][3], _json_tensor_type(op["O"]["TT"])))
        elif kind in ("data", "fetch"):
            name = next((a["AT"]["D"] for a in op["A"] if a["N"] == "name"), None)
            if not isinstance(name, str):
                raise ValueError(f"an operator {kind} without a name")
            tensors[name] = TensorInfo(name, *_json_tensor_type(op["O"][0]["TT"]))
    check_operators(op_types, PADDLE)
    if not {"data", "fetch"} <= op_types:
        raise ValueError("a program without input or output")
    if repeated := [name for name, n in Counter(name for name, _ in weights).items() if n > 1]:
        raise ValueError(f"the weights {repeated[0]!r} are described twice")
    return ProgramInfo(frozenset(op_types), tensors, [kind for _, kind in sorted(weights)])


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError for a repeated key, as parsers differ in which one they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _json_tensor_type(kind: dict[str, Any]) -> TensorType:
    dtype, shape = kind["D"][:2]
    if not all(type(side) is int for side in shape):
        raise ValueError(f"a tensor of shape {shape}"[:100])
    return _checked_type(_JSON_DTYPES[dtype["#"].rpartition(".")[2]], tuple(shape))


def _skip_tensor(file: BinaryIO, end: int) -> TensorType:
    """Type and shape of the next tensor; moves the file position past it.

    Layout: version (uint32); number of LoD levels (uint64), each a size (uint64) and its bytes;
    version (uint32); length of a TensorDesc (int32) and the TensorDesc; the values.
    """
    version, levels = struct.unpack("<IQ", file.read(12))
    if version or levels > _MAX_LEVELS:
        raise ValueError("not a tensor")
    for _ in range(levels):
        (size,) = struct.unpack("<Q", file.read(8))
        file.seek(min(size, end), os.SEEK_CUR)
    version, size = struct.unpack("<Ii", file.read(8))
    if version or not 0 < size <= _MAX_DESC_BYTES:
        raise ValueError("not a tensor")
    dtype, shape = _tensor_type(memoryview(file.read(size)))
    count = _SIZES[dtype]
    for side in shape:
        if side < 0:
            raise ValueError(f"a tensor of shape {shape}")
        count *= side
    if count > end - file.tell():
        raise ValueError("the file ends within it")
    file.seek(count, os.SEEK_CUR)
    return dtype, shape
