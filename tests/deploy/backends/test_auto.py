"""Backend selection: measured once, and only among backends whose outputs agree."""

import json
import shutil

import numpy as np
import pytest
import tiny_two_input_model as two

from ppose.deploy.backends import auto
from ppose.deploy.backends.auto import _agreeing_backends, cache_path
from ppose.deploy.backends.open import open_session
from ppose.deploy.backends.settings import BACKENDS, BackendError
from ppose.utils.files import file_hash


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the model for all backends."""
    folder = tmp_path_factory.mktemp("written")
    two.write_pdmodel(folder)
    two.write_onnx(folder)
    return folder


@pytest.fixture
def model(written, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(written, tmp_path / "model")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch):
    """List of the number of backends in each measurement so far."""
    counts = []
    time_interleaved = auto.time_interleaved

    def counted(calls, *settings):
        counts.append(len(calls))
        return time_interleaved(calls, *settings)

    monkeypatch.setattr(auto, "time_interleaved", counted)
    return counts


@pytest.fixture
def fastest_is(monkeypatch):
    """Makes the measured backend at a given position the fastest."""

    def chosen(position):
        def times(calls, runs, warmup):
            for call in calls:
                call()
            return np.array([[0.001 if n == position else 0.002 for n in range(len(calls))]])

        monkeypatch.setattr(auto, "time_interleaved", times)

    return chosen


def test_backends_are_measured_once(model, measured, capsys):
    first = open_session(model, threads=1)
    assert measured == [3]
    printed = capsys.readouterr().out
    assert printed.startswith(f"backend {first.backend}: ")
    assert printed.endswith("cpu, fp32, 1 threads\n")
    assert printed.count("\n") == 1
    assert all(name in printed for name in BACKENDS)
    second = open_session(model, threads=1)
    assert measured == [3]
    assert capsys.readouterr().out == ""
    assert second.backend == first.backend
    given = two.inputs()
    np.testing.assert_allclose(second.run(*given)[0], two.expected(*given)[0], atol=1e-5)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_fastest_is_chosen_and_cached(model, fastest_is, position):
    fastest_is(position)
    assert open_session(model).backend == BACKENDS[position]
    fastest_is(0)
    assert open_session(model).backend == BACKENDS[position]
    (choice,) = json.loads(cache_path().read_text())["choices"].values()
    assert choice["backend"] == BACKENDS[position]
    assert set(choice["ms"]) == set(BACKENDS)


def test_cache_key(model, measured, monkeypatch):
    open_session(model, threads=1)
    open_session(model, threads=2)
    assert len(measured) == 2
    open_session(model, threads=1, size_wh=(64, 64))
    assert len(measured) == 3
    monkeypatch.setattr(auto, "cpu_name", lambda: "another CPU")
    open_session(model, threads=1)
    assert len(measured) == 4
    monkeypatch.setattr(auto, "_version", lambda backend: "another version")
    open_session(model, threads=1)
    assert len(measured) == 5
    open_session(model, threads=1)
    assert len(measured) == 5
    with (model / "model.onnx").open("ab") as file:
        file.write(b"\x32\x01a")  # doc_string
    open_session(model, threads=1)
    assert len(measured) == 6
    assert len(json.loads(cache_path().read_text())["choices"]) == 6


def test_files_that_are_not_listed_are_ignored(model, measured):
    two.write_xml(model)
    two.write_json(model)
    listed = ("model.onnx", "model.pdmodel", "model.pdiparams")
    checked = {name: file_hash(model / name) for name in listed}
    for _ in range(2):
        session = open_session(model, threads=1, checked=checked)
        assert session.path.name in listed
    assert measured == [3]
    del checked["model.pdiparams"]
    session = open_session(model, threads=1, checked=checked)
    assert session.path.name == "model.onnx"
    assert measured == [3, 2]


def test_known_hashes_are_not_computed_again(model, measured, monkeypatch):
    open_session(model, threads=1)
    checked = {path.name: file_hash(path) for path in model.iterdir()}
    monkeypatch.setattr(auto, "file_hash", None)
    open_session(model, threads=1, checked=checked)
    assert len(measured) == 1
    open_session(model, threads=1, checked={**checked, "model.onnx": "0" * 64})
    assert len(measured) == 2


def test_threads_from_the_environment(model, measured, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    open_session(model)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert open_session(model).threads == 2
    assert len(measured) == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"form": "other"}', '{"form": "ppose backends 2", "choices": [1]}']
)
def test_invalid_cache_file(model, measured, content):
    cache_path().parent.mkdir(parents=True)
    cache_path().write_text(content)
    open_session(model, threads=1)
    open_session(model, threads=1)
    assert len(measured) == 1


@pytest.mark.parametrize("choice", [1, {}, {"backend": "torch"}, {"backend": ["paddle"]}])
def test_invalid_cache_entry(model, measured, choice):
    open_session(model, threads=1)
    content = json.loads(cache_path().read_text())
    content["choices"] = dict.fromkeys(content["choices"], choice)
    cache_path().write_text(json.dumps(content))
    open_session(model, threads=1)
    assert len(measured) == 2


def test_unwritable_cache(model, measured, cache):
    cache.write_text("not a folder")
    open_session(model, threads=1)
    open_session(model, threads=1)
    assert len(measured) == 2


def test_old_choices_are_dropped(model, fastest_is, monkeypatch):
    fastest_is(1)
    monkeypatch.setattr(auto, "_MAX_ENTRIES", 2)
    for threads in (1, 2, 3):
        open_session(model, threads=threads)
    keys = list(json.loads(cache_path().read_text())["choices"])
    assert len(keys) == 2
    assert "2 threads" in keys[0]
    assert "3 threads" in keys[1]


def test_a_single_backend_is_not_measured(tmp_path, measured):
    two.write_json(tmp_path)
    assert open_session(tmp_path).backend == "paddle"
    assert measured == []
    assert not cache_path().exists()


def test_backends_that_are_not_installed(model, measured, monkeypatch):
    monkeypatch.setattr(auto.importlib.util, "find_spec", lambda name: name == "openvino" or None)
    assert open_session(model).backend == "openvino"
    monkeypatch.setattr(auto.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        BackendError,
        match="no installed backend .* one of paddlepaddle, onnxruntime, openvino",
    ):
        open_session(model)


def test_a_failing_backend_is_skipped(model, measured, capsys):
    content = (model / "model.onnx").read_bytes()
    (model / "model.onnx").write_bytes(content[:-50])
    assert open_session(model).backend == "paddle"
    assert measured == [1]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert printed[0].startswith(f"left out: {model / 'model.onnx'}: damaged")


def test_all_backends_fail(model, measured):
    for path in model.iterdir():
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BackendError) as failed:
        open_session(model)
    assert len(set(str(failed.value).splitlines())) == str(failed.value).count(str(model)) >= 2
    assert measured == []


def test_unsupported_precision(model):
    with pytest.raises(BackendError, match="fp16"):
        open_session(model, precision="fp16")


def test_no_model(tmp_path):
    with pytest.raises(BackendError) as failed:
        open_session(tmp_path / "nowhere")
    assert str(failed.value).count("no such file or folder") == 1
    with pytest.raises(BackendError) as failed:
        open_session(tmp_path)
    for backend in BACKENDS:
        assert f"no model for {backend}, which reads" in str(failed.value)


def test_a_backend_that_disagrees_with_the_majority_is_skipped(model, fastest_is, capsys):
    two.write_xml(model)
    two.write_onnx(model, kernel=1.1 * two.KERNEL)
    fastest_is(1)
    assert open_session(model).backend == "openvino"
    assert "left out: onnxruntime gives different outputs than paddle, openvino" in (
        capsys.readouterr().out
    )


def test_of_two_disagreeing_backends_the_first_is_chosen(model, fastest_is, monkeypatch, capsys):
    installed = {"paddle", "onnxruntime"}
    monkeypatch.setattr(auto.importlib.util, "find_spec", lambda name: name in installed or None)
    two.write_onnx(model, kernel=1.1 * two.KERNEL)
    assert open_session(model).backend == "paddle"
    assert "left out: onnxruntime gives different outputs than paddle" in capsys.readouterr().out


def test_a_cached_choice_that_fails(model, measured, monkeypatch, capsys):
    open_session(model, threads=1)
    content = json.loads(cache_path().read_text())
    (choice,) = content["choices"].values()
    original = auto.load_session
    calls = []

    def failing(path, backend, *settings):
        calls.append(backend)
        if len(calls) == 1:
            raise BackendError("the driver went away")
        return original(path, backend, *settings)

    monkeypatch.setattr(auto, "load_session", failing)
    assert open_session(model, threads=1).backend in BACKENDS
    assert calls[0] == choice["backend"]
    assert len(measured) == 2
    assert "measuring again: the driver went away" in capsys.readouterr().out


def _maps(change=0.0, seed=0):
    return np.random.default_rng(seed).normal(size=(1, 8, 4, 4)) + change


NAN = np.full((2, 2), np.nan)
ZEROS = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("results", "agreeing"),
    [
        ({"a": _maps(), "b": _maps(1e-4), "c": _maps()}, ["a", "b", "c"]),
        ({"a": _maps(1.0), "b": _maps(), "c": _maps(1e-4)}, ["b", "c"]),
        ({"a": _maps(), "b": _maps(seed=1)}, ["a"]),
        ({"a": ZEROS, "b": ZEROS + 1e-5, "c": ZEROS + 1}, ["a", "b"]),
        ({"a": NAN, "b": ZEROS, "c": NAN}, ["a", "c"]),
        # The number of boxes may differ, the number of channels not.
        ({"a": _maps(), "b": _maps()[:, :7]}, ["a"]),
        ({"a": np.zeros((3, 6)), "b": np.zeros((4, 6))}, ["a", "b"]),
        ({"a": np.zeros((0, 6)), "b": np.zeros((0, 6))}, ["a", "b"]),
    ],
)
def test_agreeing_backends(results, agreeing):
    assert _agreeing_backends({name: [array] for name, array in results.items()}, 1e-3) == agreeing


def test_one_different_joint_is_tolerated():
    positions = np.random.default_rng(0).integers(0, 60, (1, 17, 2))
    moved = positions.copy()
    moved[0, 3] += 30
    assert _agreeing_backends({"a": [positions], "b": [moved]}, 1e-3) == ["a", "b"]
    assert _agreeing_backends({"a": [positions], "b": [moved, moved]}, 1e-3) == ["a"]
