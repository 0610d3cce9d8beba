"""Inference over files writes what it promises, where nothing is lost."""

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tiny_detector import write_detector

from ppose.commands import main
from ppose.commands.infer import infer_with_experiment as infer
from ppose.experiment import Experiment
from ppose.inference import image_files as module
from ppose.training.state import float_arrays
from ppose.utils.errors import PposeError, WriteError
from ppose.weights.weight_file import save_arrays


@pytest.fixture
def experiment(quickstart, small_run, tmp_path):
    fresh = Experiment.from_file(quickstart, small_run)
    weights = tmp_path / "weights.safetensors"
    save_arrays(weights, float_arrays(fresh.model.state_dict()))
    return Experiment.from_file(quickstart, [*small_run, f"weights={weights}"])


@pytest.fixture
def no_weights(quickstart, small_run):
    """Only what is refused before the network is loaded is refused with a PposeError."""
    return Experiment.from_file(quickstart, [*small_run, "weights=nowhere.safetensors"])


@pytest.fixture
def photos(people, tmp_path):
    """Makes pictures at paths below a folder, each of other content."""
    sources = sorted((people / "val").iterdir())

    def make(*names):
        folder = tmp_path / "photos"
        for name, source in zip(names, sources, strict=False):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read_bytes())
        return folder

    return make


@pytest.fixture
def weights_and_detector(experiment, photos, tmp_path):
    """Options that run the network, with a detector that finds one person who fills each image."""
    (tmp_path / "person").mkdir()
    detector = write_detector(tmp_path / "person")
    config = tmp_path / "run.yml"
    config.write_text(yaml.safe_dump(experiment.config))
    folder = photos("a.jpg", "b.jpg")
    return ["-c", config, "--infer_img", folder, "--det_model_dir", detector]


def run(*options):
    with pytest.raises(SystemExit) as end:
        main(["infer", *map(str, options)])
    return end.value.code or 0


def test_a_detector_finds_people_for_the_network_of_a_config(weights_and_detector, tmp_path):
    assert run(*weights_and_detector, "--output_dir", tmp_path / "out", "--threads", "1") == 0
    images = report_in(tmp_path / "out")["images"]
    assert [len(image["people"]) for image in images] == [1, 1]
    assert images[0]["box_source"].startswith("person")
    assert run(*weights_and_detector, "--output_dir", tmp_path / "b", "--det_threshold", 0.95) == 0
    assert [len(image["people"]) for image in report_in(tmp_path / "b")["images"]] == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--box", 1, 2, 3, 4], "give boxes or a detector, not both"),
        (["--backend", "paddle"], "--backend: only with --model_dir"),
    ],
)
def test_what_does_not_go_with_a_detector(weights_and_detector, options, message, capsys):
    assert run(*weights_and_detector, *options) == 2
    assert message in capsys.readouterr().err


def test_boxes_that_are_corners_are_an_error(experiment, photos, tmp_path):
    folder = photos("a.jpg")  # 160 x 120
    corners = [80.0, 20.0, 150.0, 110.0]
    with pytest.raises(PposeError, match="are they x1 y1 x2 y2"):
        infer(experiment, f"{folder}/a.jpg", tmp_path / "out", boxes=[corners])
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"file_name": "a.jpg", "bbox": corners}]))
    with pytest.raises(PposeError, match=r"boxes\.json: boxes .*are they x1 y1 x2 y2"):
        infer(experiment, str(folder), tmp_path / "out", bbox_file=str(boxes))


def test_boxes_beyond_the_image_are_named(experiment, photos, tmp_path, capsys):
    folder = photos("a.jpg")
    infer(experiment, f"{folder}/a.jpg", tmp_path / "out", boxes=[[-20, 10, 60, 90], [5, 5, 9, 9]])
    assert "1 of 2 boxes have a tenth or more outside the image of 160x120" in (
        capsys.readouterr().out
    )
    with pytest.raises(PposeError, match="is outside the image of 160x120"):
        infer(experiment, f"{folder}/a.jpg", tmp_path / "out", boxes=[[400, 10, 20, 20]])


