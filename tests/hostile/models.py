"""Exported models: programs of Paddle, ONNX and OpenVINO files, and bundles.

A part of the cases is a valid model with a few things wrong, which may pass all checks: it is
loaded and run by the backend.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tiny_two_input_model as two
import yaml
from onnx import ModelProto, TensorProto, helper
from paddle.base.proto import framework_pb2

from hostile.harness import Reader
from ppose.deploy.backends import paddle_trial, protobuf
from ppose.deploy.backends.open import open_session
from ppose.deploy.backends.operators import ONNX, OPENVINO, PADDLE
from ppose.deploy.backends.timing import example_inputs
from ppose.deploy.bundle import Bundle
from ppose.deploy.session_runner import load_estimator
from ppose.utils.shipped import shipped

_INTEGERS = [0, 1, -1, 2, 3, 7, 99, 255, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63)]
_FLOATS = [0.0, -1.0, 1e38, float("inf"), float("nan"), 1e-30]
_NAMES = ["x", "y", "image", "factor", "", "a" * 300, "@EMPTY@", "\ud7ff", "../../x", "\n"]
_FORBIDDEN = ["save", "save_combine", "load", "load_combine", "py_func", "while", "run_program"]
_PADDLE_OPS = [*sorted(PADDLE), "conditional_block", *_FORBIDDEN]
_ONNX_OPS = [*sorted(ONNX), "Loop", "Scan", "EPContext", "SequenceMap"]


@cache
def _valid(kind: str) -> dict[str, bytes]:
    """Suffix → content of the files of a valid model."""
    with tempfile.TemporaryDirectory() as folder:
        two.WRITERS[kind](Path(folder))
        return {path.suffix: path.read_bytes() for path in Path(folder).iterdir()}


def _damaged(rng: random.Random, content: bytes) -> bytes:
    """Bytes changed, cut off, repeated or moved."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        at = rng.randrange(max(1, len(data)))
        match rng.randrange(5):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                del data[at : at + rng.choice([1, 4, 1000])]
            case 2:
                data[at:at] = rng.choice([b"\xff" * 10, b"\x80" * 12, rng.randbytes(30), b"\0" * 9])
            case 3:
                data[at:at] = data[at : at + rng.choice([4, 100])]
            case _:
                data = data[:at] if rng.random() < 0.3 else data
    return bytes(data)


def _nested(depth: int, numbers: list[int]) -> bytes:
    """A message in a message, deep."""
    content = b""
    for i in range(depth):
        content = protobuf.field(numbers[i % len(numbers)], content[-(1 << 16) :])
    return content


# ---------------------------------------------------------------------- Paddle's programs
def _new_program(rng: random.Random) -> bytes:
    """A program of any operators, blocks, attributes and shapes."""
    program = framework_pb2.ProgramDesc()
    count = rng.choice([0, 1, 1, 1, 2, 5, 70])
    for index in range(count):
        block = program.blocks.add(idx=index, parent_idx=rng.choice([-1, 0, index - 1, index, 9]))
        for name in rng.sample(_NAMES, rng.randrange(len(_NAMES))):
            _add_variable(rng, block, name)
        if rng.random() < 0.8:
            for kind, slot in (("feed", "outputs"), ("fetch", "inputs")):
                op = block.ops.add(type=kind)
                getattr(op, slot).add(parameter="X").arguments.append(rng.choice(_NAMES))
                op.attrs.add(name="col", type=0, i=rng.choice([0, 0, 0, 1, 2**31 - 1, -1]))
        for _ in range(rng.randrange(4)):
            op = block.ops.add(type=rng.choice(_PADDLE_OPS))
            for slots in (op.inputs, op.outputs):
                slots.add(parameter=rng.choice(["X", "Out", "Input"])).arguments.extend(
                    rng.choices(_NAMES, k=rng.randrange(3))
                )
            for _ in range(rng.randrange(3)):
                _add_attribute(rng, op, count)
    return program.SerializeToString()


def _add_variable(rng: random.Random, block: Any, name: str) -> None:
    variable = block.vars.add(name=name, persistable=rng.random() < 0.3)
    variable.type.type = rng.choice([7, 7, 7, 9, 10, 13, 15])
    variable.type.dense_tensor.tensor.data_type = rng.choice([0, 2, 3, 5, 20, 23, 24])
    shape = rng.choices(_INTEGERS, k=rng.choice([0, 1, 4, 50]))
    variable.type.dense_tensor.tensor.dims.extend(shape)


