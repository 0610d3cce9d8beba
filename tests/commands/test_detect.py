"""`ppose detect`: boxes of a detector as a file that inference and evaluation take."""

import json
import os

import cv2
import numpy as np
import pytest
from tiny_detector import write_detector

from ppose.commands import main
from ppose.data.boxes import BoxFile


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["detect", *map(str, arguments)])
    return end.value.code or 0


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("a.png", (40, 60)), ("b.png", (80, 50))):
        cv2.imwrite(str(folder / name), np.full((*size, 3), 90, np.uint8))
    return folder


@pytest.fixture
def detector(tmp_path):
    folder = tmp_path / "person"
    folder.mkdir()
    return write_detector(folder)


def test_the_file_is_a_box_file(images, detector, tmp_path, capsys):
    output = tmp_path / "found" / "boxes.json"
    options = ["--det_model_dir", detector, "--image_dir", images, "--output", output]
    assert run(*options, "--det_threshold", "0.5") == 0
    assert "2 people in 2 images" in capsys.readouterr().out
    boxes = BoxFile(output)
    for path in sorted(images.iterdir()):
        height, width = cv2.imread(str(path)).shape[:2]
        assert np.allclose(boxes.of(path), [[0, 0, width, height, 0.9]], atol=1e-3)


def test_the_threshold_is_that_of_the_option(images, detector, tmp_path):
    output = tmp_path / "boxes.json"
    options = ["--det_model_dir", detector, "--image_dir", images, "--output", output]
    assert run(*options, "--det_threshold", "0.95") == 0
    assert json.loads(output.read_text()) == []


def test_annotations_choose_the_images_and_give_their_ids(images, detector, tmp_path):
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps({"images": [{"id": 7, "file_name": "b.png"}]}))
    output = tmp_path / "boxes.json"
    options = ["--det_model_dir", detector, "--image_dir", images, "--output", output]
    assert run(*options, "--anno_path", annotations) == 0
    (entry,) = json.loads(output.read_text())
    assert (entry["image_id"], entry["file_name"], entry["category_id"]) == (7, "b.png", 1)
    annotations.write_text(json.dumps({"images": [{"id": 7, "file_name": "z.png"}]}))
    assert run(*options, "--anno_path", annotations) == 1


def test_an_image_that_cannot_be_read_is_named(images, detector, tmp_path, capsys):
    (images / "c.png").write_bytes(b"nothing")
    options = ["--det_model_dir", detector, "--image_dir", images, "--output", tmp_path / "b.json"]
    assert run(*options) == 0
    printed = capsys.readouterr().out
    assert "left out" in printed and "c.png" in printed
    assert "2 people in 2 images" in printed


def test_nothing_to_read_is_an_error(images, detector, tmp_path, capsys):
    for path in images.iterdir():
        path.write_bytes(b"nothing")
    output = tmp_path / "b.json"
    assert run("--det_model_dir", detector, "--image_dir", images, "--output", output) == 1
    assert not output.exists()


@pytest.mark.parametrize(
    "wrong",
    [["--det_threshold=2"], ["--batch_size=0"], ["--threads=0"], ["--det_model_dir="]],
    ids=lambda wrong: wrong[0],
)
def test_wrong_options(wrong, images, detector):
    assert run("--det_model_dir", detector, "--image_dir", images, *wrong) == 2


def test_names_of_any_bytes(images, detector, tmp_path, capsys):
    odd = images / os.fsdecode(b"\xe9\n.png")
    (images / "a.png").rename(odd)
    (images / os.fsdecode(b"\xe8.png")).touch()
    output = tmp_path / "boxes.json"
    assert run("--det_model_dir", detector, "--image_dir", images, "--output", output) == 0
    assert "left out: " in (printed := capsys.readouterr().out)
    assert printed.replace("\n", "").isprintable()
    assert len(BoxFile(output).of(odd)) == 1
