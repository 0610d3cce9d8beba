"""An exported network stands in for the one that it was made from."""

import json
import shutil

import numpy as np
import paddle
import pytest
from branchy import SIZE_WH, branchy, error, outputs, pictures, quantized

from ppose.checkpoint import load_weights
from ppose.experiment import Experiment
from ppose.export.network import export_network
from ppose.inference import ExportedNetwork, ExportError, int8_kernels, latencies
from ppose.slim.quantize import quantized_layers


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Folders of one network, `float` and `int8`."""
    folder = tmp_path_factory.mktemp("exports")
    export_network(branchy(), folder / "float", SIZE_WH)
    export_network(quantized(branchy()), folder / "int8", SIZE_WH)
    return folder


@pytest.fixture
def copied(exports, tmp_path):
    """A float export that a test may spoil."""
    return shutil.copytree(exports / "float", tmp_path / "copied")


def test_an_array_gives_an_array_and_a_tensor_a_tensor(exports):
    network = ExportedNetwork(exports / "float")
    images = pictures()
    maps = network(images)
    assert isinstance(maps, np.ndarray)
    assert maps.shape == (4, 5, 16, 12)
    tensor = network(paddle.to_tensor(images))
    assert isinstance(tensor, paddle.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), maps)


def test_each_result_is_its_own(exports):
    network = ExportedNetwork(exports / "float")
    first = network(pictures(seed=0))
    kept = first.copy()
    network(pictures(seed=5))
    np.testing.assert_array_equal(first, kept)


def test_an_estimator_runs_it_as_its_network(quickstart, tmp_path):
    estimator = Experiment.from_file(quickstart).estimator()
    load_weights(estimator.network, quickstart.parent / "weights" / "quickstart.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (150, 100, 3), np.uint8)
    boxes = [[10, 20, 60, 100], [30, 10, 50, 120]]
    expected = estimator(image, boxes)
    export_network(estimator.network, tmp_path, estimator.codec.size_wh)
    estimator.network = ExportedNetwork(tmp_path)
    found = estimator(image, boxes)
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_settings_change_no_float_result(exports, onednn, threads):
    network = ExportedNetwork(exports / "float", onednn=onednn, threads=threads)
    assert error(network(pictures()), outputs(branchy(), pictures())) < 1e-4


def test_int8_can_be_computed_in_float(exports):
    expected = outputs(quantized(branchy()), pictures())
    found = ExportedNetwork(exports / "int8", int8=False)(pictures())
    assert np.abs(found - expected).mean() < 0.0006 * np.ptp(expected)


def test_kernels(exports):
    convolutions = sum(x.weight.ndim == 4 for x in quantized_layers(quantized(branchy())).values())
    runs = convolutions + 1  # one layer runs twice
    found = int8_kernels(exports / "int8")
    assert (found.int8, found.float32) == (runs, 0)
    assert sum(found.names.values()) == runs
    found = int8_kernels(exports / "int8", int8=False)
    assert (found.int8, found.float32) == (0, runs)
    found = int8_kernels(exports / "float")
    assert (found.int8, found.float32) == (0, runs)


def test_excluded_layers_run_in_float(tmp_path):
    export_network(quantized(branchy(), exclude=["stem", "down"]), tmp_path, SIZE_WH)
    found = int8_kernels(tmp_path)
    assert found.float32 == 2
    assert found.int8 > 2


def test_latency(exports):
    network = ExportedNetwork(exports / "float")
    ((p50, p95),) = latencies([network], 2, runs=5, warmup=1)
    assert 0 < p50 <= p95
    with pytest.raises(ValueError, match="images"):
        latencies([network], 2, size_wh=(32, 32))


def test_loading_and_running_print_nothing(exports, capfd):
    for name in ("float", "int8"):
        ExportedNetwork(exports / name)(pictures())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 64, 64), np.float32),
        np.zeros((1, 4, 64, 48), np.float32),
        np.zeros((3, 64, 48), np.float32),
        np.zeros((0, 3, 64, 48), np.float32),
        np.zeros((1, 3, 64, 48), np.float64),
        np.zeros((1, 64, 48, 3), np.uint8),
    ],
)
def test_other_images_are_refused(exports, images):
    network = ExportedNetwork(exports / "float")
    with pytest.raises(ValueError, match=r"images \(any, 3, 64, 48\).*found"):
        network(images)
    assert network(pictures()).shape == (4, 5, 16, 12)


def test_int8_of_a_float_network_is_refused(exports):
    with pytest.raises(ExportError, match="float network; export a quantized one"):
        ExportedNetwork(exports / "float", int8=True)
    with pytest.raises(ValueError, match="onednn has to be on"):
        ExportedNetwork(exports / "int8", int8=True, onednn=False)


@pytest.mark.parametrize("call", [ExportedNetwork, int8_kernels])
def test_a_missing_folder(call, tmp_path):
    with pytest.raises(ExportError, match="nowhere: no such folder"):
        call(tmp_path / "nowhere")


def test_a_foreign_folder(tmp_path):
    (tmp_path / "inference.pdmodel").write_bytes(b"")
    with pytest.raises(ExportError, match=r"no network.json; it has \['inference.pdmodel'\]"):
        ExportedNetwork(tmp_path)


@pytest.mark.parametrize("name", ["model.pdmodel", "model.pdiparams"])
def test_damaged_and_missing_files(copied, name):
    path = copied / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ExportError, match=f"{name}: damaged or of another export"):
        ExportedNetwork(copied)
    path.unlink()
    with pytest.raises(ExportError, match=f"{name}: missing"):
        ExportedNetwork(copied)


def test_files_of_two_exports(exports, copied):
    shutil.copy(exports / "int8" / "model.pdiparams", copied)
    with pytest.raises(ExportError, match="of another export"):
        ExportedNetwork(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "other"}, "expected the form"),
        ({"stride": "4"}, "stride: expected int, found '4'"),
        ({"input": [1, 3]}, "input: expected four numbers"),
        ({"sha256": {}}, "sha256: expected model.pdmodel"),
    ],
)
def test_a_wrong_description(copied, change, message):
    path = copied / "network.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ExportError, match=message):
        ExportedNetwork(copied)


def test_a_cut_description(copied):
    path = copied / "network.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ExportError, match="network.json: damaged"):
        ExportedNetwork(copied)
