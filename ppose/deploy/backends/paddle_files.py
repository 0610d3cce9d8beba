"""What Paddle's model files say of themselves, read without Paddle.

Paddle ends the process on some damaged files, and takes others for good.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ppose.deploy.backends import wire
from ppose.deploy.session import BackendError, Tensor

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
# Of the levels and the form of a tensor; more is no tensor.
_MOST_LEVELS, _MOST_BYTES = 8, 1024
# What reading a program that is none raises; RecursionError is of json.
_NO_PROGRAM = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
_AGAIN = "copy or export the model again"

Form = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Program:
    """A model's program.

    Attributes:
        kinds: of its operators, such as conv2d.
        tensors: name → what goes in or comes out, and in the old form what is between.
        weights: type and shape of each, in the order of their file.
        ends: in the old form, names of inputs and outputs.
        convolved: in the old form, what the first convolution makes; empty if there is none.
    """

    kinds: frozenset[str]
    tensors: dict[str, Tensor]
    weights: list[Form]
    ends: tuple[str, ...] = ()
    convolved: str = ""


def read_program(path: Path) -> Program:
    """A program in the old form (`.pdmodel`) or the new one (`.json`).

    Raises:
        BackendError: it is neither, or damaged.
    """
    try:
        if path.suffix == ".json":
            return _new_form(json.loads(path.read_bytes()))
        return _old_form(memoryview(path.read_bytes()))
    except _NO_PROGRAM as error:
        raise BackendError(
            f"{path}: damaged, or no model of Paddle ({type(error).__name__}: {error}); {_AGAIN}"
        ) from None


def check_weights(path: Path, program: Program) -> None:
    """BackendError unless a file holds just the weights that a program needs."""
    expected = program.weights
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        for number, wanted in enumerate(expected):
            try:
                found = _skip_tensor(file, end)
            except (ValueError, KeyError, struct.error) as error:
                raise BackendError(
                    f"{path}: damaged at tensor {number} of {len(expected)} ({error}); {_AGAIN}"
                ) from None
            if found != wanted:
                raise BackendError(
                    f"{path}: of another model: its tensor {number} is {found[0]} {found[1]}, "
                    f"expected {wanted[0]} {wanted[1]}; {_AGAIN}"
                )
        if file.tell() != end:
            raise BackendError(f"{path}: of another model: it has more tensors; {_AGAIN}")


def _old_form(message: memoryview) -> Program:
    """Of framework.proto: ProgramDesc 1 blocks; BlockDesc 3 vars, 4 ops; OpDesc 3 type."""
    blocks = list(wire.messages(message, 1))
    kinds = {wire.text(op, 3) for block in blocks for op in wire.messages(block, 4)}
    if not {"feed", "fetch"} <= kinds:
        raise ValueError("a program without input or output")
    tensors: dict[str, Tensor] = {}
    weights: list[tuple[str, Form]] = []
    for variable in wire.messages(blocks[0], 3):
        name, form, kept = _variable(variable)
        if form is None:
            continue
        tensors[name] = Tensor(name, *form)
        if kept:
            weights.append((name, form))
    operators = [(wire.text(op, 3), op) for op in wire.messages(blocks[0], 4)]
    made = [wire.text(_message(op, 2), 2) for kind, op in operators if kind in _CONVOLUTIONS]
    return Program(
        frozenset(kinds),
        tensors,
        [form for _, form in sorted(weights)],
        ends=tuple(
            wire.text(_message(op, 2 if kind == "feed" else 1), 2)
            for kind, op in operators
            if kind in ("feed", "fetch")
        ),
        convolved=next((name for name in made if name in tensors), ""),
    )


def with_own_name(content: bytes, program: Program, name: str) -> bytes:
    """The old form of a program with one more variable, of a name that is new.

    Two more fields of its first block: an operator that turns what a convolution makes into this
    variable, which nothing reads; and its VarDesc. OpDesc: 1 inputs, 2 outputs, 3 type; each of
    the former: 1 parameter, 2 arguments.
    """
    block = _message(memoryview(content), 1)
    variables = wire.messages(block, 3)
    convolved = next(v for v in variables if wire.text(v, 1) == program.convolved)
    place = {1: ("X", program.convolved), 2: ("Out", name)}
    ends = (
        wire.field(number, wire.field(1, parameter.encode()) + wire.field(2, argument.encode()))
        for number, (parameter, argument) in place.items()
    )
    operator = b"".join(ends) + wire.field(3, b"relu")
    variable = wire.field(1, name.encode()) + wire.field(2, bytes(_message(convolved, 2)))
    longer = bytes(block) + wire.field(3, variable) + wire.field(4, operator)
    start = content.index(bytes(block))
    head = wire.field(1, bytes(block))
    begin = start - (len(head) - len(block))
    return content[:begin] + wire.field(1, longer) + content[start + len(block) :]


def _variable(message: memoryview) -> tuple[str, Form | None, bool]:
    """Name, type and shape, and whether it is a weight. VarDesc: 1 name, 2 type, 3 persistable;
    VarType: 1 type, 3 dense_tensor, whose field 1 is a TensorDesc."""
    name, kept = wire.text(message, 1), wire.first(message, 3) == 1
    kind = _message(message, 2)
    if wire.first(kind, 1) != _DENSE:
        return name, None, False
    return name, _tensor_form(_message(_message(kind, 3), 1)), kept


def _tensor_form(message: memoryview) -> Form:
    """TensorDesc: 1 data_type, 2 dims."""
    dtype = wire.first(message, 1)
    if not isinstance(dtype, int):
        raise ValueError("a tensor without a type")
    return _DTYPES[dtype], tuple(wire.integers(message, 2))


def _message(message: memoryview, number: int) -> memoryview:
    value = wire.first(message, number)
    if not isinstance(value, memoryview):
        raise ValueError(f"no message in field {number}")
    return value


def _new_form(described: dict[str, Any]) -> Program:
    if described["base_code"]["magic"] != "pir":
        raise ValueError("no program of Paddle 3")
    operators = described["program"]["regions"][0]["blocks"][0]["ops"]
    tensors: dict[str, Tensor] = {}
    weights: list[tuple[str, Form]] = []
    kinds = set()
    for op in operators:
        kind = op["#"].rpartition(".")[2]
        kinds.add(kind)
        if kind == "p":
            weights.append((op["A"][3], _json_form(op["O"]["TT"])))
        elif kind in ("data", "fetch"):
            name = next((a["AT"]["D"] for a in op["A"] if a["N"] == "name"), None)
            if not isinstance(name, str):
                raise ValueError(f"an operator {kind} without a name")
            tensors[name] = Tensor(name, *_json_form(op["O"][0]["TT"]))
    if not {"data", "fetch"} <= kinds:
        raise ValueError("a program without input or output")
    return Program(frozenset(kinds), tensors, [form for _, form in sorted(weights)])


def _json_form(kind: dict[str, Any]) -> Form:
    dtype, shape = kind["D"][:2]
    if not all(type(side) is int for side in shape):
        raise ValueError(f"a tensor of shape {shape}")
    return _JSON_DTYPES[dtype["#"].rpartition(".")[2]], tuple(shape)


def _skip_tensor(file: BinaryIO, end: int) -> Form:
    """Type and shape of the tensor here, behind which the file then stands.

    It is: a version (uint32); levels (uint64), each a size (uint64) and as many bytes; a version;
    the length of a TensorDesc (int32), and it; the values.
    """
    version, levels = struct.unpack("<IQ", file.read(12))
    if version or levels > _MOST_LEVELS:
        raise ValueError("no tensor stands there")
    for _ in range(levels):
        (size,) = struct.unpack("<Q", file.read(8))
        file.seek(min(size, end), os.SEEK_CUR)
    version, size = struct.unpack("<Ii", file.read(8))
    if version or not 0 < size <= _MOST_BYTES:
        raise ValueError("no tensor stands there")
    dtype, shape = _tensor_form(memoryview(file.read(size)))
    count = _SIZES[dtype]
    for side in shape:
        if side < 0:
            raise ValueError(f"a tensor of shape {shape}")
        count *= side
    if count > end - file.tell():
        raise ValueError("the file ends within it")
    file.seek(count, os.SEEK_CUR)
    return dtype, shape
