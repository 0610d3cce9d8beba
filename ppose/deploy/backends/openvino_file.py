"""Reads and checks the files of OpenVINO's own format (`.xml`, `.bin`) without OpenVINO."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.parsers import expat

from ppose.deploy.backends.operators import OPENVINO, OperatorError, check_operators
from ppose.deploy.backends.settings import BackendError

_BITS = {
    **{"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8},
    **{"i64": 64, "i32": 32, "i16": 16, "i8": 8, "i4": 4, "boolean": 8, "nf4": 4, "f4e2m1": 4},
    **{"u64": 64, "u32": 32, "u16": 16, "u8": 8, "u6": 6, "u4": 4, "u3": 3, "u2": 2, "u1": 1},
}
_MAX_DEPTH = 64
_MAX_BYTES = 1 << 28


def check_openvino(path: Path) -> None:
    """Checks the operators of a model, and that its constants are inside its `.bin`.

    Raises:
        BackendError: not such a model, damaged, or with an operator that is not allowed.
    """
    weights = path.with_suffix(".bin")
    reader = _Reader(weights.stat().st_size if weights.is_file() else 0)
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.doctype
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES >> 20} MB")
        with path.open("rb") as file:
            parser.ParseFile(file)
        if not reader.layers:
            raise ValueError("it has no layers")
    except OperatorError as error:
        raise BackendError(f"{path}: {error}") from None
    except (ValueError, KeyError, expat.ExpatError) as error:
        raise BackendError(
            f"{path}: damaged, or not an OpenVINO model ({error}); copy or export the model again"
        ) from None


class _Reader:
    """Receives the elements of the XML."""

    def __init__(self, weight_bytes: int):
        self.layers = 0
        self._weight_bytes = weight_bytes
        self._open: list[str] = []
        self._kind = ""

    def doctype(self, *_: object) -> None:
        raise ValueError("it has a document type")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "net":
            raise ValueError(f"its root is {name[:50]!r}, not a network")
        self._open.append(name)
        if len(self._open) > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} elements in each other")
        if name == "layer":
            self._kind, version = attributes["type"], attributes.get("version", "")
            if not re.fullmatch(r"opset\d{1,2}", version):
                raise OperatorError.of([f"{version}.{self._kind}"])
            check_operators([self._kind], OPENVINO)
            self.layers += 1
        elif name == "data" and self._kind == "Const" and self._open[-2:-1] == ["layer"]:
            self._check_constant(attributes)

    def end(self, name: str) -> None:
        self._open.pop()

    def _check_constant(self, attributes: dict[str, str]) -> None:
        kind = attributes["element_type"]
        if kind not in _BITS:
            raise ValueError(f"a constant of the type {kind[:50]!r}")
        shape = [_number(side) for side in attributes.get("shape", "").split(",") if side.strip()]
        offset, size = _number(attributes["offset"]), _number(attributes["size"])
        if (math.prod(shape) * _BITS[kind] + 7) // 8 != size:
            raise ValueError(f"a constant of shape {shape} with {size} bytes"[:100])
        if offset + size > self._weight_bytes:
            raise ValueError("a constant beyond the end of its .bin")


def _number(text: str) -> int:
    if not re.fullmatch(r"\s*\d{1,15}\s*", text):
        raise ValueError(f"expected a number, found {text[:50]!r}")
    return int(text)
