"""Synthetic scenes, the dataset that is written from them, and the command line."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppose.structures.skeleton import COCO17
from ppose.synthetic import DatasetExistsError, Recipe, Scene, render_scene, write_coco
from ppose.synthetic.body import Body, forward_kinematics
from ppose.synthetic.dataset import encode_jpeg, polygons
from ppose.synthetic.postures import POSES
from ppose.synthetic.scene import SETTINGS

TOOL = Path(__file__).parents[2] / "tools" / "make_synthetic.py"
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=60, deadline=None, derandomize=True)


def scene(seed: int, **options) -> Scene:
    return render_scene(np.random.default_rng(seed), **options)


def column(name: str) -> int:
    return COCO17.index(name)


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [scene(seed) for seed in range(200)]


@pytest.fixture(scope="module")
def coco_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    write_coco(folder, "val", 24, seed=3)
    return folder


@pytest.fixture(scope="module")
def coco(coco_folder) -> COCO:
    return COCO(coco_folder / "annotations" / "person_keypoints_val.json")


# Scenes


def test_the_image_depends_only_on_the_seed():
    first, again, other = scene(5), scene(5), scene(6)
    assert encode_jpeg(first) == encode_jpeg(again)
    np.testing.assert_array_equal(first.keypoints, again.keypoints)
    assert encode_jpeg(first) != encode_jpeg(other)


@pytest.mark.parametrize("size_wh", [(64, 64), (320, 240), (199, 301)])
@pytest.mark.parametrize("difficulty", SETTINGS)
def test_shapes_and_types(size_wh, difficulty):
    drawn = scene(1, size_wh=size_wh, difficulty=difficulty, people=4)
    width, height = size_wh
    people = len(drawn.keypoints)
    assert 1 <= people <= 4
    assert drawn.image.shape == (height, width, 3) and drawn.image.dtype == np.uint8
    assert drawn.keypoints.shape == (people, 17, 3) and drawn.keypoints.dtype == np.float32
    assert drawn.masks.shape == (people, height, width) and drawn.masks.dtype == bool
    assert drawn.boxes_xywh.shape == (people, 4)
    assert drawn.yaw.shape == (people,) and len(drawn.poses) == people


@few
@given(seed=SEEDS, difficulty=st.sampled_from(list(SETTINGS)))
def test_keypoints_masks_and_boxes_agree(seed, difficulty):
    drawn = scene(seed, difficulty=difficulty)
    height, width = drawn.image.shape[:2]
    assert drawn.masks.sum(0, dtype=int).max(initial=0) <= 1
    for person, mask, box in zip(drawn.keypoints, drawn.masks, drawn.boxes_xywh, strict=True):
        xy, visibility = person[:, :2], person[:, 2]
        assert set(visibility) <= {0, 1, 2}
        assert (visibility == 2).sum() >= 3
        assert (xy[visibility == 0] == 0).all()
        labelled = xy[visibility > 0]
        assert (labelled >= 0).all() and (labelled <= (width - 1, height - 1)).all()
        column_, row = np.rint(xy[visibility == 2]).astype(int).T
        assert mask[row, column_].all()
        x, y, w, h = box.astype(int)
        assert mask[y : y + h, x : x + w].sum() == mask.sum()
        assert mask[y].any() and mask[y + h - 1].any()
        assert mask[:, x].any() and mask[:, x + w - 1].any()


@few
@given(seed=SEEDS)
def test_left_joints_are_on_the_right_of_people_facing_the_camera(seed):
    drawn = scene(seed, difficulty="easy")
    for person, yaw, pose in zip(drawn.keypoints, drawn.yaw, drawn.poses, strict=True):
        if pose == "lie":
            continue
        for stem in ("shoulder", "hip"):
            left, right = person[column(f"left_{stem}")], person[column(f"right_{stem}")]
            if left[2] == 0 or right[2] == 0:
                continue
            if abs(yaw) < 50:
                assert left[0] > right[0]
            elif abs(yaw) > 130:
                assert left[0] < right[0]


def test_faces_are_visible_only_from_the_front(many):
    shown: dict[str, list[float]] = {"front": [], "back": []}
    for drawn in many:
        for person, yaw, pose in zip(drawn.keypoints, drawn.yaw, drawn.poses, strict=True):
            eyes = person[[column("left_eye"), column("right_eye")], 2]
            if pose not in ("lie", "bend") and (eyes > 0).all():
                side = "front" if abs(yaw) < 25 else "back" if abs(yaw) > 150 else None
                if side:
                    shown[side].append(float((eyes == 2).mean()))
    assert min(map(len, shown.values())) > 30
    assert np.mean(shown["front"]) > 0.8
    assert np.mean(shown["back"]) < 0.05


def test_profile_views_hide_the_far_side(many):
    visible = Counter()
    for drawn in many:
        for person, yaw, pose in zip(drawn.keypoints, drawn.yaw, drawn.poses, strict=True):
            if pose == "lie" or not 75 < abs(yaw) < 105:
                continue
            # A person facing the right image border has the right side nearer to the camera.
            sides = ("right", "left") if yaw > 0 else ("left", "right")
            for name, side in zip(("near", "far"), sides, strict=True):
                visible[name, "shown"] += person[column(f"{side}_shoulder"), 2] == 2
                visible[name, "all"] += person[column(f"{side}_shoulder"), 2] > 0
    assert visible["near", "all"] > 20
    assert visible["near", "shown"] > 0.6 * visible["near", "all"]
    assert visible["far", "shown"] < 0.1 * visible["far", "all"]


def test_scenes_vary(many):
    people = Counter(len(drawn.masks) for drawn in many)
    assert {1, 2, 3, 4} <= set(people)
    assert len({pose for drawn in many for pose in drawn.poses}) >= 12
    visibility = np.concatenate([drawn.keypoints[..., 2].ravel() for drawn in many])
    shares = [(visibility == v).mean() for v in (0, 1, 2)]
    assert 0.01 < shares[0] < 0.15, "cut off by the image border"
    assert 0.1 < shares[1] < 0.45, "hidden"
    assert shares[2] > 0.5, "seen"


@pytest.mark.parametrize("seen", ["cut off", "hidden"])
def test_difficulty_is_ordered(seen):
    value = 0 if seen == "cut off" else 1
    shares = []
    for difficulty in ("easy", "normal", "hard"):
        drawn = [scene(seed, difficulty=difficulty).keypoints[..., 2] for seed in range(60)]
        shares.append((np.concatenate([v.ravel() for v in drawn]) == value).mean())
    assert shares == sorted(shares) and shares[2] > shares[0] + 0.03


def test_a_group_is_several_people_who_are_not_cut_off():
    drawn = [scene(seed, difficulty="group") for seed in range(40)]
    assert {len(one.boxes_xywh) for one in drawn} == {2, 3, 4}
    visibility = np.concatenate([one.keypoints[..., 2].ravel() for one in drawn])
    assert (visibility == 0).mean() < 0.01
    assert (visibility == 2).mean() > 0.6


def test_people_differ_from_the_background():
    contrasts = []
    for seed in range(40):
        drawn = scene(seed)
        grey = cv2.cvtColor(drawn.image, cv2.COLOR_RGB2GRAY).astype(float)
        edges = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))
        for mask in drawn.masks:
            rim = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3)))
            contrasts.append(edges[rim > 0].mean() / edges[~drawn.masks.any(0)].mean())
    assert np.median(contrasts) > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size_wh": (20, 240)}, "found 20x240"),
        ({"difficulty": "medium"}, "easy, group, normal, hard; found 'medium'"),
        ({"people": 0}, "expected 1..6"),
        ({"people": 7}, "found 7"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        scene(0, **options)


# Bodies


@few
@given(seed=SEEDS, name=st.sampled_from(list(POSES)))
def test_bones_have_fixed_lengths_and_nobody_is_below_the_ground(seed, name):
    rng = np.random.default_rng(seed)
    body, pose = Body.random(rng), POSES[name][1](rng)
    posed = forward_kinematics(body, pose, (0.0, 0.0, 0.0))
    bones = {
        "upper arm": (posed.shoulder, posed.elbow, 0.285),
        "forearm": (posed.elbow, posed.wrist, 0.25),
        "thigh": (posed.hip, posed.knee, 0.425),
        "shin": (posed.knee, posed.ankle, 0.41),
    }
    for start, end, length in bones.values():
        np.testing.assert_allclose(np.linalg.norm(end - start, axis=1), length * body.size)
    joints = np.concatenate([posed.wrist, posed.knee, posed.ankle, posed.head[None]])
    assert joints[:, 1].min() > 0
    hips = np.linalg.norm(posed.hip[0] - posed.hip[1])
    np.testing.assert_allclose(hips, 2 * body.hip)
    assert 0.5 * body.size < 2 * posed.head[1] < 4.6 * body.size or name == "lie"


# Dataset


def test_image_is_a_pure_function_of_seed_split_and_index(tmp_path, coco_folder):
    """Neither the number of images nor the process matters."""
    code = (
        "from ppose.synthetic import write_coco; import sys;"
        "write_coco(sys.argv[1], 'val', 3, seed=3); write_coco(sys.argv[1], 'train', 3, seed=3)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    for name in ("000000.jpg", "000001.jpg", "000002.jpg"):
        again = (tmp_path / "val" / name).read_bytes()
        assert again == (coco_folder / "val" / name).read_bytes()
        assert again != (tmp_path / "train" / name).read_bytes()


def test_the_bytes_do_not_depend_on_the_workers(tmp_path, coco_folder):
    write_coco(tmp_path, "val", 24, seed=3, workers=2)
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*.*") if p.is_file())
    assert len(files) == 25
    for file in files:
        assert (tmp_path / file).read_bytes() == (coco_folder / file).read_bytes()


def test_coco_fields(coco_folder, coco):
    category = coco.loadCats(1)[0]
    assert category["name"] == "person"
    assert category["keypoints"] == list(COCO17.joint_names)
    limbs = {
        (category["keypoints"][a - 1], category["keypoints"][b - 1])
        for a, b in category["skeleton"]
    }
    assert limbs == set(COCO17.limbs)
    assert len(coco.imgs) == 24
    for info in coco.imgs.values():
        image = cv2.imread(str(coco_folder / "val" / info["file_name"]))
        assert image.shape == (info["height"], info["width"], 3)
    for annotation in coco.anns.values():
        visibility = annotation["keypoints"][2::3]
        assert len(visibility) == 17
        assert annotation["num_keypoints"] == sum(v > 0 for v in visibility)
        assert annotation["iscrowd"] == 0 and annotation["id"] > 0


def test_annotations_match_the_scenes(coco):
    recipe = Recipe("val", 24, 3, (320, 240), "normal")
    for index in range(recipe.count):
        drawn = recipe.scene(index)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[index]))
        assert len(annotations) == len(drawn.masks)
        for annotation, mask, keypoints in zip(
            annotations, drawn.masks, drawn.keypoints, strict=True
        ):
            assert annotation["area"] == mask.sum()
            filled = coco.annToMask(annotation).astype(bool)
            assert (filled & mask).sum() / (filled | mask).sum() > 0.93
            saved = np.reshape(annotation["keypoints"], (17, 3))
            np.testing.assert_allclose(saved, keypoints, atol=0.006)


def test_polygons_keep_holes_and_separate_parts():
    mask = np.zeros((40, 50), bool)
    mask[5:30, 5:30] = True
    mask[12:20, 10:22] = False
    mask[14:16, 14:16] = True
    mask[33:38, 40:50] = True
    data = {
        "images": [{"id": 0, "width": 50, "height": 40}],
        "categories": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "segmentation": polygons(mask)}],
    }
    coco = COCO()
    coco.dataset = data
    coco.createIndex()
    filled = coco.annToMask(data["annotations"][0]).astype(bool)
    assert (filled ^ mask).sum() <= 12
    assert not filled[17:19, 11:21].any()


@pytest.mark.parametrize("kind", ["keypoints", "segm", "bbox"])
def test_ground_truth_as_detections_has_ap_1(coco, kind):
    fields = {
        "keypoints": lambda a: {"keypoints": a["keypoints"]},
        "segm": lambda a: {"segmentation": coco.annToRLE(a)},
        "bbox": lambda a: {"bbox": a["bbox"]},
    }
    detections = [
        {"image_id": a["image_id"], "category_id": 1, "score": 1.0, **fields[kind](a)}
        for a in coco.dataset["annotations"]
    ]
    evaluation = COCOeval(coco, coco.loadRes(detections), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count"),
        ({"seed": -1}, "seed"),
        ({"split": "../elsewhere"}, "split"),
        ({"size_wh": (1, 1)}, "found 1x1"),
        ({"difficulty": "medium"}, "medium"),
        ({"workers": 0}, "workers"),
    ],
)
def test_wrong_recipes_write_nothing(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_coco(**{"output_dir": tmp_path, "split": "val", "count": 2, "seed": 0} | change)
    assert not list(tmp_path.iterdir())


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_complete_split_is_not_changed(tmp_path):
    assert write_coco(tmp_path, "val", 2, seed=0)
    before = snapshot(tmp_path)
    assert not write_coco(tmp_path, "val", 2, seed=0)
    for change in ({"seed": 1}, {"count": 3}, {"size_wh": (64, 64)}, {"difficulty": "hard"}):
        with pytest.raises(DatasetExistsError, match=next(iter(change))):
            write_coco(**{"output_dir": tmp_path, "split": "val", "count": 2, "seed": 0} | change)
    assert snapshot(tmp_path) == before


def test_an_interrupted_run_leaves_no_files(tmp_path):
    images = []

    def interrupt():
        images.append(1)
        if len(images) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_coco(tmp_path, "val", 4, seed=0, on_image=interrupt)
    assert not snapshot(tmp_path)
    assert write_coco(tmp_path, "val", 4, seed=0)


def test_other_files_are_not_changed(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DatasetExistsError, match="does not; choose another"):
        write_coco(tmp_path, "val", 1, seed=0)
    (tmp_path / "annotations").mkdir()
    listing = tmp_path / "annotations" / "person_keypoints_val.json"
    for text in ("{}", "not JSON", '{"info": {"recipe": null}}', "[]"):
        listing.write_text(text)
        with pytest.raises(DatasetExistsError):
            write_coco(tmp_path, "val", 1, seed=0)
    assert (tmp_path / "val" / "holiday.jpg").read_bytes() == b"mine"


def test_a_missing_image_is_an_error(tmp_path):
    write_coco(tmp_path, "val", 2, seed=0)
    (tmp_path / "val" / "000001.jpg").unlink()
    with pytest.raises(DatasetExistsError, match="lacks 1 of the 2 images"):
        write_coco(tmp_path, "val", 2, seed=0)


# Command line


def run_tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_command_line(tmp_path):
    options = ("--output", tmp_path / "set", "--train", 4, "--val", 2, "--size", "160x120")
    first = run_tool(*options, "--workers", 2)
    assert first.returncode == 0, first.stderr
    for split, count in (("train", 4), ("val", 2)):
        listing = tmp_path / "set" / "annotations" / f"person_keypoints_{split}.json"
        assert len(json.loads(listing.read_text())["images"]) == count
        assert len(list((tmp_path / "set" / split).glob("*.jpg"))) == count
    before = snapshot(tmp_path)
    second = run_tool(*options)
    assert second.returncode == 0 and second.stdout.count("nothing to do") == 2
    third = run_tool(*options, "--seed", 1)
    assert third.returncode == 1 and "seed 0 (requested: 1)" in third.stderr
    assert snapshot(tmp_path) == before


def test_ctrl_c_stops_the_tool_and_its_workers(tmp_path):
    command = [sys.executable, TOOL, "--output", tmp_path, "--train", "99999", "--workers", "2"]
    # Background jobs of a shell ignore SIGINT, which child processes would inherit.
    tool = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob(".train-*/images/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    tool.send_signal(signal.SIGINT)
    try:
        _, errors = tool.communicate(timeout=20)
    finally:
        tool.kill()
    assert tool.returncode == 130
    assert "stopped" in errors and "Traceback" not in errors
    assert not snapshot(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--size", "320"], 2, "expected WIDTHxHEIGHT like 320x240, found '320'"),
        (["--size", "8x8"], 1, "found 8x8"),
        (["--train", "-1"], 1, "count: expected 1.."),
        (["--train", "0", "--val", "0"], 1, "nothing to draw"),
        (["--difficulty", "medium"], 2, "invalid choice: 'medium'"),
        (["--output", "taken/below"], 1, "taken"),
    ],
)
def test_command_line_errors(tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    done = run_tool("--output", "set", *arguments)
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
