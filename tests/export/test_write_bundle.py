"""Bundle export: `pose.yml` is complete, and each backend finds the same poses as the network."""

import inspect
import json

import numpy as np
import pytest
import yaml
from conftest import ROOT, data_of

from ppose.codecs.heatmap import Heatmap
from ppose.config import ConfigError
from ppose.data.images import read_image
from ppose.deploy.backends.auto import cache_path
from ppose.deploy.backends.settings import BACKENDS
from ppose.deploy.backends.timing import example_inputs
from ppose.deploy.bundle import DESCRIPTION, Bundle, file_hash
from ppose.deploy.session_runner import load_estimator, load_runner
from ppose.experiment import Experiment
from ppose.export.write_bundle import FORMATS, export_bundle
from ppose.inference.request import Request
from ppose.structures.skeleton import COCO17
from ppose.training.post_training import quantize_trained
from ppose.training.state import float_arrays
from ppose.weights.weight_file import save_arrays

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
BOXES = [[10, 5, 50, 80], [60, 10, 40, 70], [0, 0, 120, 90]]
PEOPLE = read_image(ROOT / "dataset" / "test_image" / "people.jpg")
PEOPLE_BOXES = [[114, 71, 116, 368], [321, 187, 123, 250]]
FORMAT_OF = {"paddle": "paddle", "onnxruntime": "onnx", "openvino": "onnx"}


@pytest.fixture
def top_down(quickstart, small_run):
    return Experiment.from_file(quickstart, small_run)


@pytest.fixture
def trained_bottom_up(imhn_quickstart):
    """The shipped network, which detects people."""
    experiment = Experiment.from_file(imhn_quickstart, ["flip_test=false"])
    experiment.load_weights()
    return experiment


@pytest.fixture
def bottom_up(imhn_quickstart, small_bottomup):
    return Experiment.from_file(imhn_quickstart, small_bottomup)