def test_poses_and_annotations_are_box_files(experiment, photos, people, tmp_path):
    """The poses are those of the first run again, found in its boxes."""
    folder = photos("a.jpg", "b.jpg")
    boxes = [{"file_name": name, "bbox": [9, 9, 80, 90]} for name in ("a.jpg", "b.jpg")]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    first, second = tmp_path / "first", tmp_path / "second"
    infer(experiment, str(folder), first, bbox_file=str(tmp_path / "boxes.json"))
    poses = str(first / "poses.json")
    infer(experiment, str(folder), second, bbox_file=poses, min_box_score=0.0)
    joints = [
        [p["keypoints"] for i in report_in(f)["images"] for p in i["people"]]
        for f in (first, second)
    ]
    assert joints[0] == joints[1] and len(joints[0]) == 2
    annotations = people / "annotations" / "person_keypoints_val.json"
    infer(experiment, str(people / "val"), second, bbox_file=str(annotations))
    truth = json.loads(annotations.read_text())["annotations"]
    assert sum(len(i["people"]) for i in report_in(second)["images"]) == len(truth)


def report_in(folder):
    return json.loads((folder / "poses.json").read_text())


def drawn_in(folder):
    return {path.name for path in folder.iterdir()} - {"poses.json"}


def looks_like(drawn, original):
    """Whether one picture is the other but for some lines."""
    one, two = (
        cv2.imdecode(np.fromfile(path, np.uint8), 1).astype(int) for path in (drawn, original)
    )
    return one.shape == two.shape and np.median(np.abs(one - two)) < 5


def test_pictures_are_drawn_and_poses_written(experiment, photos, tmp_path, capsys):
    folder, out = photos("a.jpg", "b.jpg"), tmp_path / "out"
    infer(experiment, str(folder), str(out))
    assert drawn_in(out) == {"a.jpg", "b.jpg"}
    assert all(looks_like(out / name, folder / name) for name in drawn_in(out))
    report = report_in(out)
    assert report["skeleton"] == experiment.skeleton.name
    assert report["joints"] == list(experiment.skeleton.joint_names)
    assert [image["image"] for image in report["images"]] == [
        str(folder / "a.jpg"), str(folder / "b.jpg")
    ]  # fmt: skip
    assert "2 people in 2 images" in capsys.readouterr().out


def test_the_default_folder_is_in_the_run(experiment, photos, tmp_path):
    infer(experiment, str(photos("a.jpg")))
    assert drawn_in(tmp_path / "run" / "infer") == {"a.jpg"}


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_input_pictures_are_never_overwritten(no_weights, photos, tmp_path, link):
    folder = photos("a.jpg", "b.jpg")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = folder
    if link:
        out = tmp_path / "out"
        out.mkdir()
        link(folder / "b.jpg", out / "b.jpg")
    with pytest.raises(PposeError, match=r"\.jpg would be overwritten; .* --output_dir"):
        infer(no_weights, str(folder), str(out))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_box_file_is_never_overwritten(no_weights, photos, tmp_path):
    folder, boxes = photos("a.jpg"), tmp_path / "poses.json"
    boxes.write_text(json.dumps([{"file_name": "a.jpg", "bbox": [0, 0, 50, 90]}]))
    with pytest.raises(PposeError, match=r"poses\.json would be overwritten"):
        infer(no_weights, str(folder), str(tmp_path), bbox_file=str(boxes))


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("photo", "photo.jpg"),
        ("photo.jfif", "photo.jfif.jpg"),
        ("photo.pgm", "photo.pgm.jpg"),
        ("photo.JPG", "photo.JPG"),
        ("photo.png", "photo.png"),
    ],
)
def test_the_name_of_a_picture_does_not_matter(experiment, photos, tmp_path, name, drawn):
    folder, out = photos(name), tmp_path / "out"
    infer(experiment, str(folder / name), str(out))
    assert drawn_in(out) == {drawn}
    assert looks_like(out / drawn, folder / name)
    assert len(report_in(out)["images"]) == 1


