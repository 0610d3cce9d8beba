"""Sessions of all backends: equal results, input checks, and errors."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import tiny_two_input_model as two
from conftest import ROOT

from ppose.deploy.backends import settings
from ppose.deploy.backends.model_files import SUFFIXES, find_model, model_files
from ppose.deploy.backends.open import open_session
from ppose.deploy.backends.session import TensorInfo
from ppose.deploy.backends.settings import BACKENDS, BackendError, SettingError
from ppose.utils.cpu import default_threads

PAIRS = [(kind, b) for b in BACKENDS for kind in two.WRITERS if f".{kind}" in SUFFIXES[b]]
NO_GPU = {
    "paddle": "this build of Paddle is for CPUs only",
    "onnxruntime": "has no CUDAExecutionProvider",
    "openvino": "GPU is not available",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder for each format with the model in it."""
    folder = tmp_path_factory.mktemp("models")
    for kind, write in two.WRITERS.items():
        (folder / kind).mkdir()
        write(folder / kind)
    (folder / "int8").mkdir()
    two.write_int8_onnx(folder / "int8")
    return folder


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_backends_agree(models, kind, backend):
    session = open_session(models / kind, backend=backend, threads=1)
    assert (session.backend, session.device, session.precision) == (backend, "cpu", "fp32")
    assert session.path == models / kind / f"model.{kind}"
    for count, size_wh in ((2, (24, 16)), (1, (8, 8)), (3, (24, 16))):
        given = two.inputs(count, size_wh)
        before = [array.copy() for array in given]
        found = session.run(*given)
        for one, wanted in zip(found, two.expected(*given), strict=True):
            # bfloat16, OpenVINO's default on some CPUs, is off by 1e-2.
            np.testing.assert_allclose(one, wanted, atol=1e-5)
            assert one.dtype == np.float32
        for array, kept in zip(given, before, strict=True):
            np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_input_and_output_tensors(models, kind, backend):
    session = open_session(models / kind, backend=backend)
    assert session.inputs == (
        TensorInfo("image", "uint8", (-1, -1, -1, 3)),
        TensorInfo("factor", "float32", (-1, 2)),
    )
    maps, means = session.outputs
    assert (maps.dtype, maps.shape) == ("float32", (-1, 4, -1, -1))
    assert (means.dtype, means.shape) == ("float32", (-1,))
    if kind != "json":  # Paddle generates names
        assert (maps.name, means.name) == ("maps", "means")


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_results_are_not_changed_by_later_runs(models, kind, backend):
    session = open_session(models / kind, backend=backend)
    first = session.run(*two.inputs(seed=0))
    kept = [array.copy() for array in first]
    second = session.run(*two.inputs(seed=1))
    for one, before, other in zip(first, kept, second, strict=True):
        np.testing.assert_array_equal(one, before)
        assert np.abs(one - other).max() > 0
        one += 1  # the arrays belong to the caller
    for one, wanted in zip(session.run(*two.inputs(seed=1)), second, strict=True):
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_array_views_are_accepted(models, kind, backend):
    image, factor = two.inputs()
    view = image[:, :, ::-1]
    session = open_session(models / kind, backend=backend)
    found = session.run(view, factor)
    np.testing.assert_allclose(found[0], two.expected(view.copy(), factor)[0], atol=1e-5)


