"""Reads and checks ONNX files without a backend."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppose.deploy.backends import protobuf
from ppose.deploy.backends.operators import ONNX, OperatorError, check_operators
from ppose.deploy.backends.settings import BackendError

# TensorProto.DataType of onnx.proto → bits of a value.
_BITS = {
    **{1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64},
    **{15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4},
}
_FLOAT32, _FLOAT16 = 1, 10
# Fields with values, other than raw_data, that are numbers: field → bytes of a value, 0 for
# varints.
_NUMBERS = {4: 4, 5: 0, 7: 0, 10: 8, 11: 0}
_EXTERNAL = 1  # DataLocation
_MAX_DEPTH = 8  # of graphs in operators
# Attributes of windows that slide, and their largest value.
_WINDOW = {"pads", "strides", "dilations", "kernel_shape", "output_padding", "group"}
_MAX_WINDOW = 1 << 16
_SCALES = {"Resize": 2, "Upsample": 1}  # which input has the scales
_LONGEST_NAME = 255  # bytes of a file name
_ADVICE = "copy or export the model again"


@dataclass(frozen=True)
class OnnxInfo:
    """Content of an ONNX model.

    Attributes:
        op_types: types of its operators, such as Conv.
        has_fp16: whether it has fp16 weights.
        weight_files: names of the files next to it that hold weights.
    """

    op_types: frozenset[str]
    has_fp16: bool
    weight_files: frozenset[str]


def read_onnx(path: Path) -> OnnxInfo:
    """Reads an ONNX file, and checks its operators and the sizes of its weights.

    Raises:
        BackendError: not an ONNX model, damaged, with an operator that is not allowed, or with
            weights outside its folder.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path).read(
                memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            )
    except OperatorError as error:
        raise BackendError(f"{path}: {error}") from None
    except ValueError as error:
        raise BackendError(f"{path}: damaged, or not an ONNX model ({error}); {_ADVICE}") from None