@pytest.mark.parametrize(
    ("names", "drawn"),
    [
        (("p/b/x.jpg", "q/b/x.jpg"), ["p_b_x.jpg", "q_b_x.jpg"]),
        (("x.jpg", "p/x.jpg", "p/y.jpg"), ["p_x.jpg", "y.jpg", "x.jpg"]),
        (("p/x.jpg", "q/x.jpg", "r/p_x.jpg"), ["p_x.jpg", "q_x.jpg", "p_x_2.jpg"]),
        (("a_b/x.jpg", "a/b_x.jpg", "c/b_x.jpg", "c/x.jpg"),
         ["a_b_x.jpg", "a_b_x_2.jpg", "c_b_x.jpg", "c_x.jpg"]),
        (("p/x.jpg", "q/X.jpg"), ["p_x.jpg", "q_X.jpg"]),
    ],
)  # fmt: skip
def test_equal_names_in_several_folders_stay_apart(experiment, photos, tmp_path, names, drawn):
    folder, out = photos(*names), tmp_path / "out"
    infer(experiment, f"{folder}/**/*.jpg", str(out))
    assert drawn_in(out) == set(drawn)
    originals = list(folder.rglob("*.jpg"))
    for path in out.glob("*.jpg"):
        assert sum(looks_like(path, original) for original in originals) == 1


def test_boxes_of_a_file_that_cannot_be_used_are_reported(experiment, photos, tmp_path, capsys):
    folder, out, boxes = photos("a.jpg", "b.jpg"), tmp_path / "out", tmp_path / "boxes.json"
    entries = [("a.jpg", [10, 10, 0, 90]), ("a.jpg", [10, 10, 60, 90]), ("b.jpg", [1, 1, 50, -2])]
    boxes.write_text(json.dumps([{"file_name": n, "bbox": b} for n, b in entries]))
    infer(experiment, str(folder), str(out), bbox_file=str(boxes))
    people = {image["image"]: image["people"] for image in report_in(out)["images"]}
    assert [person["box_xywh"] for person in people[str(folder / "a.jpg")]] == [[10, 10, 60, 90]]
    assert people[str(folder / "b.jpg")] == []
    assert (
        "boxes.json: skipped: box without a width or height: 2 (entry 0:" in capsys.readouterr().out
    )


def test_a_box_file_of_other_pictures_is_refused(no_weights, photos, tmp_path):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"file_name": "z.jpg", "bbox": [0, 0, 50, 90]}]))
    with pytest.raises(PposeError, match="no box with a score of at least 0.3 for any of the 2"):
        infer(no_weights, str(photos("a.jpg", "b.jpg")), bbox_file=str(boxes))


def test_a_given_box_without_a_width_is_refused(experiment, photos, tmp_path):
    folder, out = photos("a.jpg"), tmp_path / "out"
    with pytest.raises(PposeError, match=r"a\.jpg: box \[1\.0, 1\.0, 0\.0, 5\.0\]"):
        infer(experiment, str(folder), str(out), boxes=[[1, 1, 0, 5]])
    assert not out.exists()


def test_given_boxes_are_for_one_picture(no_weights, photos):
    with pytest.raises(PposeError, match="there are 2; use a box file"):
        infer(no_weights, str(photos("a.jpg", "b.jpg")), boxes=[[1, 1, 50, 90]])


def test_boxes_come_from_one_place(no_weights, photos):
    with pytest.raises(PposeError, match="not both"):
        infer(no_weights, str(photos("a.jpg")), boxes=[[1, 1, 50, 90]], bbox_file="boxes.json")


