"""Reads and checks Paddle's model files (`.pdmodel`, `.json`, `.pdiparams`) without Paddle.

Paddle crashes the process on some damaged files, and accepts others.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ppose.deploy.backends import protobuf
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
        BackendError: not a program, or damaged.
    """
    try:
        if path.suffix == ".json":
            return _parse_json(json.loads(path.read_bytes()))
        return _parse_pdmodel(memoryview(path.read_bytes()))
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


def _parse_pdmodel(message: memoryview) -> ProgramInfo:
    """Field numbers of framework.proto: ProgramDesc 1 blocks; BlockDesc 3 vars, 4 ops; OpDesc
    3 type."""
    blocks = list(protobuf.messages(message, 1))
    op_types = {protobuf.text(op, 3) for block in blocks for op in protobuf.messages(block, 4)}
    if not {"feed", "fetch"} <= op_types:
        raise ValueError("a program without input or output")
    tensors: dict[str, TensorInfo] = {}
    weights: list[tuple[str, TensorType]] = []
    for variable in protobuf.messages(blocks[0], 3):
        name, tensor_type, persistable = _variable(variable)
        if tensor_type is None:
            continue
        tensors[name] = TensorInfo(name, *tensor_type)
        if persistable:
            weights.append((name, tensor_type))
    ops = [(protobuf.text(op, 3), op) for op in protobuf.messages(blocks[0], 4)]
    conv_outputs = [protobuf.text(_message(op, 2), 2) for kind, op in ops if kind in _CONVOLUTIONS]
    return ProgramInfo(
        frozenset(op_types),
        tensors,
        [tensor_type for _, tensor_type in sorted(weights)],
        io_names=tuple(
            protobuf.text(_message(op, 2 if kind == "feed" else 1), 2)
            for kind, op in ops
            if kind in ("feed", "fetch")
        ),
        conv_output=next((name for name in conv_outputs if name in tensors), ""),
    )


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
    name, persistable = protobuf.text(message, 1), protobuf.first(message, 3) == 1
    kind = _message(message, 2)
    if protobuf.first(kind, 1) != _DENSE:
        return name, None, False
    return name, _tensor_type(_message(_message(kind, 3), 1)), persistable


def _tensor_type(message: memoryview) -> TensorType:
    """Field numbers of TensorDesc: 1 data_type, 2 dims."""
    dtype = protobuf.first(message, 1)
    if not isinstance(dtype, int):
        raise ValueError("a tensor without a type")
    return _DTYPES[dtype], tuple(protobuf.integers(message, 2))


def _message(message: memoryview, number: int) -> memoryview:
    value = protobuf.first(message, number)
    if not isinstance(value, memoryview):
        raise ValueError(f"no message in field {number}")
    return value


def _parse_json(content: dict[str, Any]) -> ProgramInfo:
    if content["base_code"]["magic"] != "pir":
        raise ValueError("not a program of Paddle 3")
    ops = content["program"]["regions"][0]["blocks"][0]["ops"]
    tensors: dict[str, TensorInfo] = {}
    weights: list[tuple[str, TensorType]] = []
    op_types = set()
    for op in ops:
        kind = op["#"].rpartition(".")[2]
        op_types.add(kind)
        if kind == "p":
            weights.append((op["A"][3], _json_tensor_type(op["O"]["TT"])))
        elif kind in ("data", "fetch"):
            name = next((a["AT"]["D"] for a in op["A"] if a["N"] == "name"), None)
            if not isinstance(name, str):
                raise ValueError(f"an operator {kind} without a name")
            tensors[name] = TensorInfo(name, *_json_tensor_type(op["O"][0]["TT"]))
    if not {"data", "fetch"} <= op_types:
        raise ValueError("a program without input or output")
    return ProgramInfo(frozenset(op_types), tensors, [kind for _, kind in sorted(weights)])


def _json_tensor_type(kind: dict[str, Any]) -> TensorType:
    dtype, shape = kind["D"][:2]
    if not all(type(side) is int for side in shape):
        raise ValueError(f"a tensor of shape {shape}")
    return _JSON_DTYPES[dtype["#"].rpartition(".")[2]], tuple(shape)


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
