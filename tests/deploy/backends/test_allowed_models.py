"""Models that would do more than compute are refused before a backend sees them."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import tiny_two_input_model as two
import yaml
from onnx import TensorProto, helper, numpy_helper
from paddle.base.proto import framework_pb2

from ppose.deploy.backends import paddle_trial, protobuf
from ppose.deploy.backends.model_files import SUFFIXES
from ppose.deploy.backends.open import open_session
from ppose.deploy.backends.paddle import PaddleSession
from ppose.deploy.backends.settings import BACKENDS, BackendError
from ppose.deploy.bundle import Bundle, BundleError
from ppose.deploy.detection.detector import load_detector
from ppose.utils.shipped import shipped

BACKENDS_OF = {
    kind: ["auto", *(b for b in BACKENDS if f".{kind}" in SUFFIXES[b])]
    for kind in ("pdmodel", "json", "onnx", "xml")
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder for each format with a model in it."""
    folder = tmp_path_factory.mktemp("models")
    for kind, write in two.WRITERS.items():
        (folder / kind).mkdir()
        write(folder / kind)
    return folder


@pytest.fixture
def copy(models, tmp_path):
    """Copies the model of a format to a folder that a test may change."""
    return lambda kind: shutil.copytree(models / kind, tmp_path / kind) / f"model.{kind}"


def _refused(path, kind, *messages):
    for backend in BACKENDS_OF[kind]:
        with pytest.raises(BackendError) as failed:
            open_session(path.parent, backend=backend)
        for message in messages:
            assert message in str(failed.value)
        assert "\n" not in str(failed.value)


def _add_saving(path, written, operator="save", attribute="file_path"):
    """Adds an operator that writes the network's input to a file."""
    program = framework_pb2.ProgramDesc.FromString(path.read_bytes())
    operators = program.blocks[0].ops
    at = max(i for i, op in enumerate(operators) if op.type == "feed") + 1
    added = framework_pb2.OpDesc(type=operator)
    added.inputs.add(parameter="X").arguments.append("factor")
    added.attrs.add(name=attribute, type=framework_pb2.STRING, s=str(written))
    added.attrs.add(name="overwrite", type=framework_pb2.BOOLEAN, b=True)
    changed = [*operators[:at], added, *operators[at:]]
    del operators[:]
    operators.extend(changed)
    path.write_bytes(program.SerializeToString())


@pytest.mark.parametrize("operator", ["save", "save_combine", "load_combine", "py_func", "while"])
def test_programs_that_write_files(copy, tmp_path, operator):
    path, written = copy("pdmodel"), tmp_path / "written"
    _add_saving(path, written, operator)
    _refused(path, "pdmodel", f"{path}: refused: it has the operator '{operator}'")
    with pytest.raises(BackendError, match="refused"):
        load_detector(path.parent)
    assert not written.exists()


def test_the_operator_would_write(copy, tmp_path):
    """What the test above prevents: Paddle itself runs such a program."""
    path, written = copy("pdmodel"), tmp_path / "written"
    _add_saving(path, written)
    code = (
        "import sys, numpy as np; from paddle.inference import Config, create_predictor\n"
        "p = create_predictor(Config(*sys.argv[1:]))\n"
        "p.get_input_handle('image').copy_from_cpu(np.zeros((1, 8, 8, 3), np.uint8))\n"
        "p.get_input_handle('factor').copy_from_cpu(np.ones((1, 2), np.float32)); p.run()"
    )
    files = [str(path), str(path.with_suffix(".pdiparams"))]
    subprocess.run([sys.executable, "-c", code, *files], capture_output=True, timeout=120)
    assert written.is_file()


def test_sub_blocks_are_checked(copy):
    path = copy("pdmodel")
    program = framework_pb2.ProgramDesc.FromString(path.read_bytes())
    branch = program.blocks[0].ops.add(type="conditional_block")
    branch.attrs.add(name="sub_block", type=framework_pb2.BLOCK, block_idx=1)
    program.blocks.add(idx=1, parent_idx=0).ops.add(type="save")
    path.write_bytes(program.SerializeToString())
    _refused(path, "pdmodel", "the operator 'save'")
    program.blocks[1].ops[0].type = "relu"
    for index in (0, 7):
        branch.attrs[0].block_idx = index
        path.write_bytes(program.SerializeToString())
        _refused(path, "pdmodel", "not below the block that runs it")
    branch.attrs[0].block_idx = 1
    program.blocks[0].ops.append(branch)
    path.write_bytes(program.SerializeToString())
    _refused(path, "pdmodel", "run at two places")


def test_a_field_that_is_given_twice(copy):
    """Parsers take the first or the last: the type of an operator would not be what was checked."""
    path = copy("pdmodel")
    relu = protobuf.field(3, b"relu")
    content = path.read_bytes()
    assert content.count(relu) == 1
    program = framework_pb2.ProgramDesc.FromString(content)
    doubled = relu + protobuf.field(3, b"save")
    ops = [
        protobuf.field(4, op.SerializeToString().replace(relu, doubled))
        for op in program.blocks[0].ops
    ]
    del program.blocks[0].ops[:]
    block = program.blocks[0].SerializeToString() + b"".join(ops)
    program.ClearField("blocks")
    path.write_bytes(protobuf.field(1, block) + program.SerializeToString())
    _refused(path, "pdmodel", "field 3 is given 2 times")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"1.relu"', '"1.save"', "the operator 'save'"),
        ('"1.relu"', '"1.py_func"', "the operator 'py_func'"),
        ('"1.relu"', '"3.relu"', "the operator '3.relu'"),
        ('{"#":"1.relu"', '{"regions":[],"#":"1.relu"', "the operator '1.relu'"),
        ('{"#":"1.relu"', '{"#":"1.save","#":"1.relu"', "a key twice"),
    ],
)
def test_programs_of_paddle_3(copy, old, new, message):
    path = copy("json")
    text = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
    assert old in text
    path.write_text(text.replace(old, new, 1))
    _refused(path, "json", message)