def _add_attribute(rng: random.Random, op: Any, blocks: int) -> None:
    attribute = op.attrs.add(name=rng.choice(["axis", "sub_block", "file_path", "shape", "x"]))
    attribute.type = rng.choice([0, 2, 3, 5, 8, 8, 9, 10])
    attribute.i = rng.choice(_INTEGERS[:10])
    attribute.s = rng.choice(["/tmp/x", "a" * 1000])
    attribute.block_idx = rng.choice([-1, 0, 1, blocks - 1, blocks, 2**31 - 1])
    attribute.blocks_idx.extend(rng.choices([0, 1, 2], k=rng.randrange(3)))
    attribute.ints.extend(rng.choices(_INTEGERS[:10], k=rng.choice([0, 1, 4, 9])))


def _changed_program(rng: random.Random) -> bytes:
    """A valid program with a few attributes, names, operators and types changed."""
    program = framework_pb2.ProgramDesc.FromString(_valid("pdmodel")[".pdmodel"])
    block = program.blocks[0]
    for _ in range(rng.choice([1, 1, 2, 4])):
        op = rng.choice([op for op in block.ops if op.type not in ("feed", "fetch")])
        variable = rng.choice([v for v in block.vars if v.type.type == 7])
        match rng.randrange(8):
            case 0 | 1 if op.attrs:
                attribute = rng.choice(op.attrs)
                attribute.i, attribute.f = rng.choice(_INTEGERS[:10]), rng.choice(_FLOATS)
                attribute.b = not attribute.b
                attribute.ints[:] = rng.choices(_INTEGERS[:10], k=len(attribute.ints) or 1)
            case 2 if op.attrs:
                del op.attrs[rng.randrange(len(op.attrs))]
            case 3:
                op.type = rng.choice(sorted(PADDLE))
            case 4 if op.inputs:
                rng.choice(op.inputs).arguments[:] = [variable.name]
            case 5:
                variable.type.dense_tensor.tensor.data_type = rng.choice([0, 2, 3, 5, 6, 20])
            case 6 if variable.type.dense_tensor.tensor.dims:
                variable.type.dense_tensor.tensor.dims[0] = rng.choice([-1, 0, 5, 2**33])
            case _:
                operators = list(block.ops)
                operators.insert(rng.randrange(len(operators)), rng.choice(operators))
                del operators[rng.randrange(len(operators))]
                del block.ops[:]
                block.ops.extend(operators)
    return program.SerializeToString()


def _pdmodel(rng: random.Random) -> bytes:
    if rng.random() < 0.04:  # Paddle loads and runs most of these, in a process each
        return _changed_program(rng)
    match rng.randrange(8):
        case 0:
            return _damaged(rng, _valid("pdmodel")[".pdmodel"])
        case 4:
            return _nested(rng.choice([3, 1000, 20_000]), [1, 4, 4])
        case _:
            return _new_program(rng)


def _changed_json(rng: random.Random, content: Any, depth: int = 0) -> Any:
    """A value of a JSON tree replaced somewhere below."""
    if isinstance(content, dict | list) and content and (depth < 4 or rng.random() < 0.7):
        key = rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
        content[key] = _changed_json(rng, content[key], depth + 1)
        if rng.random() < 0.1:
            del content[key]
        return content
    others = [None, True, "", "x" * 1000, [], {}, 1.5, *_INTEGERS, 10**400, "1.save", [[[]]]]
    return rng.choice([*others, *(f"1.{kind}" for kind in rng.choices(_PADDLE_OPS, k=9))])


def _pir(rng: random.Random) -> bytes:
    text = _valid("json")[".json"]
    if rng.random() < 0.04:
        return json.dumps(_changed_json(rng, json.loads(text))).encode()
    match rng.randrange(8):
        case 0 | 1 | 2:
            return _damaged(rng, text)
        case 3:
            depth = rng.choice([50, 2000, 200_000])
            return rng.choice([b"[", b'{"program":', b'{"a":[']) * depth
        case 4:
            operators = [f'{{"#":"1.{rng.choice(_PADDLE_OPS)}","I":[],"O":[],"A":[]}}'] * 3
            blocks = f'{{"blocks":[{{"ops":[{",".join(operators)}]}}]}}'
            start = '{"base_code":{"magic":"pir","version":4},"program":{"regions":['
            return f"{start}{blocks}]}}}}".encode()
        case _:
            changed = _changed_json(rng, json.loads(text))
            return _damaged(rng, json.dumps(changed).encode())


