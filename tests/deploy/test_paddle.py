"""What is Paddle's alone: oneDNN, its int8 kernels, and both forms of files."""

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
import two
from branchy import SIZE_WH, branchy, error, outputs, pictures, quantized
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from plain_export import export_network

from ppose.cpu import usable_cores
from ppose.deploy.backends import paddle_engines, wire
from ppose.deploy.backends.paddle import PaddleSession
from ppose.deploy.backends.paddle_engines import ENGINES, why_not_openvino
from ppose.deploy.backends.paddle_files import Program, read_program, with_own_name
from ppose.deploy.backends.paddle_kernels import int8_kernels
from ppose.deploy.session import BackendError, SettingError, Tensor, open_session
from ppose.export.pdmodel import trace
from ppose.slim.quantize import quantized_layers


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Folders of one network, `float` and `int8`."""
    folder = tmp_path_factory.mktemp("exports")
    export_network(branchy(), folder / "float", SIZE_WH)
    export_network(quantized(branchy()), folder / "int8", SIZE_WH)
    return folder


@pytest.mark.parametrize("engine", ["plain", "onednn", None])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_settings_change_no_float_result(exports, engine, threads):
    path = exports / "float" / "model.pdmodel"
    session = PaddleSession(path, engine=engine, threads=threads)
    assert error(session.run(pictures())[0], outputs(branchy(), pictures())) < 1e-4


def test_engines_differ_in_the_last_digits(exports):
    """Else one is not what it says."""
    path = exports / "float" / "model.pdmodel"
    found = [PaddleSession(path, engine=engine).run(pictures())[0] for engine in ENGINES]
    assert (found[0] != found[1]).any()
    assert (found[1] != found[2]).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_takes_batches_by_turns(exports, engine):
    session = PaddleSession(exports / "float" / "model.pdmodel", engine=engine)
    for count in (1, 4, 2):
        (found,) = session.run(pictures(count))
        assert error(found, outputs(branchy(), pictures(count))) < 1e-4


@pytest.fixture
def new_engines(monkeypatch):
    """Engines as of a process that has none yet."""
    made = paddle_engines.SharedEngines()
    monkeypatch.setattr("ppose.deploy.backends.paddle._SHARED", made)
    return made


def test_openvino_takes_a_few_models(exports, tmp_path, new_engines):
    new_engines.ROOM = 2
    files = [exports / "float" / "model.pdmodel"]
    for name in "ab":
        shutil.copytree(exports / "float", tmp_path / name)
        files.append(tmp_path / name / "model.pdmodel")
    for _ in range(2):
        engines = [PaddleSession(file).engine for file in files]
        assert engines == ["openvino", "openvino", "onednn"]
    assert PaddleSession(files[2], engine="openvino").engine == "openvino"


def test_the_fastest_engine_that_can_is_taken(exports, tmp_path, new_engines):
    assert PaddleSession(exports / "float" / "model.pdmodel").engine == "openvino"
    int8 = exports / "int8" / "model.pdmodel"
    assert PaddleSession(int8).engine == "onednn"
    assert PaddleSession(int8, precision="int8").engine == "onednn"
    assert PaddleSession(two.write_json(tmp_path)).engine == "onednn"
    assert PaddleSession(two.write_pdmodel(tmp_path)).engine == "onednn"  # any size


PLAIN = Program(frozenset({"feed", "fetch", "conv2d"}), {}, [], convolved="a")
QUANTIZED = replace(PLAIN, kinds=PLAIN.kinds | {"quantize_linear", "dequantize_linear"})
ANY_SIZE = Tensor("images", "float32", (-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("program", "setting", "why"),
    [
        (PLAIN, {}, ""),
        (PLAIN, {"threads": usable_cores()}, ""),
        (PLAIN, {"threads": usable_cores() + 1}, r"1 thread or all \d+, not"),
        (QUANTIZED, {"precision": "int8"}, "in other places than training did"),
        (QUANTIZED, {}, "not been compared on dequantize_linear, quantize_linear"),
        (PLAIN, {"old_form": False}, "the old form, .pdmodel"),
        (replace(PLAIN, kinds=PLAIN.kinds | {"while"}), {}, "not been compared on while"),
        (replace(PLAIN, tensors={"images": ANY_SIZE}), {}, "pictures of one size"),
        (replace(PLAIN, convolved=""), {}, "networks with convolutions"),
    ],
)
def test_what_openvino_does_not_run(program, setting, why):
    found = why_not_openvino(
        program, **{"old_form": True, "precision": "fp32", "threads": 1, **setting}
    )
    assert re.search(why, found) if why else found == ""


def test_threads_of_openvino_do_not_meet_those_of_others(monkeypatch):
    """It binds several to the first cores."""
    monkeypatch.setattr(paddle_engines, "usable_cores", lambda: 4)
    given = {"old_form": True, "precision": "fp32"}
    found = {n: why_not_openvino(PLAIN, threads=n, **given) for n in (1, 2, 4)}
    assert found == {1: "", 2: "it takes 1 thread or all 4, not 2", 4: ""}


def test_an_engine_that_cannot_run_the_model(exports):
    with pytest.raises(BackendError, match=r"not by the engine openvino: .*quantize_linear"):
        PaddleSession(exports / "int8" / "model.pdmodel", engine="openvino")
    with pytest.raises(SettingError, match="engine: expected one of openvino, onednn, plain"):
        PaddleSession(exports / "float" / "model.pdmodel", engine="tensorrt")


def test_sessions_of_openvino_keep_apart(tmp_path):
    """Networks of other weights and the same names, at once and one after another."""
    networks = [branchy(), branchy()]
    for weight in networks[1].parameters():
        weight.set_value(1.5 * weight)
    for i, network in enumerate(networks):
        export_network(network, tmp_path / str(i), SIZE_WH)
    files = [tmp_path / str(i) / "model.pdmodel" for i in (0, 1, 0)]
    sessions = [PaddleSession(file, engine="openvino") for file in files]
    expected = [outputs(networks[i], pictures()) for i in (0, 1, 0)]
    assert error(expected[0], expected[1]) > 0.1
    for session, one in zip(sessions, expected, strict=True):
        assert error(session.run(pictures())[0], one) < 1e-4
    path = files[0].with_suffix(".pdiparams")
    contents = [path.read_bytes(), files[1].with_suffix(".pdiparams").read_bytes()]
    for i in (1, 0):  # in their place, and as old
        before = path.stat()
        path.write_bytes(contents[i])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        changed = PaddleSession(files[0], engine="openvino")
        assert error(changed.run(pictures())[0], expected[i]) < 1e-4
    assert error(sessions[0].run(pictures())[0], expected[0]) < 1e-4


def test_each_program_in_openvino_has_a_name_of_its_own(
    exports, tmp_path, new_engines, monkeypatch
):
    """Paddle tells them apart by the names of variables and by addresses, which it uses again."""
    written = []

    def noted(content, program, name):
        made = with_own_name(content, program, name)
        path = tmp_path / f"{len(written)}.pdmodel"
        path.write_bytes(made)
        written.append(read_program(path))
        return made

    monkeypatch.setattr(paddle_engines, "with_own_name", noted)
    file = exports / "float" / "model.pdmodel"
    for threads in {1, usable_cores()}:
        PaddleSession(file, engine="openvino", threads=threads)
    program = read_program(file)
    own = [made.tensors.keys() - program.tensors.keys() for made in written]
    assert all(len(names) == 1 for names in own)
    assert len(set.union(*own)) == len(own) == len({1, usable_cores()})
    assert all(made.weights == program.weights for made in written)


def test_sessions_of_openvino_in_several_threads(exports):
    file = exports / "float" / "model.pdmodel"
    given = [pictures(count, seed=count) for count in (1, 2, 3, 4)]
    expected = [outputs(branchy(), one) for one in given]

    def largest(i):
        session = PaddleSession(file, engine="openvino")
        return max(error(session.run(given[i])[0], expected[i]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(largest, range(4))) < 1e-4


def test_openvino_keeps_no_files(exports, tmp_path, monkeypatch):
    shutil.copytree(exports / "float", tmp_path / "model")
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    session = PaddleSession(tmp_path / "model" / "model.pdmodel", engine="openvino")
    session.run(pictures())
    assert not [*work.iterdir(), *temporary.iterdir()]
    assert len(list((tmp_path / "model").iterdir())) == 2


def test_openvino_without_room_for_files(exports, tmp_path, monkeypatch):
    shutil.copytree(exports / "float", tmp_path / "model")
    file = tmp_path / "model" / "model.pdmodel"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert PaddleSession(file).engine == "onednn"
    with pytest.raises(BackendError, match=r"not by the engine openvino: .*temporary.*nowhere"):
        PaddleSession(file, engine="openvino")


class FourAtOnce(paddle.nn.Layer):
    """Adds what is 4 pictures large; (N, 3, 16, 16) → (N, 4, 16, 16)."""

    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3, padding=1)
        self.more = self.create_parameter([4, 4, 16, 16])

    def forward(self, x):
        return self.conv(x) + self.more


def test_a_run_that_fails_in_openvino(tmp_path):
    """Paddle itself hands on what the run before gave."""
    network = FourAtOnce().eval()
    program = trace(network, (-1, 3, 16, 16))
    program.save(tmp_path / "four.pdmodel", tmp_path / "four.pdiparams")
    with pytest.raises(BackendError, match="as many pictures as it gives results"):
        PaddleSession(tmp_path / "four.pdmodel", engine="openvino")
    (result,) = program.results
    program.shapes[result] = (-1, 4, 16, 16)
    program.save(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams")
    file = tmp_path / "model.pdmodel"
    session = PaddleSession(file, engine="openvino")
    (found,) = session.run(pictures(4, (16, 16)))
    assert error(found, outputs(network, pictures(4, (16, 16)))) < 1e-4
    with pytest.raises(BackendError, match="its OpenVINO gives 4 results for 3 inputs"):
        session.run(pictures(3, (16, 16)))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="Linux alone lists threads there")
def test_threads(exports):
    code = (
        "import os, sys\n"
        "from ppose.deploy.backends.paddle import PaddleSession\n"
        "from ppose.deploy.timing import some_inputs\n"
        "for threads in (1, 3):\n"
        "    session = PaddleSession(sys.argv[1], threads=threads, engine='onednn')\n"
        "    before = len(os.listdir('/proc/self/task'))\n"
        "    session.run(*some_inputs(session))\n"
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


def test_int8_can_be_computed_in_float(exports):
    expected = outputs(quantized(branchy()), pictures())
    (found,) = open_session(exports / "int8", backend="paddle").run(pictures())
    assert np.abs(found - expected).mean() < 0.0006 * np.ptp(expected)


def test_kernels(exports):
    convolutions = sum(x.weight.ndim == 4 for x in quantized_layers(quantized(branchy())).values())
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


def test_kernels_of_paddle_3_form(tmp_path):
    two.write_json(tmp_path)
    found = int8_kernels(tmp_path, precision="fp32")
    assert (found.int8, found.float32) == (0, 1)


def test_kernels_of_a_model_that_cannot_be_loaded(exports, tmp_path):
    with pytest.raises(BackendError, match=r"model.pdmodel: cannot be run: .*a float model"):
        int8_kernels(exports / "float")
    with pytest.raises(BackendError, match="nowhere: no such file"):
        int8_kernels(tmp_path / "nowhere")


def test_excluded_layers_run_in_float(tmp_path):
    export_network(quantized(branchy(), exclude=["stem", "down"]), tmp_path, SIZE_WH)
    found = int8_kernels(tmp_path)
    assert found.float32 == 2
    assert found.int8 > 2


def test_what_a_cpu_does_not_do(exports):
    path = exports / "int8" / "model.pdmodel"
    with pytest.raises(ValueError, match="take the engine onednn"):
        PaddleSession(path, precision="int8", engine="plain")
    with pytest.raises(BackendError, match=r"fp16 runs on a GPU only; on a CPU take fp32, or int8"):
        PaddleSession(path, precision="fp16")


def test_nothing_is_printed(exports, capfd):
    for name, precision in (("float", "fp32"), ("int8", "int8")):
        open_session(exports / name, backend="paddle", precision=precision).run(pictures())
    assert capfd.readouterr() == ("", "")


class Normed(paddle.nn.Layer):
    """A batch norm that Paddle's passes fold; x (N, 3, 16, 16) → (N, 4, 16, 16)."""

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