WRONG = [
    (lambda image, factor: [image], r"expected 2 arrays \(image, factor\), found 1"),
    (lambda image, factor: [image, factor, factor], "expected 2 arrays .*, found 3"),
    (
        lambda image, factor: [image.astype(np.float32), factor],
        r"expected image uint8 \(any, any, any, 3\), found float32 \(2, 16, 24, 3\)",
    ),
    (lambda image, factor: [image, factor.astype(np.float64)], "found float64"),
    (lambda image, factor: [image[0], factor], r"found uint8 \(16, 24, 3\)"),
    (lambda image, factor: [image[..., :2], factor], r"found uint8 \(2, 16, 24, 2\)"),
    (lambda image, factor: [image[:0], factor], r"found uint8 \(0, 16, 24, 3\)"),
    (lambda image, factor: [image, factor.tolist()], "found list"),
    (lambda image, factor: [image, factor.astype(">f4")], "expected factor float32"),
    (lambda image, factor: [image, factor[:1]], r"same batch size in all inputs, found \[2, 1\]"),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_invalid_arrays_are_rejected(models, backend):
    kind = SUFFIXES[backend][0][1:]
    session = open_session(models / kind, backend=backend)
    for change, message in WRONG:
        with pytest.raises(ValueError, match=message):
            session.run(*change(*two.inputs()))
    assert len(session.run(*two.inputs())) == 2


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_unsupported_sizes(models, kind, backend):
    """The model halves and doubles each side, so that odd sides do not match in the end."""
    session = open_session(models / kind, backend=backend)
    for size_wh in ((24, 16), (16, 24)):
        session.run(*two.inputs(size_wh=size_wh))
    for size_wh in ((24, 15), (23, 16)):
        with pytest.raises(BackendError, match=r"cannot run it with \(2, 1., 2., 3\), \(2, 2\): ."):
            session.run(*two.inputs(size_wh=size_wh))
    given = two.inputs()
    np.testing.assert_allclose(session.run(*given)[0], two.expected(*given)[0], atol=1e-5)


def test_onnxruntime_threads(models):
    def new_threads(threads):
        session = open_session(models / "onnx", backend="onnxruntime", threads=threads)
        session.run(*two.inputs())
        return len(list(Path("/proc/self/task").iterdir())) - before

    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc")
    before = len(list(Path("/proc/self/task").iterdir()))
    assert new_threads(1) == 0
    assert new_threads(3) == 2


def test_openvino_threads(models):
    for threads in (1, 2):
        session = open_session(models / "onnx", backend="openvino", threads=threads)
        compiled = session._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


def test_default_threads(models, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3
    assert open_session(models / "onnx", backend="onnxruntime").threads == 3
    for invalid in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", invalid)
        assert default_threads() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"device": "tpu"}, "device: expected one of cpu, gpu, found 'tpu'"),
        ({"precision": "fp8"}, "precision: expected one of fp32, fp16, int8"),
        ({"threads": 0}, "threads: expected 1 or more"),
        (
            {"threads": 100_000},
            r"threads: expected at most \d+, found 100000: .* \d+ cores",
        ),
        ({"backend": "torch"}, "backend: expected one of auto, paddle, onnxruntime, openvino"),
    ],
)
def test_invalid_settings(models, setting, message):
    for backend in ("onnxruntime", "auto"):
        with pytest.raises(SettingError, match=message):
            open_session(models / "onnx", **{"backend": backend, **setting})


def test_invalid_environment_variable(models, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    with pytest.raises(SettingError, match="OMP_NUM_THREADS: expected at most"):
        open_session(models / "onnx", backend="onnxruntime")


@pytest.mark.parametrize(("cores", "most"), [(1, 64), (8, 64), (32, 256)])
def test_thread_limit(models, monkeypatch, cores, most):
    monkeypatch.setattr(settings, "usable_cores", lambda: cores)
    settings.check_settings("cpu", "fp32", most)
    with pytest.raises(
        SettingError, match=f"at most {most}, found {most + 1}: this machine has {cores} "
    ):
        settings.check_settings("cpu", "fp32", most + 1)


def test_setting_error_bases():
    assert issubclass(SettingError, BackendError) and issubclass(SettingError, ValueError)


@pytest.mark.parametrize("backend", BACKENDS)
def test_int8_of_a_float_model(models, backend):
    with pytest.raises(BackendError, match="a float model; export a quantized network"):
        open_session(models / SUFFIXES[backend][0][1:], backend=backend, precision="int8")


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_on_a_cpu(models, backend):
    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU supports fp16")
    with pytest.raises(BackendError, match="fp16"):
        open_session(models / SUFFIXES[backend][0][1:], backend=backend, precision="fp16")


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_gpu(models, backend):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match=NO_GPU[backend]):
        open_session(models / SUFFIXES[backend][0][1:], backend=backend, device="gpu")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_onnx_models(models, backend):
    rng = np.random.default_rng(0)
    x = (rng.integers(-128, 128, (2, 3, 16, 16)) / 32).astype(np.float32)
    session = open_session(models / "int8", backend=backend, precision="int8")
    (found,) = session.run(x)
    assert found.shape == (2, 4, 16, 16)
    x[:, :, 3:6, 3:6] = 0
    x[:, :, 4, 4] = 1
    (found,) = session.run(x)
    exact = two.KERNEL.sum(1)[:, 1, 1]
    np.testing.assert_allclose(found[0, :, 4, 4], exact, atol=3 * np.abs(two.KERNEL).max() / 254)


