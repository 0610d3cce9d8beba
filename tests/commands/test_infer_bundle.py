"""`deploy/infer.py` as people call it."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT

import ppose
from ppose.deploy.pipeline import PosePipeline
from ppose.deploy.session_runner import load_estimator

PEOPLE = ROOT / "dataset" / "test_image" / "people.jpg"
BOXES = ([114, 71, 116, 368], [321, 187, 123, 250])


def infer(*arguments):
    command = [sys.executable, str(ROOT / "deploy" / "infer.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def found_in(folder):
    images = json.loads((folder / "poses.json").read_text())["images"]
    return [np.array([p["keypoints"] for p in image["people"]]) for image in images]


def test_given_boxes_give_what_the_config_gives(top_down_bundle, tmp_path):
    boxes = [word for box in BOXES for word in ("--box", *box)]
    run = infer(
        *("--model_dir", top_down_bundle, "--image_file", PEOPLE, "--output_dir", tmp_path),
        *("--backend", "onnxruntime", "--batch_size", 1, *boxes),
    )
    assert run.returncode == 0, run.stderr
    [keypoints] = found_in(tmp_path)
    expected = ppose.load(ROOT / "configs" / "quickstart.yml")(PEOPLE, BOXES).keypoints
    assert np.abs(keypoints - expected).max() < 0.05
    assert cv2.imread(str(tmp_path / "people.jpg")).shape == cv2.imread(str(PEOPLE)).shape


@pytest.mark.parametrize(("least", "people"), [([], 2), (["--min_box_score", 0.6], 1)])
def test_boxes_of_a_file(top_down_bundle, tmp_path, least, people):
    entries = [
        {"file_name": PEOPLE.name, "bbox": list(box), "score": score}
        for box, score in zip(BOXES, (0.9, 0.5), strict=True)
    ]
    table = tmp_path / "boxes.json"
    table.write_text(json.dumps(entries))
    run = infer(
        *("--model_dir", top_down_bundle, "--image_dir", PEOPLE, "--output_dir", tmp_path / "out"),
        *("--backend", "onnxruntime", "--bbox_file", table, *least),
    )
    assert run.returncode == 0, run.stderr
    [keypoints] = found_in(tmp_path / "out")
    expected = ppose.load(ROOT / "configs" / "quickstart.yml")(PEOPLE, BOXES[:people]).keypoints
    assert np.abs(keypoints[..., :2] - expected[..., :2]).max() < 0.05


def test_each_bundle_has_a_folder_of_results(bottom_up_bundle, tmp_path):
    command = [sys.executable, str(ROOT / "deploy" / "infer.py"), "--backend", "onnxruntime"]
    command += ["--model_dir", str(bottom_up_bundle), "--image_file", str(PEOPLE)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "output" / "deploy" / bottom_up_bundle.name / "poses.json").is_file()


def test_a_folder_in_which_one_picture_is_damaged(bottom_up_bundle, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(PEOPLE.read_bytes())
    (photos / "b.jpg").write_bytes(PEOPLE.read_bytes()[:2000])
    run = infer(
        *("--model_dir", bottom_up_bundle, "--image_dir", photos, "--backend", "openvino"),
        *("--output_dir", tmp_path / "out", "--threads", 1),
    )
    assert run.returncode == 0, run.stderr
    assert "left out" in run.stdout and "b.jpg" in run.stdout
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["a.jpg", "poses.json"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Six frames of the picture with people, moved by a few pixels each."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    picture = cv2.imread(str(PEOPLE))
    height, width = picture.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (width, height))
    for i in range(6):
        writer.write(np.roll(picture, 3 * i, 1))
    writer.release()
    return path


@pytest.mark.parametrize("tracking", [True, False])
def test_a_video(bottom_up_bundle, clip, tmp_path, tracking):
    run = infer(
        *("--model_dir", bottom_up_bundle, "--video_file", clip, "--output_dir", tmp_path),
        *("--backend", "onnxruntime", "--batch_size", 2, *([] if tracking else ["--no_tracking"])),
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in (tmp_path / "clip.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(6))
    ids = [{person["track_id"] for person in line["people"]} for line in lines]
    assert all(ids) and (len(set.intersection(*ids) - {None}) >= 2) == tracking
    assert (tmp_path / "clip.mp4").stat().st_size > 1000
    assert all(stage in run.stdout for stage in ("network", "decode", "reading", "drawing"))


def test_video_alone_writes_no_pictures(bottom_up_bundle, clip, tmp_path):
    run = infer(
        *("--model_dir", bottom_up_bundle, "--video_file", clip, "--output_dir", tmp_path),
        *("--backend", "onnxruntime", "--no_video", "--no_smoothing"),
    )
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / "clip.mp4").exists()
    first = json.loads((tmp_path / "clip.jsonl").read_text().splitlines()[0])
    assert "raw_keypoints" not in first["people"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--image_file", "nowhere.jpg"], 1, "image or folder nowhere.jpg does not exist"),
        (["--video_file", "nowhere.mp4"], 1, "nowhere.mp4"),
        (["--image_file", ""], 2, "--image_file is empty"),
        (["--video_file", ""], 2, "--video_file is empty"),
        (["--image_file", PEOPLE, "--threads", "0"], 2, "--threads starts at 1"),
        (["--image_file", PEOPLE, "--threads", "100000"], 1, "threads: expected at most"),
        (["--image_file", PEOPLE, "--batch_size", "0"], 2, "--batch_size starts at 1"),
        (["--image_file", PEOPLE, "--det_threshold", "0.3"], 2, "goes with --det_model_dir"),
        (["--image_file", PEOPLE, "--backend", "tensorrt"], 2, "invalid choice: 'tensorrt'"),
        (["--image_file", PEOPLE, "--precision", "int8"], 1, "a float model"),
        (["--image_file", PEOPLE, "--det_model_dir", "nowhere"], 1, "bottom-up"),
        (
            ["--image_file", PEOPLE, "--device", "gpu", "--backend", "onnxruntime"],
            1,
            "pip install onnxruntime-gpu instead",
        ),
        (["--image_dir", ROOT, "--box", "1", "2", "3", "4"], 2, "--box goes with --image_file"),
        (["--video_file", "a.mp4", "--bbox_file", "b.json"], 2, "--bbox_file goes with images"),
        (
            ["--image_file", PEOPLE, "--bbox_file", "nowhere.json"],
            1,
            "file nowhere.json does not exist",
        ),
        (["--image_file", PEOPLE, "--bbox_file", "b", "--box", *"1234"], 2, "not both"),
        (["--image_file", PEOPLE, "--bbox_file", ""], 2, "--bbox_file is empty"),
        (["--image_file", PEOPLE, "--bbox_file", ROOT], 1, "is a folder"),
        (["--image_file", PEOPLE, "--min_box_score", "0.5"], 2, "goes with --bbox_file"),
        (["--image_file", PEOPLE, "--bbox_file", "b", "--min_box_score", "nan"], 2, "0 to 1"),
        (["--image_file", PEOPLE, "--bbox_file", "b", "--det_model_dir", "d"], 2, "not both"),
        ([], 2, "one of the arguments"),
    ],
)
def test_errors_are_one_line_without_a_trace(bottom_up_bundle, tmp_path, arguments, code, message):
    run = infer("--model_dir", bottom_up_bundle, "--output_dir", tmp_path / "x", *arguments)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_no_bundle(tmp_path):
    run = infer("--model_dir", tmp_path, "--image_file", PEOPLE, "--output_dir", tmp_path / "x")
    assert run.returncode == 1
    assert "not a bundle: it has no pose.yml" in run.stderr


class Halves:
    """A detector that takes both halves of a picture as people."""

    name = "halves"

    def __call__(self, images):
        sizes = [image.shape[1::-1] for image in images]
        return [
            np.array([[0, 0, w / 2, h, 0.9], [w / 2, 0, w / 2, h, 0.8]], np.float32)
            for w, h in sizes
        ]


@pytest.mark.parametrize("batch_size", [2, 16])
def test_the_detector_has_the_batches_of_the_network(top_down_bundle, batch_size):
    counts = []

    class Counted(Halves):
        def __call__(self, images):
            counts.append(len(images))
            return super().__call__(images)

    estimator = load_estimator(top_down_bundle, backend="onnxruntime", batch_size=batch_size)
    PosePipeline(estimator, Counted())([np.zeros((40, 30, 3), np.uint8)] * 6)
    assert counts == ([2, 2, 2] if batch_size == 2 else [6])


def test_a_finder_gives_each_picture_the_poses_of_its_boxes(top_down_bundle):
    estimator = load_estimator(top_down_bundle, backend="onnxruntime")
    pictures = [cv2.imread(str(PEOPLE), cv2.IMREAD_COLOR_RGB)[:, : 400 + 40 * i] for i in range(6)]
    found = PosePipeline(estimator, Halves())(pictures)
    assert [poses.box_source for poses in found] == ["halves"] * 6
    for picture, poses in zip(pictures, found, strict=True):
        [boxes] = Halves()([picture])
        alone = estimator(picture, boxes)
        assert np.allclose(alone.keypoints, poses.keypoints, atol=1e-3)
        assert np.allclose(alone.scores, poses.scores)
    assert estimator.timer.seconds["detector"] > 0