def test_unreadable_pictures_are_left_out(experiment, photos, tmp_path, capsys):
    folder, out = photos("a.jpg"), tmp_path / "out"
    (folder / "broken.jpg").write_bytes(b"\xff\xd8nothing")
    infer(experiment, str(folder), str(out))
    assert drawn_in(out) == {"a.jpg"}
    assert f"left out: {folder / 'broken.jpg'}: " in capsys.readouterr().out
    (folder / "a.jpg").unlink()
    with pytest.raises(PposeError, match="no image could be read"):
        infer(experiment, str(folder), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_what_was_found_stays_when_it_is_stopped(experiment, photos, tmp_path, monkeypatch):
    photos("a.jpg", "b.jpg")
    save, drawn = module.save_image, []

    def stopped_at_the_second(path, image):
        drawn.append(path)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        save(path, image)

    monkeypatch.setattr(module, "save_image", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        infer(experiment, str(tmp_path / "photos"), str(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "poses.json").read_text())
    assert len(report["images"]) == 2


def test_a_network_that_needs_boxes_says_that_it_got_none(experiment, photos, tmp_path, capsys):
    infer(experiment, str(photos("a.jpg")), str(tmp_path / "out"))
    assert "each image is treated as one person" in capsys.readouterr().out


def test_each_image_is_decoded_once(quickstart, small_run, people, tmp_path, monkeypatch):
    from ppose.data import images
    from ppose.inference import estimator

    decoded = []

    def counted(path, *arguments):
        decoded.append(path)
        return images.read_image(path, *arguments)

    monkeypatch.setattr(estimator, "read_image", counted)
    experiment = Experiment.from_file(quickstart, [*small_run, "weights=null"])
    save_arrays(experiment.best_weights, float_arrays(experiment.model.state_dict()))
    infer(experiment, str(people / "val"), str(tmp_path / "out"))
    assert sorted(decoded) == sorted((people / "val").iterdir())
    assert len(list((tmp_path / "out").glob("*.jpg"))) == len(decoded)


NAMES = [
    "é.jpg",  # in UTF-8
    os.fsdecode(b"\xe9t\xe9.jpg"),  # in Latin-1
    os.fsdecode(b"no suffix \xff"),
    "line\nbreak \x1b[31mred.png",
    "-o.jpg",
    "x" * 251 + ".jpg",
]


def test_names_of_any_bytes_are_written_and_read_back(experiment, photos, tmp_path, capsys):
    folder, out = photos(*(name for name in NAMES if Path(name).suffix)), tmp_path / "out"
    (folder / os.fsdecode(b"\xe9mpty.jpg")).touch()
    infer(experiment, str(folder), str(out))
    assert drawn_in(out) == {name for name in NAMES if Path(name).suffix}
    images = [os.fsencode(image["image"]) for image in report_in(out)["images"]]
    assert sorted(images) == sorted(os.fsencode(f"{folder}/{name}") for name in drawn_in(out))
    printed = capsys.readouterr().out
    assert r"\udce9mpty.jpg: the file is empty" in printed
    assert printed.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_any_name(experiment, photos, tmp_path, name):
    folder, out = photos(name), tmp_path / "out"
    infer(experiment, str(folder / name), str(out))
    (drawn,) = drawn_in(out)
    assert drawn == (name if Path(name).suffix else f"{name}.jpg")
    assert looks_like(out / drawn, folder / name)


def test_a_drawing_of_a_long_name_gets_a_shorter_one(experiment, photos, tmp_path):
    names = ["y" * 255, f"a/{'x' * 251}.jpg", f"b/{'x' * 251}.jpg"]
    folder, out = photos(*names), tmp_path / "out"
    for pictures in (folder / names[0], f"{folder}/*/*"):
        infer(experiment, str(pictures), str(out))
    assert drawn_in(out) == {
        "y" * 251 + ".jpg",
        "a_" + "x" * 249 + ".jpg",
        "b_" + "x" * 249 + ".jpg",
    }


def test_a_full_disk_keeps_what_was_found(experiment, photos, tmp_path, small_disk):
    folder = photos("a.jpg", "b.jpg", "c.jpg")
    out = small_disk / "out"
    infer(experiment, str(folder), str(out))
    room = sum(path.stat().st_size for path in out.iterdir())
    shutil.rmtree(out)
    (small_disk / "filler").write_bytes(bytes(2**20 - room))
    with pytest.raises(WriteError) as error:
        infer(experiment, str(folder), str(out))
    found = re.fullmatch(
        rf"{out}/(\w)\.jpg: cannot be written: No space left on device, after [\d,]+ bytes, and "
        r"[\d,]+ are free; make room or choose another folder",
        str(error.value),
    )
    assert found, error.value
    written = {name for name in ("a.jpg", "b.jpg") if name < found[1]}
    assert drawn_in(out) == written
    assert all(looks_like(out / name, folder / name) for name in written)
    assert len(report_in(out)["images"]) == len(written) + 1
