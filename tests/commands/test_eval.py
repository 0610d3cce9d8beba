"""An exported network scores what its weights score, on any backend, with a detector or without."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from conftest import ROOT, VAL, data_of
from onnx import TensorProto, helper, numpy_helper

from ppose.commands.eval import evaluate_pipeline, evaluate_weights
from ppose.data.images import read_image
from ppose.deploy.backends.settings import BACKENDS
from ppose.deploy.detection.detector import load_detector
from ppose.deploy.pipeline import load_pipeline
from ppose.evaluation import evaluate
from ppose.experiment import Experiment
from ppose.export.write_bundle import export_bundle
from ppose.utils.errors import WriteError

CLOSE = 1e-3  # 0.1 point of AP
FLOAT, SIDE = TensorProto.FLOAT, 64


@pytest.fixture(scope="module")
def overrides(people):
    return [*data_of(people), "workers=0", "flip_test=false"]


@pytest.fixture(scope="module")
def trained(overrides):
    """The quick start with the weights that ship, on the small data set."""
    return Experiment.from_file(ROOT / "configs" / "quickstart.yml", overrides)


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory):
    trained.loaded_estimator()
    return export_bundle(trained, tmp_path_factory.mktemp("bundle")).folder


@pytest.fixture(scope="module")
def boxes(people):
    """(P, 5) boxes x1, y1, x2, y2 of everybody in any image, as shares of it, and scores; one
    more scores too little."""
    annotations = json.loads((people / "annotations/person_keypoints_val.json").read_text())
    size_wh = [annotations["images"][0][side] for side in ("width", "height")]
    xywh = np.array([person["bbox"] for person in annotations["annotations"]]).reshape(-1, 2, 2)
    corners = np.cumsum(xywh, axis=1) / size_wh
    scores = np.linspace(0.6, 0.9, len(corners))[:, None]
    found = np.concatenate([corners.reshape(-1, 4), scores], 1)
    return np.concatenate([found, [[0, 0, 1, 1, 0.3]]]).astype(np.float32)


@pytest.fixture(scope="module")
def detector(boxes, tmp_path_factory):
    """A network that finds these people in any image."""
    folder = tmp_path_factory.mktemp("detector")
    constants = {
        "boxes": SIDE * boxes[None, :, :4],
        "likely": boxes[None, None, :, 4],
        "zero": np.zeros(1, np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["zeros"]),
        helper.make_node("Squeeze", ["zeros"], ["flat"]),
        helper.make_node("Add", ["boxes", "flat"], ["places"]),
        helper.make_node("Add", ["likely", "flat"], ["scores"]),
    ]
    count = len(boxes)
    sides = {"image": (1, 3, SIDE, SIDE), "places": (1, count, 4), "scores": (1, 1, count)}
    image, *outputs = (helper.make_tensor_value_info(k, FLOAT, v) for k, v in sides.items())
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "everybody", [image], outputs, tensors)
    opset = helper.make_opsetid("", 17)
    onnx.save(
        helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "everybody.onnx"
    )
    (folder / "detector.yml").write_text("mean: [0, 0, 0]\nstd: [1, 1, 1]\nnms_iou: 1.0\n")
    return folder


@pytest.fixture(scope="module")
def boxes_file(trained, boxes, detector, tmp_path_factory):
    """What the detector finds, in COCO's form."""
    find = load_detector(detector, backend="onnxruntime")
    found = [
        {"image_id": int(r.image_id), "category_id": 1, "bbox": box[:4].tolist(), "score": score}
        for r in trained.val_dataset.images
        for box in find([read_image(r.path)])[0]
        for score in [float(box[4])]
    ]
    assert len(found) == VAL * (len(boxes) - 1)
    path = tmp_path_factory.mktemp("boxes") / "boxes.json"
    path.write_text(json.dumps(found))
    return path


@pytest.fixture(scope="module")
def expected(overrides, boxes_file):
    """Scores of the weights, by whether the detector's boxes are used."""
    made = {}
    for detects in (False, True):
        own = [f"val_dataset.bbox_file={boxes_file}"] if detects else []
        config = ROOT / "configs" / "quickstart.yml"
        experiment = Experiment.from_file(config, [*overrides, *own])
        estimator = experiment.loaded_estimator()
        made[detects] = evaluate(estimator, experiment.val_dataset, experiment.metric, quiet=True)
        assert 0.05 < made[detects].ap < 1
    assert abs(made[True].ap - made[False].ap) > 10 * CLOSE
    return made


@pytest.mark.parametrize("detects", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bundle_scores_what_its_weights_score(
    trained, bundle, detector, expected, backend, detects
):
    def finder():
        return load_pipeline(bundle, detector if detects else None, backend=backend)

    scores = evaluate_pipeline(trained, finder, {})
    assert abs(scores.ap - expected[detects].ap) <= CLOSE
    assert scores.images == VAL
    assert scores.detections == expected[detects].detections


def test_people_below_the_threshold_are_left_out(trained, bundle, boxes, detector):
    def detections(threshold):
        finder = load_pipeline(bundle, detector, backend="onnxruntime", min_box_score=threshold)
        finder.estimator.postprocess.oks_nms = None
        return evaluate_pipeline(trained, lambda: finder, {}).detections

    for threshold in (0.1, 0.5, 0.85):
        assert detections(threshold) == VAL * (boxes[:, 4] > threshold).sum()


@pytest.mark.parametrize("detects", [False, True])
def test_the_command_line(overrides, bundle, detector, expected, tmp_path, detects):
    scores = tmp_path / "scores.json"
    command = [sys.executable, ROOT / "tools" / "eval.py", "-c", "configs/quickstart.yml"]
    command += ["--model_dir", bundle, "--backend", "onnxruntime", "--json", scores]
    command += ["--det_model_dir", detector] if detects else []
    done = subprocess.run(
        [*map(str, command), "-o", *overrides], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(scores.read_text())
    assert abs(found["AP"] - expected[detects].to_dict()["AP"]) <= 100 * CLOSE
    assert found["model_dir"] == str(bundle)
    assert found["det_model_dir"] == (str(detector) if detects else None)
    assert found["backend"] == "onnxruntime"
    assert found["box_source"] == ("everybody, scores from 0.5" if detects else "ground truth")


@pytest.mark.parametrize(("room", "written"), [(4096, ["scores.json"]), (0, [])])
def test_a_full_disk_is_named_and_the_scores_are_printed(
    trained, small_disk, capsys, room, written
):
    files = [small_disk / "scores.json", small_disk / "results.json"]
    (small_disk / "filler").write_bytes(bytes(2**20 - room))
    with pytest.raises(WriteError, match=r"results\.json: cannot be written: No space left"):
        evaluate_weights(trained, *map(str, files))
    assert "AP" in capsys.readouterr().out
    assert [path.name for path in files if path.exists()] == written