def poses_of(estimator):
    estimator.postprocess.oks_nms = None
    return estimator(IMAGE, BOXES if estimator.uses_boxes else None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("flip_test", [False, True])
def test_each_backend_finds_the_same_poses_as_the_network(top_down, tmp_path, backend, flip_test):
    top_down.config["flip_test"] = flip_test
    export_bundle(top_down, tmp_path, [FORMAT_OF[backend]])
    expected, found = (
        poses_of(top_down.estimator()),
        poses_of(load_estimator(tmp_path, backend=backend)),
    )
    assert len(found) == len(BOXES)
    assert np.abs(found.keypoints - expected.keypoints).max() < 0.01
    assert np.allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bottom_up_maps_at_any_size(bottom_up, tmp_path, backend):
    bundle = export_bundle(bottom_up, tmp_path, [FORMAT_OF[backend]])
    runner, eager = load_runner(bundle, backend=backend), bottom_up.estimator().runner
    assert bundle.network.input == (-1, -1, -1, 3)
    multiple = runner.size_multiple
    for batch, height, width in ((1, 1, 2), (3, 2, 1)):
        pixels = np.random.default_rng(1).integers(
            0, 256, (batch, multiple * height, multiple * width, 3), np.uint8
        )
        expected, found = eager.maps(pixels), runner.maps(pixels)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4 * max(1, np.ptp(expected))


@pytest.mark.parametrize("backend", BACKENDS)
def test_heatmap_peaks_found_in_the_network_match_the_decoder(top_down, tmp_path, backend):
    top_down.config["flip_test"] = False
    bundle = export_bundle(top_down, tmp_path, [FORMAT_OF[backend]], peaks=True)
    exported = load_estimator(tmp_path, backend=backend)
    assert bundle.network.gives == "peaks"
    assert exported.runner.finds_peaks
    expected, found = poses_of(top_down.estimator()), poses_of(exported)
    assert len(found) == len(expected) == len(BOXES)
    assert np.abs(found.keypoints - expected.keypoints).max() < 0.01


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_people_from_peaks_match_the_decoder(trained_bottom_up, tmp_path, backend, batch):
    export_bundle(trained_bottom_up, tmp_path, [FORMAT_OF[backend]], peaks=True, batch=batch)
    eager, exported = trained_bottom_up.estimator(), load_estimator(tmp_path, backend=backend)
    # People touch the edge of the image next to the padding, on the right or below.
    images = [PEOPLE[:, :500], PEOPLE[:, :400]]
    for image, side in zip(images, (0, 1), strict=True):
        size_wh = image.shape[1::-1]
        [[view]] = eager.crop.views(size_wh, None, eager.runner.size_multiple)
        assert view.size_wh[side] > view.content_wh[side]
    requests = [Request(image) for image in images]
    for expected, found in zip(eager.run(requests), exported.run(requests), strict=True):
        assert len(found) == len(expected) >= 2
        assert np.abs(found.keypoints - expected.keypoints).max() < 0.01
        assert np.allclose(found.scores, expected.scores, atol=1e-4)


def test_peaks_are_the_same_on_all_backends(trained_bottom_up, tmp_path, monkeypatch, capsys):
    bundle = export_bundle(trained_bottom_up, tmp_path / "bundle", peaks=True)
    sessions = [load_runner(bundle, backend=backend).session for backend in BACKENDS]
    results = [session.run(*example_inputs(session, size_wh=(256, 192))) for session in sessions]
    names = [[tensor.name for tensor in session.outputs] for session in sessions]
    first, *others = (dict(zip(*pair, strict=True)) for pair in zip(names, results, strict=True))
    assert (first["height"] < 0).any()
    for other in others:
        assert np.array_equal(other["cell"], first["cell"])
        for name in ("height", "patch", "limbs"):
            assert np.allclose(other[name], first[name], atol=1e-3), name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_estimator(bundle.folder)
    [choice] = json.loads(cache_path().read_text())["choices"].values()
    assert choice["ms"].keys() == set(BACKENDS)
    assert "left out" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def int8(people, tmp_path_factory):
    """The quick start network after calibration, and its bundle."""
    folder = tmp_path_factory.mktemp("int8")
    overrides = [
        *data_of(people),
        f"output_dir={folder}/run",
        "quantize={calibration_batches: 1}",
        *("batch_size=8", "workers=0", "flip_test=false"),
    ]
    experiment = Experiment.from_file(ROOT / "configs" / "quickstart.yml", overrides)
    quantized, _ = quantize_trained(experiment)
    return quantized, export_bundle(quantized, folder / "bundle").folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_int8_bundle_runs_in_int8(int8, backend):
    quantized, folder = int8
    eager, exported = quantized.estimator(), load_estimator(folder, backend=backend)
    assert Bundle(folder).network.int8 > 0
    assert exported.runner.session.precision == "int8"
    expected, found = eager(PEOPLE, PEOPLE_BOXES), exported(PEOPLE, PEOPLE_BOXES)
    distances = np.linalg.norm(found.keypoints - expected.keypoints, axis=-1)
    assert np.median(distances) < 1


@pytest.mark.parametrize("change", ["flip_test", "scales"])
def test_peaks_are_rejected_where_maps_are_averaged(bottom_up, tmp_path, change):
    bottom_up.config["flip_test"] = change == "flip_test"
    if change == "scales":
        bottom_up.config["crop"]["scales"] = [1.0, 0.5]
    with pytest.raises(ConfigError, match="peaks: flip_test and crop.scales"):
        export_bundle(bottom_up, tmp_path, peaks=True)


@pytest.mark.parametrize("backend", ["paddle", "onnxruntime"])
@pytest.mark.parametrize("people", [1, 2, 3])
def test_a_fixed_batch_is_padded_and_split(top_down, tmp_path, backend, people):
    bundle = export_bundle(top_down, tmp_path, [FORMAT_OF[backend]], batch=2)
    pixels = np.random.default_rng(2).integers(0, 256, (people, 64, 64, 3), np.uint8)
    found = load_runner(bundle, backend=backend).maps(pixels)
    assert np.abs(found - top_down.estimator().runner.maps(pixels)).max() < 1e-4


def test_description_of_the_bundle(top_down, tmp_path):
    weights = tmp_path / "run" / "best.safetensors"
    save_arrays(weights, float_arrays(top_down.model.state_dict()))
    (weights.parent / "run.json").write_text(json.dumps([{"command": "python tools/train.py"}]))
    scores = {"weights_sha256": file_hash(weights), "AP": 61.5}
    (weights.parent / "scores.json").write_text(json.dumps(scores))
    bundle = export_bundle(top_down, tmp_path / "bundle", weights=weights)
    about = yaml.safe_load((bundle.folder / DESCRIPTION).read_text(encoding="utf-8"))
    assert about["measured"]["AP"] == 61.5
    assert about["training"]["run"][0]["command"] == "python tools/train.py"
    assert len(about["weights"]["sha256"]) == 64
    assert set(about["versions"]) >= {"ppose", "paddle"}
    # The skeleton and all defaults are written out.
    joints = about["codec"]["skeleton"]["joints"]
    assert [joint["name"] for joint in joints] == list(bundle.codec.skeleton.joint_names)
    assert about["crop"]["padding"] == 1.1
    assert about["codec"].keys() - {"type"} == inspect.signature(Heatmap).parameters.keys()


@pytest.mark.parametrize("family", ["top_down", "bottom_up"])
def test_codec_crop_and_postprocess_match_the_config(request, tmp_path, family):
    experiment = request.getfixturevalue(family)
    bundle = export_bundle(experiment, tmp_path, ["onnx"])
    for part in ("codec", "crop", "postprocess"):
        expected, found = (vars(getattr(owner, part)) for owner in (experiment, bundle))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            if isinstance(value, int | float | str | bool | tuple):
                assert found[name] == value, name
    assert bundle.flip_test == experiment.flip_test


def test_mirrors_found_in_names_and_stated_are_written(quickstart, small_run, tmp_path):
    joints = [{"name": j.name, "sigma": j.sigma} for j in COCO17.joints]
    joints[0]["mirror"] = "none"
    skeleton = {"name": "mine", "joints": joints, "limbs": []}
    change = f"skeleton={json.dumps(skeleton)}"
    bundle = export_bundle(Experiment.from_file(quickstart, [*small_run, change]), tmp_path)
    written = bundle.about["codec"]["skeleton"]["joints"]
    expected = ["none", *(j.mirror for j in COCO17.joints[1:])]
    assert [joint["mirror"] for joint in written] == expected
    assert not bundle.codec.skeleton.mirror_is_guessed


def test_files_of_formats_no_longer_requested_are_deleted(top_down, tmp_path):
    export_bundle(top_down, tmp_path, FORMATS)
    export_bundle(top_down, tmp_path, ["onnx"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", DESCRIPTION]
    Bundle(tmp_path)


def test_export_does_not_modify_the_network(top_down, tmp_path):
    before = {k: v.numpy().copy() for k, v in top_down.model.state_dict().items()}
    top_down.model.train()
    export_bundle(top_down, tmp_path, FORMATS)
    after = top_down.model.state_dict()
    assert top_down.model.training
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[k], after[k].numpy()) for k in before)