def test_what_a_program_says(exports):
    program = read_program(exports / "int8" / "model.pdmodel")
    assert {"conv2d", "quantize_linear", "dequantize_linear"} <= program.kinds
    assert program.tensors["images"] == Tensor("images", "float32", (-1, 3, *SIZE_WH[::-1]))
    types = {dtype for dtype, _ in program.weights}
    assert types == {"float32", "int8", "int32"}
    program = read_program(exports / "float" / "model.pdmodel")
    assert "quantize_linear" not in program.kinds
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
        ('{"base_code": {"magic": "other"}}', "no program of Paddle 3"),
        ('{"base_code": {"magic": "pir"}, "program": {"regions": []}}', "IndexError"),
        ("[" * 200_000, "RecursionError"),
        (operators('{"#": 1}'), "AttributeError"),
        (operators('{"#": "1.data", "A": []}'), "ValueError: an operator data without a name"),
        (operators('{"#": "1.data", "A": [{"N": "name", "AT": {"D": []}}]}'), "without a name"),
        (operators(f'{{"#": "p", "A": [0, 0, 0, "w"], "O": {SIDES}}}'), r"of shape \['1'\]"),
    ],
)
def test_json_of_another_kind(tmp_path, text, message):
    (tmp_path / "model.json").write_text(text)
    (tmp_path / "model.pdiparams").write_bytes(b"")
    with pytest.raises(
        BackendError, match=rf"model.json: damaged, or no model of Paddle.*{message}"
    ):
        open_session(tmp_path, backend="paddle")


@pytest.mark.parametrize("write", [two.write_pdmodel, two.write_json])
def test_weights_that_are_more_or_other(tmp_path, write):
    write(tmp_path)
    path = tmp_path / "model.pdiparams"
    content = path.read_bytes()
    first = struct.unpack_from("<i", content, 16)[0]
    for changed, message in (
        (content + content, "of another model: it has more tensors"),
        (content[: 20 + first], "damaged at tensor 0 of 1 .the file ends within it"),
        (b"\x01" + content[1:], "no tensor stands there"),
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
    with pytest.raises(BackendError, match="damaged at tensor 0 of 1 .the file ends within it"):
        open_session(tmp_path, backend="paddle")


@given(number=st.integers(1, 2**20), content=st.binary(max_size=300))
def test_fields_are_read_as_they_were_written(number, content):
    written = wire.field(number, content)
    assert list(wire.fields(memoryview(written))) == [(number, content)]