def test_int8_model_in_fp32(models):
    with pytest.raises(BackendError, match="int8 only"):
        open_session(models / "int8", backend="openvino")
    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    maps = [
        open_session(models / "int8", backend="onnxruntime", precision=p).run(x)[0]
        for p in ("fp32", "int8")
    ]
    np.testing.assert_allclose(*maps, atol=1e-5)


def test_external_weights(tmp_path):
    path = two.write_onnx(tmp_path, weights="model.onnx.data")
    assert model_files(path) == [path, tmp_path / "model.onnx.data"]
    given = two.inputs()
    for backend in ("onnxruntime", "openvino"):
        found = open_session(tmp_path, backend=backend).run(*given)
        np.testing.assert_allclose(found[0], two.expected(*given)[0], atol=1e-5)
    (tmp_path / "model.onnx.data").unlink()
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(BackendError, match=r"weights 'model.onnx.data' are missing"):
            open_session(tmp_path, backend=backend)


def _damaged(content, rng):
    """Damaged versions of a file, the first one empty."""
    yield b""
    yield rng.bytes(5000)
    yield b"<html>not found</html>"
    for share in (0.02, 0.3, 0.6, 0.9):
        yield content[: int(share * len(content))]
    yield content[:-9]


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_damaged_files(models, tmp_path, kind, backend):
    rng = np.random.default_rng(0)
    shutil.copytree(models / kind, tmp_path / "copy")
    for path in sorted((tmp_path / "copy").iterdir()):
        content = path.read_bytes()
        for damaged in _damaged(content, rng):
            if path.suffix == ".bin" and len(damaged) >= len(content):
                continue  # raw values without structure
            path.write_bytes(damaged)
            with pytest.raises(BackendError, match=str(tmp_path)):
                open_session(tmp_path / "copy", backend=backend)
        path.write_bytes(content)
    open_session(tmp_path / "copy", backend=backend)


@pytest.mark.parametrize("kind", ["pdmodel", "json", "xml"])
def test_missing_weights(models, tmp_path, kind):
    path = tmp_path / f"model.{kind}"
    shutil.copy(models / kind / path.name, path)
    backend = "openvino" if kind == "xml" else "paddle"
    with pytest.raises(BackendError, match="no such file|no model for paddle"):
        open_session(tmp_path, backend=backend)


@pytest.mark.parametrize("backend", ["paddle", "openvino"])
def test_weights_of_another_model(models, tmp_path, backend):
    two.write_pdmodel(tmp_path, kernel=np.zeros((5, 3, 3, 3), np.float32))
    shutil.copy(models / "pdmodel" / "model.pdmodel", tmp_path)
    with pytest.raises(BackendError, match=r"another model: .* \(5, 3, 3, 3\), expected"):
        open_session(tmp_path, backend=backend)


def test_find_model(models, tmp_path):
    for kind in ("pdmodel", "json", "onnx", "xml"):
        for path in (models / kind).iterdir():
            shutil.copy(path, tmp_path / f"inference{path.suffix}")
    (tmp_path / "pose.json").write_text("{}")
    assert find_model(tmp_path, "paddle").name == "inference.pdmodel"
    assert find_model(tmp_path, "onnxruntime").name == "inference.onnx"
    assert find_model(tmp_path, "openvino").name == "inference.xml"
    shutil.copy(tmp_path / "inference.onnx", tmp_path / "other.onnx")
    assert find_model(tmp_path, "onnxruntime").name == "inference.onnx"
    shutil.copy(tmp_path / "inference.onnx", tmp_path / "model.onnx")
    assert find_model(tmp_path, "onnxruntime").name == "model.onnx"
    assert find_model(tmp_path / "other.onnx", "onnxruntime").name == "other.onnx"
    for name in ("inference.onnx", "model.onnx", "inference.pdmodel"):
        (tmp_path / name).unlink()
    assert find_model(tmp_path, "onnxruntime").name == "other.onnx"
    assert find_model(tmp_path, "paddle").name == "inference.json"