def _changed(path, change):
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


def _loop(model):
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["n"], body=body))


def _hidden(model):
    """An operator of another domain in the branch of a branch."""
    node = helper.make_node("Hidden", ["x"], ["y"], domain="com.microsoft")
    for _ in range(2):
        graph = helper.make_graph([node], "branch", [], [])
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph)
    model.graph.node.append(node)


def _resized_batch(model, constant=False):
    """OpenVINO takes it, and crashes in a later model of the process."""
    [scales] = [tensor for tensor in model.graph.initializer if tensor.name == "double"]
    changed = np.array([1.0000285, 1, 2, 2], np.float32)
    scales.CopyFrom(numpy_helper.from_array(changed, "double"))
    if constant:
        model.graph.initializer.remove(scales)
        model.graph.node.insert(0, helper.make_node("Constant", [], ["double"], value=scales))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.graph.node[3].attribute[0].ints.__setitem__(2, -(2**63)),
            "Conv with values such as -9223372036854775808",
        ),
        (_resized_batch, "it resizes along the batch"),
        (lambda m: _resized_batch(m, constant=True), "it resizes along the batch"),
        (lambda m: setattr(m.graph.node[4], "domain", "custom"), "the operator 'custom.Relu'"),
        (lambda m: setattr(m.graph.node[4], "op_type", "EPContext"), "the operator 'EPContext'"),
        (_loop, "the operator 'Loop'"),
        (_hidden, "the operator 'com.microsoft.Hidden'"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[1]), "it makes 'kernel' twice"),
        (lambda m: m.graph.node.append(m.graph.node[4]), "it makes 'high' twice"),
        (lambda m: m.functions.add(name="f", domain="f"), "it has functions"),
        (lambda m: m.graph.initializer[1].dims.append(2), "weights of shape [4, 3, 3, 3, 2] with"),
        (lambda m: m.graph.initializer[1].dims.append(-1), "weights of shape [4, 3, 3, 3, -1]"),
        (lambda m: setattr(m.graph.initializer[1], "data_type", 99), "weights of the type 99"),
    ],
)
def test_onnx_models(copy, change, message):
    path = copy("onnx")
    _changed(path, change)
    _refused(path, "onnx", message)


@pytest.mark.parametrize(
    ("location", "offset", "message"),
    [
        ("../outside.bin", 0, "expected a file in the same folder"),
        ("/etc/passwd", 0, "expected a file in the same folder"),
        ("link.bin", 0, "a link out of the folder"),
        ("missing.bin", 0, "are missing"),
        ("inside.bin", 4, "beyond the end"),
        ("inside.bin", -4, "beyond the end"),
    ],
)
def test_onnx_weights_in_other_files(copy, tmp_path, location, offset, message):
    path = copy("onnx")
    for file in (tmp_path / "outside.bin", path.parent / "inside.bin"):
        file.write_bytes(two.KERNEL.tobytes())
    (path.parent / "link.bin").symlink_to(tmp_path / "outside.bin")

    def change(model):
        kernel = model.graph.initializer[1]
        kernel.ClearField("raw_data")
        kernel.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(offset))):
            kernel.external_data.add(key=key, value=value)

    _changed(path, change)
    _refused(path, "onnx", message)


def test_every_file_of_a_bundle_has_a_hash(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    path = two.write_onnx(folder, weights="weights.bin")
    about = yaml.safe_load((shipped("configs/weights/bundles/quickstart") / "pose.yml").read_text())
    about["network"]["sha256"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "pose.yml").write_text(yaml.safe_dump(about))
    with pytest.raises(BundleError, match="its weights 'weights.bin' are not in network.files"):
        Bundle(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('type="ReLU"', 'type="Loop"', "the operator 'Loop'"),
        ('version="opset1"', 'version="extension"', "the operator 'extension."),
        ('size="', 'size="9', "a constant of shape"),
        ('offset="', 'offset="99', "a constant beyond the end of its .bin"),
        ("<net ", "<!DOCTYPE net [<!ENTITY a 'b'>]><net ", "it has a document type"),
    ],
)
def test_openvino_models(copy, old, new, message):
    path = copy("xml")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    _refused(path, "xml", message)


def test_a_program_that_crashes(copy, monkeypatch):
    """The process of the trial dies, and this one goes on."""
    path = copy("pdmodel")
    monkeypatch.setattr(paddle_trial, "_own", set())
    monkeypatch.setattr(
        paddle_trial, "_CODE", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    )
    with pytest.raises(BackendError, match=r"model.pdmodel: paddle: it crashed \(SIGSEGV\) when"):
        PaddleSession(path)


def test_a_trial_is_remembered(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(paddle_trial, "_own", set())
    path, runs = copy("pdmodel"), []
    real = paddle_trial._run
    monkeypatch.setattr(paddle_trial, "_run", lambda given: runs.append(given) or real(given))
    for _ in range(2):
        paddle_trial._own.clear()
        session = PaddleSession(path, threads=1)
    np.testing.assert_allclose(
        session.run(*two.inputs())[0], two.expected(*two.inputs())[0], atol=1e-5
    )
    assert len(runs) == 1
    assert len(list((tmp_path / "cache" / "ppose" / "paddle_trials").iterdir())) == 1
