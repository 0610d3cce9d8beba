"""Paddle Inference: its engines, int8 kernels, and file formats."""

import os
import re
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
import tiny_two_input_model as two
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from plain_export import export_network
from tiny_branching_network import (
    SIZE_WH,
    branching_network,
    error,
    outputs,
    quantized,
    random_images,
)

from ppose.compression.quantize import quantized_layers
from ppose.deploy.backends import paddle_engines, protobuf
from ppose.deploy.backends.open import open_session
from ppose.deploy.backends.paddle import PaddleSession
from ppose.deploy.backends.paddle_engines import ENGINES, openvino_unsupported_reason
from ppose.deploy.backends.paddle_files import ProgramInfo, read_program, with_unique_variable
from ppose.deploy.backends.paddle_kernels import int8_kernels
from ppose.deploy.backends.session import TensorInfo
from ppose.deploy.backends.settings import BackendError, SettingError
from ppose.export.pdmodel import trace
from ppose.utils.cpu import usable_cores


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A network exported to the folders `float` and `int8`."""
    folder = tmp_path_factory.mktemp("exports")
    export_network(branching_network(), folder / "float", SIZE_WH)
    export_network(quantized(branching_network()), folder / "int8", SIZE_WH)
    return folder


@pytest.mark.parametrize("engine", ["plain", "onednn", None])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_float_results_are_independent_of_settings(exports, engine, threads):
    path = exports / "float" / "model.pdmodel"
    session = PaddleSession(path, engine=engine, threads=threads)
    assert (
        error(session.run(random_images())[0], outputs(branching_network(), random_images())) < 1e-4
    )


def test_engines_differ_in_rounding(exports):
    """Equal results would mean that two names stand for the same engine."""
    path = exports / "float" / "model.pdmodel"
    found = [PaddleSession(path, engine=engine).run(random_images())[0] for engine in ENGINES]
    assert (found[0] != found[1]).any()
    assert (found[1] != found[2]).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_changing_batch_sizes(exports, engine):
    session = PaddleSession(exports / "float" / "model.pdmodel", engine=engine)
    for count in (1, 4, 2):
        (found,) = session.run(random_images(count))
        assert error(found, outputs(branching_network(), random_images(count))) < 1e-4


@pytest.fixture
def openvino_pool(monkeypatch):
    """An empty pool of OpenVINO predictors, as in a new process."""
    pool = paddle_engines.SharedPredictors()
    monkeypatch.setattr("ppose.deploy.backends.paddle._OPENVINO", pool)
    return pool


def test_openvino_runs_a_limited_number_of_models(exports, tmp_path, openvino_pool):
    openvino_pool.MAX_PREDICTORS = 2
    files = [exports / "float" / "model.pdmodel"]
    for name in "ab":
        shutil.copytree(exports / "float", tmp_path / name)
        files.append(tmp_path / name / "model.pdmodel")
    for _ in range(2):
        engines = [PaddleSession(file).engine for file in files]
        assert engines == ["openvino", "openvino", "onednn"]
    assert PaddleSession(files[2], engine="openvino").engine == "openvino"


def test_default_engine(exports, tmp_path, openvino_pool):
    assert PaddleSession(exports / "float" / "model.pdmodel").engine == "openvino"
    int8 = exports / "int8" / "model.pdmodel"
    assert PaddleSession(int8).engine == "onednn"
    assert PaddleSession(int8, precision="int8").engine == "onednn"
    assert PaddleSession(two.write_json(tmp_path)).engine == "onednn"
    assert PaddleSession(two.write_pdmodel(tmp_path)).engine == "onednn"  # dynamic size


PLAIN = ProgramInfo(frozenset({"feed", "fetch", "conv2d"}), {}, [], conv_output="a")
QUANTIZED = replace(PLAIN, op_types=PLAIN.op_types | {"quantize_linear", "dequantize_linear"})
ANY_SIZE = TensorInfo("images", "float32", (-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("program", "setting", "why"),
    [
        (PLAIN, {}, ""),
        (PLAIN, {"threads": usable_cores()}, ""),
        (PLAIN, {"threads": usable_cores() + 1}, r"1 thread or all \d+, not"),
        (QUANTIZED, {"precision": "int8"}, "rounds differently than training"),
        (QUANTIZED, {}, "operators dequantize_linear, quantize_linear"),
        (PLAIN, {"legacy": False}, "the legacy format, .pdmodel"),
        (replace(PLAIN, op_types=PLAIN.op_types | {"while"}), {}, "not verified for .* while"),
        (replace(PLAIN, tensors={"images": ANY_SIZE}), {}, "a fixed image size"),
        (replace(PLAIN, conv_output=""), {}, "a network with convolutions"),
    ],
)
def test_programs_that_openvino_does_not_support(program, setting, why):
    found = openvino_unsupported_reason(
        program, **{"legacy": True, "precision": "fp32", "threads": 1, **setting}
    )
    assert re.search(why, found) if why else found == ""


def test_openvino_threads_do_not_share_cores_with_other_processes(monkeypatch):
    """It pins several threads to the first cores."""
    monkeypatch.setattr(paddle_engines, "usable_cores", lambda: 4)
    given = {"legacy": True, "precision": "fp32"}
    found = {n: openvino_unsupported_reason(PLAIN, threads=n, **given) for n in (1, 2, 4)}
    assert found == {1: "", 2: "it needs 1 thread or all 4, not 2", 4: ""}


def test_unsupported_engine(exports):
    with pytest.raises(BackendError, match=r"the engine openvino cannot run it: .*quantize_linear"):
        PaddleSession(exports / "int8" / "model.pdmodel", engine="openvino")
    with pytest.raises(SettingError, match="engine: expected one of openvino, onednn, plain"):
        PaddleSession(exports / "float" / "model.pdmodel", engine="tensorrt")


def test_openvino_sessions_are_independent(tmp_path):
    """Networks with different weights and the same names, concurrently and in turn."""
    networks = [branching_network(), branching_network()]
    for weight in networks[1].parameters():
        weight.set_value(1.5 * weight)
    for i, network in enumerate(networks):
        export_network(network, tmp_path / str(i), SIZE_WH)
    files = [tmp_path / str(i) / "model.pdmodel" for i in (0, 1, 0)]
    sessions = [PaddleSession(file, engine="openvino") for file in files]
    expected = [outputs(networks[i], random_images()) for i in (0, 1, 0)]
    assert error(expected[0], expected[1]) > 0.1
    for session, one in zip(sessions, expected, strict=True):
        assert error(session.run(random_images())[0], one) < 1e-4
    path = files[0].with_suffix(".pdiparams")
    contents = [path.read_bytes(), files[1].with_suffix(".pdiparams").read_bytes()]
    for i in (1, 0):  # same file, same modification time
        before = path.stat()
        path.write_bytes(contents[i])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        changed = PaddleSession(files[0], engine="openvino")
        assert error(changed.run(random_images())[0], expected[i]) < 1e-4
    assert error(sessions[0].run(random_images())[0], expected[0]) < 1e-4


def test_each_openvino_program_has_a_unique_variable(exports, tmp_path, openvino_pool, monkeypatch):
    """Paddle identifies programs by variable names and by addresses, which are reused."""
    written = []

    def recorded(content, program, name):
        made = with_unique_variable(content, program, name)
        path = tmp_path / f"{len(written)}.pdmodel"
        path.write_bytes(made)
        written.append(read_program(path))
        return made

    monkeypatch.setattr(paddle_engines, "with_unique_variable", recorded)
    file = exports / "float" / "model.pdmodel"
    for threads in {1, usable_cores()}:
        PaddleSession(file, engine="openvino", threads=threads)
    program = read_program(file)
    added = [made.tensors.keys() - program.tensors.keys() for made in written]
    assert all(len(names) == 1 for names in added)
    assert len(set.union(*added)) == len(added) == len({1, usable_cores()})
    assert all(made.weights == program.weights for made in written)


def test_openvino_sessions_in_several_threads(exports):
    file = exports / "float" / "model.pdmodel"
    given = [random_images(count, seed=count) for count in (1, 2, 3, 4)]
    expected = [outputs(branching_network(), one) for one in given]

    def largest_error(i):
        session = PaddleSession(file, engine="openvino")
        return max(error(session.run(given[i])[0], expected[i]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(largest_error, range(4))) < 1e-4


def test_openvino_leaves_no_files(exports, tmp_path, monkeypatch):
    shutil.copytree(exports / "float", tmp_path / "model")
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    session = PaddleSession(tmp_path / "model" / "model.pdmodel", engine="openvino")
    session.run(random_images())
    assert not [*work.iterdir(), *temporary.iterdir()]
    assert len(list((tmp_path / "model").iterdir())) == 2


def test_openvino_without_temporary_folder(exports, tmp_path, monkeypatch):
    shutil.copytree(exports / "float", tmp_path / "model")
    file = tmp_path / "model" / "model.pdmodel"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert PaddleSession(file).engine == "onednn"
    with pytest.raises(BackendError, match=r"openvino cannot run it: .*temporary.*nowhere"):
        PaddleSession(file, engine="openvino")


class FixedBatch(paddle.nn.Layer):
    """Adds a parameter with a batch of 4; (N, 3, 16, 16) → (N, 4, 16, 16)."""

    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3, padding=1)
        self.more = self.create_parameter([4, 4, 16, 16])

    def forward(self, x):
        return self.conv(x) + self.more


def test_failed_run_in_openvino(tmp_path):
    """Paddle itself returns the output of the previous run."""
    network = FixedBatch().eval()
    program = trace(network, (-1, 3, 16, 16))
    program.save(tmp_path / "four.pdmodel", tmp_path / "four.pdiparams")
    with pytest.raises(BackendError, match="must all have a dynamic batch size"):
        PaddleSession(tmp_path / "four.pdmodel", engine="openvino")
    (result,) = program.outputs
    program.shapes[result] = (-1, 4, 16, 16)
    program.save(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
    file = tmp_path / "model.pdmodel"
    session = PaddleSession(file, engine="openvino")
    (found,) = session.run(random_images(4, (16, 16)))
    assert error(found, outputs(network, random_images(4, (16, 16)))) < 1e-4
    with pytest.raises(BackendError, match="its OpenVINO returned 4 outputs for 3 inputs"):
        session.run(random_images(3, (16, 16)))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_threads(exports):
    code = (
        "import os, sys\n"
        "from ppose.deploy.backends.paddle import PaddleSession\n"
        "from ppose.deploy.backends.timing import example_inputs\n"
        "for threads in (1, 3):\n"
        "    session = PaddleSession(sys.argv[1], threads=threads, engine='onednn')\n"
        "    before = len(os.listdir('/proc/self/task'))\n"
        "    session.run(*example_inputs(session))\n"
        "    print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(exports / "float" / "model.pdmodel")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["0", "2"]


def test_int8_model_in_fp32(exports):
    expected = outputs(quantized(branching_network()), random_images())
    (found,) = open_session(exports / "int8", backend="paddle").run(random_images())
    assert np.abs(found - expected).mean() < 0.0006 * np.ptp(expected)


def test_int8_kernels(exports):
    convolutions = sum(
        x.weight.ndim == 4 for x in quantized_layers(quantized(branching_network())).values()
    )
    runs = convolutions + 1  # one layer runs twice
    found = int8_kernels(exports / "int8")
    assert (found.int8, found.float32) == (runs, 0)
    assert sum(found.names.values()) == runs
    found = int8_kernels(exports / "int8", precision="fp32")
    assert (found.int8, found.float32) == (0, runs)


@pytest.mark.parametrize("engine", ["openvino", "onednn"])
def test_kernels_of_float_networks(exports, engine):
    path = exports / "float" / "model.pdmodel"
    found = int8_kernels(path, precision="fp32", engine=engine)
    assert (found.int8, found.float32) == (0, int8_kernels(exports / "int8").int8)


def test_kernels_of_a_json_model(tmp_path):
    two.write_json(tmp_path)
    found = int8_kernels(tmp_path, precision="fp32")
    assert (found.int8, found.float32) == (0, 1)


def test_kernels_of_an_invalid_model(exports, tmp_path):
    with pytest.raises(BackendError, match=r"model.pdmodel: cannot be run: .*a float model"):
        int8_kernels(exports / "float")
    with pytest.raises(BackendError, match="nowhere: no such file"):
        int8_kernels(tmp_path / "nowhere")


def test_excluded_layers_run_in_float(tmp_path):
    export_network(quantized(branching_network(), exclude=["stem", "down"]), tmp_path, SIZE_WH)
    found = int8_kernels(tmp_path)
    assert found.float32 == 2
    assert found.int8 > 2


def test_unsupported_settings_on_a_cpu(exports):
    path = exports / "int8" / "model.pdmodel"
    with pytest.raises(ValueError, match="needs the engine onednn"):
        PaddleSession(path, precision="int8", engine="plain")
    with pytest.raises(BackendError, match=r"fp16 needs a GPU; on a CPU use fp32, or int8"):
        PaddleSession(path, precision="fp16")


def test_nothing_is_printed(exports, capfd):
    for name, precision in (("float", "fp32"), ("int8", "int8")):
        open_session(exports / name, backend="paddle", precision=precision).run(random_images())
    assert capfd.readouterr() == ("", "")


class Normed(paddle.nn.Layer):
    """Convolution and batch norm, which Paddle fuses; x (N, 3, 16, 16) → (N, 4, 16, 16)."""

    def __init__(self):
        super().__init__()
        paddle.seed(0)
        self.conv = paddle.nn.Conv2D(3, 4, 3, padding=1, bias_attr=False)
        self.norm = paddle.nn.BatchNorm2D(4)
        self.norm._mean.set_value(np.arange(4, dtype=np.float32))

    def forward(self, x):
        return paddle.nn.functional.relu(self.norm(self.conv(x)))


def test_networks_with_batch_norms(tmp_path):
    network = Normed().eval()
    x = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    spec = [paddle.static.InputSpec([None, 3, 16, 16], "float32", "x")]
    network = paddle.jit.to_static(network, full_graph=True)
    paddle.jit.save(network, str(tmp_path / "model"), input_spec=spec)
    (found,) = open_session(tmp_path, backend="paddle").run(x)
    np.testing.assert_allclose(found, outputs(Normed().eval(), x), atol=1e-5)


def test_read_program(exports):
    program = read_program(exports / "int8" / "model.pdmodel")
    assert {"conv2d", "quantize_linear", "dequantize_linear"} <= program.op_types
    assert program.tensors["images"] == TensorInfo("images", "float32", (-1, 3, *SIZE_WH[::-1]))
    types = {dtype for dtype, _ in program.weights}
    assert types == {"float32", "int8", "int32"}
    program = read_program(exports / "float" / "model.pdmodel")
    assert "quantize_linear" not in program.op_types
    assert {dtype for dtype, _ in program.weights} == {"float32"}


SIDES = '{"TT": {"D": [{"#": "0.t_f32"}, ["1"]]}}'


def operators(text):
    blocks = f'[{{"ops": [{text}]}}]'
    return (
        f'{{"base_code": {{"magic": "pir"}}, "program": {{"regions": [{{"blocks": {blocks}}}]}}}}'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "KeyError: 'base_code'"),
        ("[1]", "TypeError"),
        ('{"base_code": {"magic": "other"}}', "not a program of Paddle 3"),
        ('{"base_code": {"magic": "pir"}, "program": {"regions": []}}', "not enough values"),
        ("[" * 200_000, "RecursionError"),
        (operators('{"#": 1}'), "AttributeError"),
        (operators('{"#": "1.data", "A": []}'), "ValueError: an operator data without a name"),
        (operators('{"#": "1.data", "A": [{"N": "name", "AT": {"D": []}}]}'), "without a name"),
        (operators(f'{{"#": "p", "A": [0, 0, 0, "w"], "O": {SIDES}}}'), r"of shape \['1'\]"),
    ],
)
def test_invalid_json(tmp_path, text, message):
    (tmp_path / "model.json").write_text(text)
    (tmp_path / "model.pdiparams").write_bytes(b"")
    with pytest.raises(
        BackendError, match=rf"model.json: damaged, or not a Paddle model.*{message}"
    ):
        open_session(tmp_path, backend="paddle")


@pytest.mark.parametrize("write", [two.write_pdmodel, two.write_json])
def test_weights_that_do_not_match(tmp_path, write):
    write(tmp_path)
    path = tmp_path / "model.pdiparams"
    content = path.read_bytes()
    first = struct.unpack_from("<i", content, 16)[0]
    for changed, message in (
        (content + content, "another model: it has more tensors"),
        (content[: 20 + first], "damaged at tensor 0 of 1 .the file ends within it"),
        (b"\x01" + content[1:], "not a tensor"),
        (content.replace(b"\x10\x04\x10\x03", b"\x10\x03\x10\x04", 1), "tensor 0 is float32"),
    ):
        path.write_bytes(changed)
        with pytest.raises(BackendError, match=message):
            open_session(tmp_path, backend="paddle")
    path.write_bytes(content)
    open_session(tmp_path, backend="paddle")


@pytest.mark.parametrize("sides", [[2**60], [2**62], [2**62, 2**62]])
def test_weights_of_impossible_size(tmp_path, sides):
    def varint(value):
        low, rest = value & 127, value >> 7
        return bytes([low | 128]) + varint(rest) if rest else bytes([low])

    two.write_pdmodel(tmp_path)
    tensor = b"\x08\x05" + b"".join(b"\x10" + varint(side) for side in sides)
    head = struct.pack("<IQIi", 0, 0, 0, len(tensor))
    (tmp_path / "model.pdiparams").write_bytes(head + tensor)
    with pytest.raises(BackendError, match="damaged at tensor 0 of 1 .a tensor of shape"):
        open_session(tmp_path, backend="paddle")


@given(number=st.integers(1, 2**20), content=st.binary(max_size=300))
def test_protobuf_fields_round_trip(number, content):
    written = protobuf.field(number, content)
    assert list(protobuf.fields(memoryview(written))) == [(number, content)]