def _pdiparams(rng: random.Random) -> bytes:
    valid = _valid("pdmodel")[".pdiparams"]
    if rng.random() < 0.6:
        return _damaged(rng, valid[:64]) + valid[64:]
    head = rng.choice([0, 1]).to_bytes(4, "little") + rng.choice([0, 1, 9, 2**62]).to_bytes(
        8, "little"
    )
    tensor = b"\x08" + bytes([rng.choice([5, 3, 99])])
    for side in rng.choices([3, 0, 2**62, 2**63, 2**64 - 1], k=rng.choice([1, 4, 200])):
        tensor += b"\x10" + protobuf._encoded(side)
    size = rng.choice([len(tensor), 0, 2**31 - 1, len(tensor) + 5])
    return head + bytes(4) + size.to_bytes(4, "little") + tensor + rng.randbytes(40)


# ------------------------------------------------------------------------------------ ONNX
def _tensor(rng: random.Random) -> TensorProto:
    tensor = TensorProto(name=rng.choice(["kernel", "form", "double", "t"]))
    tensor.data_type = rng.choice([1, 1, 7, 0, 8, 10, 22, 99])
    shape = rng.choice([[4, 3, 3, 3], [2], [], rng.choices(_INTEGERS, k=rng.choice([1, 4, 40]))])
    tensor.dims.extend(shape)
    match rng.randrange(4):
        case 0:
            tensor.raw_data = rng.randbytes(rng.choice([0, 8, 432]))
        case 1:
            tensor.float_data.extend([1.0] * rng.choice([0, 2, 108]))
        case 2:
            tensor.int64_data.extend(rng.choices(_INTEGERS, k=2))
        case _:
            tensor.data_location = TensorProto.EXTERNAL
            location = rng.choice(["../x", "/etc/passwd", "x\0", "", "case0.onnx", "a" * 5000])
            for key, value in (
                ("location", location),
                ("offset", rng.choice(["0", "-1", "9" * 99])),
            ):
                tensor.external_data.add(key=key, value=value)
    return tensor


def _changed_onnx(rng: random.Random) -> bytes:
    model = ModelProto.FromString(_valid("onnx")[".onnx"])
    graph = model.graph
    for _ in range(rng.choice([1, 1, 2, 4])):
        node = rng.choice(graph.node)
        match rng.randrange(9):
            case 0:
                node.op_type = rng.choice(_ONNX_OPS)
            case 1 if node.attribute:
                attribute = rng.choice(node.attribute)
                attribute.i = rng.choice(_INTEGERS)
                attribute.ints[:] = rng.choices(_INTEGERS, k=len(attribute.ints) or 1)
            case 2 if node.attribute:
                del node.attribute[rng.randrange(len(node.attribute))]
            case 3:
                graph.initializer.append(_tensor(rng))
            case 4:
                node.input[:] = rng.choices(
                    ["image", "factor", "kernel", "x", ""], k=len(node.input)
                )
            case 5:
                tensor = rng.choice(graph.initializer)
                tensor.dims[:] = rng.choices(_INTEGERS, k=rng.choice([0, 1, 4]))
            case 6:
                node.attribute.append(helper.make_attribute("value", _tensor(rng)))
            case 7:
                node.domain = rng.choice(["com.microsoft", "ai.onnx.ml", "x"])
            case _:
                graph.node.append(node)
    return model.SerializeToString()


def _onnx(rng: random.Random) -> bytes:
    match rng.randrange(6):
        case 0 | 1:
            return _damaged(rng, _valid("onnx")[".onnx"])
        case 2:
            # Graphs in attributes of nodes of graphs.
            return protobuf.field(7, _nested(rng.choice([5, 3000]), [6, 5, 1]))
        case _:
            return _changed_onnx(rng)