def test_files_that_are_not_listed_are_ignored(models, tmp_path):
    for kind in ("pdmodel", "onnx", "xml"):
        for path in (models / kind).iterdir():
            shutil.copy(path, tmp_path)
    shutil.copy(models / "json" / "model.json", tmp_path)
    assert find_model(tmp_path, "openvino").name == "model.xml"
    assert find_model(tmp_path, "openvino", ["model.onnx"]).name == "model.onnx"
    assert find_model(tmp_path, "paddle", ["model.json", "model.pdiparams"]).name == "model.json"
    # A program whose weights are not listed is ignored too.
    listed = ["model.pdmodel", "model.json", "model.xml", "model.onnx"]
    assert find_model(tmp_path, "openvino", listed).name == "model.onnx"
    with pytest.raises(BackendError, match="no model for paddle.* a model for onnxruntime, openv"):
        find_model(tmp_path, "paddle", listed)
    session = open_session(tmp_path, backend="openvino", checked={"model.onnx": "0" * 64})
    assert session.path == tmp_path / "model.onnx"


def test_file_names_with_glob_characters(tmp_path):
    written = two.write_onnx(tmp_path, weights="model[1].onnx.data")
    path = written.rename(tmp_path / "model[1].onnx")
    (tmp_path / "model1.onnx.data").write_bytes(b"")
    assert model_files(path) == [path, tmp_path / "model[1].onnx.data"]


def test_missing_model_file(models, tmp_path):
    with pytest.raises(BackendError, match="nowhere: no such file or folder"):
        find_model(tmp_path / "nowhere", "paddle")
    with pytest.raises(BackendError, match=r"no model for paddle, which reads .pdmodel, .json"):
        find_model(tmp_path, "paddle")
    with pytest.raises(BackendError, match="it contains a model for onnxruntime, openvino"):
        find_model(models / "onnx", "paddle")
    onnx = models / "onnx" / "model.onnx"
    with pytest.raises(BackendError, match="use the backend onnxruntime or openvino"):
        find_model(onnx, "paddle")
    for name in ("a", "b"):
        shutil.copy(onnx, tmp_path / f"{name}.onnx")
    with pytest.raises(BackendError, match=r"several models, give one of them: a.onnx, b.onnx"):
        find_model(tmp_path, "onnxruntime")


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_package(models, monkeypatch, backend):
    monkeypatch.setitem(sys.modules, backend, None)
    monkeypatch.delitem(sys.modules, f"ppose.deploy.backends.{backend}", raising=False)
    package = "paddlepaddle" if backend == "paddle" else backend
    with pytest.raises(BackendError, match=f"{backend} is not installed; pip install {package}"):
        open_session(models / SUFFIXES[backend][0][1:], backend=backend)


def test_broken_package(models, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libfoo.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("onnxruntime", "ppose.deploy.backends.onnxruntime"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(BackendError, match="cannot be imported: libfoo.so: no such file; re"):
        open_session(models / "onnx", backend="onnxruntime")


def test_backends_are_imported_on_first_use(models):
    code = (
        "import sys, ppose.deploy.backends.open, ppose.deploy.backends.timing\n"
        "loaded = lambda: sorted({'paddle', 'onnxruntime', 'openvino'} & set(sys.modules))\n"
        "print(loaded())\n"
        "ppose.deploy.backends.open.open_session(sys.argv[1], backend='onnxruntime')\n"
        "print(loaded())\n"
        "ppose.deploy.backends.open.open_session(sys.argv[2], backend='openvino')\n"
        "print(loaded())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(models / "onnx"), str(models / "pdmodel")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split("\n")[:3] == ["[]", "['onnxruntime']", "['onnxruntime', 'openvino']"]


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_nothing_is_printed(models, capfd, kind, backend):
    open_session(models / kind, backend=backend).run(*two.inputs())
    assert capfd.readouterr() == ("", "")


def test_all_backends_are_tested_here():
    assert all(find_spec(backend) for backend in BACKENDS)


def test_signals_after_openvino_sessions_are_deleted(models):
    """The CPU plugin installs a signal stack, which must not be freed while it is in use."""
    code = (
        "import gc, signal, sys\n"
        "from ppose.deploy.backends.open import open_session\n"
        "sessions = [open_session(sys.argv[1], backend='openvino', threads=1) for _ in range(3)]\n"
        "while sessions:\n"
        "    del sessions[0]\n"
        "    gc.collect()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('arrived'))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(models / "onnx")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (0, "arrived\n"), run.stderr