class _Reader:
    """Field numbers of onnx.proto are in the docstrings."""

    def __init__(self, path: Path):
        self.path = path
        self.op_types: set[str] = set()
        self.weight_files: set[str] = set()
        self.has_fp16 = False

    def read(self, model: memoryview) -> OnnxInfo:
        """ModelProto: 7 graph, 20 training_info, 25 functions."""
        for number, what in ((20, "training information"), (25, "functions")):
            if next(protobuf.messages(model, number), None) is not None:
                raise OperatorError(f"refused: it has {what}; export it for inference, inlined")
        graph = protobuf.single(model, 7)
        if not isinstance(graph, memoryview):
            raise ValueError("it has no graph")
        self._graph(graph, 0)
        if not self.op_types:
            raise ValueError("it has no operators")
        return OnnxInfo(frozenset(self.op_types), self.has_fp16, frozenset(self.weight_files))

    def _graph(self, graph: memoryview, depth: int) -> None:
        """GraphProto: 1 node, 5 initializer, 15 sparse_initializer; NodeProto: 2 output;
        TensorProto: 8 name."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"graphs in graphs, more than {_MAX_DEPTH} deep")
        made: set[str] = set()
        scales: set[str] = set()  # names
        constants: dict[str, float] = {}  # the first value
        for number, part in protobuf.fields(graph):
            if isinstance(part, int):
                continue
            names: list[str] = []
            if number == 1:
                self._node(part, depth)
                names = [str(name, "utf-8") for name in protobuf.messages(part, 2) if len(name)]
                inputs = [str(name, "utf-8") for name in protobuf.messages(part, 1)]
                place = _SCALES.get(protobuf.text(part, 4))
                scales.update(inputs[place : place + 1] if place else ())
                for attribute in protobuf.messages(part, 5):
                    for tensor in protobuf.messages(attribute, 5):
                        constants.update((name, _first_float(tensor)) for name in names)
            elif number == 5:
                self._tensor(part)
                names = [protobuf.text(part, 8)]
                constants[names[0]] = _first_float(part)
            elif number == 15:
                raise OperatorError("refused: it has sparse weights; export it with dense ones")
            # OpenVINO takes them, and crashes in a later model of the process.
            if twice := [name for name in names if name in made]:
                raise ValueError(f"it makes {twice[0][:50]!r} twice")
            made.update(names)
        # The same of a scale of the batch that is not 1.
        if any(not constants.get(name, 1.0) == 1.0 for name in scales):
            raise ValueError("it resizes along the batch")

    def _node(self, node: memoryview, depth: int) -> None:
        """NodeProto: 4 op_type, 5 attribute, 7 domain; AttributeProto: 1 name, 3 i, 5 t, 6 g,
        8 ints, 10 tensors, 11 graphs."""
        kind = protobuf.text(node, 4)
        domain = protobuf.single(node, 7) or b""
        if isinstance(domain, int):
            raise ValueError("a domain that is not text")
        name = str(domain, "utf-8")
        if name not in ("", "ai.onnx"):
            raise OperatorError.of([f"{name}.{kind}"])
        check_operators([kind], ONNX)
        self.op_types.add(kind)
        for attribute in protobuf.messages(node, 5):
            if ("Conv" in kind or "Pool" in kind) and protobuf.text(attribute, 1) in _WINDOW:
                values = protobuf.integers(attribute, 3) + protobuf.integers(attribute, 8)
                if not all(0 <= value <= _MAX_WINDOW for value in values):
                    raise ValueError(f"{kind} with values such as {max(values, key=abs)}")
            for number, part in protobuf.fields(attribute):
                if isinstance(part, int):
                    continue
                if number in (5, 10):
                    self._tensor(part)
                elif number in (6, 11):
                    self._graph(part, depth + 1)

    def _tensor(self, tensor: memoryview) -> None:
        """TensorProto: 1 dims, 2 data_type, 9 raw_data, 13 external_data, 14 data_location."""
        kind, shape = protobuf.integer(tensor, 2, 0), protobuf.integers(tensor, 1)
        if kind not in _BITS:
            raise ValueError(f"weights of the type {kind}")
        if any(side < 0 for side in shape):
            raise ValueError(f"weights of shape {shape}"[:100])
        self.has_fp16 = self.has_fp16 or kind == _FLOAT16
        count = math.prod(shape)
        expected = (count * _BITS[kind] + 7) // 8
        location = protobuf.integer(tensor, 14, 0)
        if location == _EXTERNAL:
            self._external(tensor, expected)
            return
        if location or next(protobuf.messages(tensor, 13), None) is not None:
            raise ValueError("weights at two places")
        raw = protobuf.single(tensor, 9)
        if raw is not None:
            size = len(raw) if isinstance(raw, memoryview) else -1
            if size != expected:
                raise ValueError(f"weights of shape {shape} with {size} bytes"[:100])
        elif (found := sum(_counts(tensor))) != count * _parts(kind) and _BITS[kind] >= 8:
            raise ValueError(f"weights of shape {shape} with {found} values"[:100])

    def _external(self, tensor: memoryview, expected: int) -> None:
        """StringStringEntryProto: 1 key, 2 value."""
        entries = {}
        for entry in protobuf.messages(tensor, 13):
            key = protobuf.text(entry, 1)
            if key in entries:
                raise ValueError(f"weights in a file with two values of {key[:20]!r}")
            entries[key] = protobuf.text(entry, 2)
        name = entries.get("location", "")
        folder = self.path.parent
        file = folder / name
        plain = Path(name).name == name and not set(name) & set("\\\0")
        if not plain or not 0 < len(os.fsencode(name)) <= _LONGEST_NAME:
            raise OperatorError(
                f"refused: its weights are in {name[:100]!r}, expected a file in the same folder"
            )
        if not file.is_file():
            raise OperatorError(f"its weights {name!r} are missing; {_ADVICE}")
        if file.resolve().parent not in (folder.resolve(), self.path.resolve().parent):
            raise OperatorError(
                f"refused: its weights {name!r} are a link out of the folder; put the file there"
            )
        offset = int(entries.get("offset", "0")[:20])
        size = int(entries.get("length", str(expected))[:20])
        if size != expected or not 0 <= offset <= file.stat().st_size - size:
            raise ValueError(f"weights beyond the end of {name!r}, or of another size"[:200])
        self.weight_files.add(name)


def _first_float(tensor: memoryview) -> float:
    """The first value of float32 (TensorProto: 4 float_data, 9 raw_data); 1 without any."""
    if protobuf.integer(tensor, 2, 0) == _FLOAT32:
        for number, value in protobuf.fields(tensor):
            if number in (4, 9) and isinstance(value, memoryview) and len(value) >= 4:
                return float(np.frombuffer(value[:4], "<f4")[0])
    return 1.0


def _counts(tensor: memoryview) -> Iterator[int]:
    """Number of values in each field of them, packed or not."""
    for number, value in protobuf.fields(tensor):
        if number not in _NUMBERS:
            continue
        width = _NUMBERS[number]
        if isinstance(value, int):
            yield 1
        elif width:
            yield len(value) // width
        else:
            yield int(np.count_nonzero(np.frombuffer(value, np.uint8) < 128))


def _parts(kind: int) -> int:
    """Numbers that are stored for a value: complex ones have two."""
    return 2 if kind in (14, 15) else 1