# -------------------------------------------------------------------------------- OpenVINO
def _xml(rng: random.Random) -> bytes:
    text = _valid("xml")[".xml"].decode()
    match rng.randrange(5):
        case 0:
            return _damaged(rng, text.encode())
        case 1:
            depth = rng.choice([10, 5000])
            return ("<net>" + "<layer type='Add' version='opset1'>" * depth).encode()
        case 2:
            entities = "".join(f"<!ENTITY e{i} '{f'&e{i - 1};' * 9}'>" for i in range(1, 12))
            return f"<!DOCTYPE net [<!ENTITY e0 'x'>{entities}]><net>&e11;</net>".encode()
        case _:
            pieces = text.split('"')
            for _ in range(rng.choice([1, 2, 5])):
                at = rng.randrange(len(pieces) // 2) * 2 + 1
                values = [*map(str, _INTEGERS), "", "f32", "u1", "opset99", "x" * 500, "1,1,1"]
                pieces[at] = rng.choice([*values, *rng.choices(sorted(OPENVINO), k=5)])
            return '"'.join(pieces).encode()


# --------------------------------------------------------------------------------- Bundles
def _pose_yml(rng: random.Random) -> bytes:
    """The description of a bundle that ships, with parts replaced."""
    about = json.loads(_description())
    for _ in range(rng.choice([1, 1, 3])):
        about = _changed_json(rng, about)
    if rng.random() < 0.2 and isinstance(about, dict) and isinstance(about.get("network"), dict):
        name = rng.choice(["../x", "/etc/passwd", "\0", "pose.yml"])
        about["network"]["files"] = {"onnx": [name]}
    text = yaml.safe_dump(about).encode()
    return _damaged(rng, text) if rng.random() < 0.2 else text


def _bundle() -> Path:
    return shipped("configs/weights/bundles/quickstart")


@cache
def _description() -> str:
    """`pose.yml` of a bundle that ships, as JSON, without what only informs."""
    about = yaml.safe_load((_bundle() / "pose.yml").read_text())
    return json.dumps(about | {"training": None, "skeleton": {}})


def _read_bundle(path: Path) -> object:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").symlink_to(_bundle() / "model.onnx")
        (folder / "pose.yml").write_bytes(path.read_bytes())
        return load_estimator(folder, backend="onnxruntime", threads=1)


def _read_bundle_of_a_model(path: Path) -> object:
    """A bundle whose hash is that of the hostile file."""
    with tempfile.TemporaryDirectory() as name:
        folder, content = Path(name), path.read_bytes()
        about = json.loads(_description())
        about["network"]["sha256"] = {"model.onnx": hashlib.sha256(content).hexdigest()}
        (folder / "pose.yml").write_text(yaml.safe_dump(about))
        (folder / "model.onnx").write_bytes(content)
        Bundle(folder)
        return load_estimator(folder, backend="onnxruntime", threads=1)


def _run(path: Path, backend: str, kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        model = Path(name, f"model.{kind}")
        for suffix, content in _valid(kind).items():
            model.with_suffix(suffix).write_bytes(content)
        model.with_suffix(path.suffix).write_bytes(path.read_bytes())
        session = open_session(model, backend=backend, threads=1)
        session.run(*example_inputs(session, size_wh=(24, 16)))


def _paddle_program(path: Path) -> None:
    # Users' machines may be slow; here a trial that hangs is to end before the harness ends it.
    paddle_trial._SECONDS = 5
    _run(path, "paddle", "pdmodel")


def _paddle_3_program(path: Path) -> None:
    paddle_trial._SECONDS = 5
    _run(path, "paddle", "json")


def _onnx_runtime(path: Path) -> None:
    _run(path, "onnxruntime", "onnx")


def _openvino(path: Path) -> None:
    _run(path, "openvino", "xml")


def _onnx_in_openvino(path: Path) -> None:
    _run(path, "openvino", "onnx")


def _paddle_in_openvino(path: Path) -> None:
    _run(path, "openvino", "pdmodel")


READERS = [
    Reader("pdmodel", ".pdmodel", _pdmodel, _paddle_program),
    Reader("pdmodel in OpenVINO", ".pdmodel", _pdmodel, _paddle_in_openvino),
    Reader("program of Paddle 3", ".json", _pir, _paddle_3_program),
    Reader("pdiparams", ".pdiparams", _pdiparams, _paddle_program),
    Reader("onnx", ".onnx", _onnx, _onnx_runtime),
    Reader("onnx in OpenVINO", ".onnx", _onnx, _onnx_in_openvino),
    Reader("OpenVINO", ".xml", _xml, _openvino),
    Reader("pose.yml of a bundle", ".yml", _pose_yml, _read_bundle),
    Reader("model of a bundle", ".onnx", _changed_onnx, _read_bundle_of_a_model),
]
