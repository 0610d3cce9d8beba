"""Round trips of BodyParts (people → maps → people), masks, flipping, and errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ppose.codecs import BodyParts
from ppose.codecs.grouping import Grouping
from ppose.codecs.part_layout import SIMPLEPOSE, PartLayout
from ppose.structures import Sample
from ppose.structures.skeleton import COCO17

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / "tests" / "golden" / "imhn_targets_grouping.npz")
SCENES = range(4)
SIZE = (512, 512)


def codec(**changes):
    return BodyParts(**{"parts": SIMPLEPOSE, "size_wh": SIZE} | changes)


def golden_people(scene):
    """(P, 17, 3) with COCO visibility; the file has 0 occluded, 1 visible, above 1 absent."""
    joints = GOLDEN[f"joints{scene}"]
    people = SIMPLEPOSE.to_skeleton(joints)
    people[..., 2] = np.where(people[..., 2] < 2, people[..., 2] + 1, 0)
    return people


@pytest.mark.parametrize("scene", SCENES)
def test_targets_match_the_published_ones(scene):
    mask = (255 * GOLDEN[f"mask_all{scene}"]).astype(np.uint8)
    made = codec().encode_keypoints(golden_people(scene), np.kron(mask, np.ones((4, 4), np.uint8)))
    assert np.abs(made["target"] - GOLDEN[f"targets{scene}"]).max() < 1e-4
    assert made["mask"].shape == (1, 128, 128)
    assert (made["mask"] == 1).all()


def test_the_round_trip_on_coco_annotations_beats_the_reference(tmp_path):
    table = tmp_path / "table.json"
    command = [sys.executable, "benchmarks/roundtrip.py", "--json", str(table)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    rows = {
        (row["codec"], row["input"], row["stride"]): row
        for row in json.loads(table.read_text())["rows"]
    }
    assert rows["body parts", "512x512", 4]["AP"] >= 90
    assert all(row["AP"] > 80 for row in rows.values())


def one_person(x=256.0, y=256.0):
    offsets = np.random.default_rng(3).uniform(-90, 90, (17, 2))
    return np.concatenate([offsets + (x, y), np.full((17, 1), 2.0)], 1)[None].astype(np.float32)


@pytest.mark.parametrize(("size", "stride"), [((512, 512), 4), ((640, 384), 4), ((512, 512), 2)])
def test_one_person_is_decoded_with_subpixel_accuracy(size, stride):
    person = one_person(size[0] / 2, size[1] / 2)
    body_parts = codec(size_wh=size, stride=stride)
    found, factors = body_parts.decode_keypoints(body_parts.encode_keypoints(person)["target"])
    assert found.shape == (1, 17, 3)
    assert np.abs(found[0, :, :2] - person[0, :, :2]).max() < 0.5
    assert factors.tolist() == [1]


def test_a_flipped_input_gives_flipped_maps():
    body_parts = codec()
    person = one_person()
    mirrored = person[:, COCO17.mirror_index]
    mirrored[..., 0] = SIZE[0] - 1 - mirrored[..., 0]
    original = body_parts.encode_keypoints(person)["target"]
    back = body_parts.flip_back(body_parts.encode_keypoints(mirrored)["target"][None])[0]
    # The published windows and boxes are rounded to cells, so their borders differ after a flip.
    difference = np.abs(original - back)
    assert difference[SIMPLEPOSE.joint_channels].max() < 0.02
    assert (difference[SIMPLEPOSE.limb_channels] > 0.02).mean() < 0.001
    found, _ = body_parts.decode_keypoints(np.ascontiguousarray(back))
    assert np.abs(found[0, :, :2] - person[0, :, :2]).max() < 0.5


def test_missing_joints_have_score_0_and_the_mean_position():
    person = one_person()
    person[0, COCO17.index("left_ankle"), 2] = 0
    body_parts = codec()
    found, factors = body_parts.decode_keypoints(body_parts.encode_keypoints(person)["target"])
    ankle = found[0, COCO17.index("left_ankle")]
    others = np.delete(found[0], COCO17.index("left_ankle"), 0)
    assert ankle[2] == 0
    assert ankle[:2] == pytest.approx(others[:, :2].mean(0), abs=1e-3)
    assert factors == pytest.approx([16 / 17])


def test_masks_become_weights_and_a_channel():
    sample = Sample(
        image=np.zeros((512, 512, 3), np.uint8),
        box_xywh=np.zeros(4, np.float32),
        keypoints=one_person(),
        people_mask=np.zeros((512, 512), np.uint8),
        known_mask=np.full((512, 512), 255, np.uint8),
    )
    sample.people_mask[100:200, 40:80] = 255
    sample.known_mask[:, :256] = 0
    made = codec().encode(sample)
    assert made["mask"][0, :, :64].max() == 0
    assert made["mask"][0, :, 64:].min() == 1
    rows, columns = np.nonzero(made["target"][-2] > 0.5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (26, 48, 11, 18)


@pytest.mark.parametrize("keypoints", [np.zeros((0, 17, 3)), np.zeros((3, 17, 3))])
def test_no_people(keypoints):
    body_parts = codec(size_wh=(128, 64))
    found, factors = body_parts.decode_keypoints(
        body_parts.encode_keypoints(keypoints.astype(np.float32))["target"]
    )
    assert found.shape == (0, 17, 3)
    assert factors.shape == (0,)


def test_a_single_labelled_joint_is_not_a_person():
    person = np.zeros((1, 17, 3), np.float32)
    person[0, 9] = [40, 30, 2]
    body_parts = codec(size_wh=(128, 64))
    found, _ = body_parts.decode_keypoints(body_parts.encode_keypoints(person)["target"])
    assert len(found) == 0


def test_all_joints_at_one_point():
    person = np.tile(np.array([64, 32, 2], np.float32), (1, 17, 1))
    body_parts = codec(size_wh=(128, 64))
    found, _ = body_parts.decode_keypoints(body_parts.encode_keypoints(person)["target"])
    assert found.shape[1:] == (17, 3)
    assert np.isfinite(found).all()


def test_the_number_of_people_in_noise_is_bounded():
    rng = np.random.default_rng(0)
    maps = np.zeros((50, 128, 128), np.float32)
    maps[:, ::2, ::2] = rng.uniform(0.2, 1, (50, 64, 64))
    found, _ = codec(grouping=Grouping(max_peaks=30)).decode_keypoints(maps)
    assert len(found) <= 30 * 18
    assert np.isfinite(found).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_maps_that_are_not_finite_are_errors(bad):
    maps = np.zeros((50, 16, 16), np.float32)
    maps[33, 2, 3] = bad
    with pytest.raises(ValueError, match="joint map 3 is (nan|inf) at x=3, y=2"):
        codec(size_wh=(64, 64)).decode_keypoints(maps)


def test_a_wrong_number_of_maps_is_an_error():
    with pytest.raises(ValueError, match="expected 50 maps"):
        codec().decode_keypoints(np.zeros((49, 8, 8), np.float32))


def test_other_joints_and_limbs():
    parts = PartLayout(COCO17)
    body_parts = BodyParts(parts, (256, 256), sigma=5.0)
    person = one_person(128, 128)
    found, _ = body_parts.decode_keypoints(body_parts.encode_keypoints(person)["target"])
    assert parts.channels == 19 + 17 + 2
    assert np.abs(found[0, :, :2] - person[0, :, :2]).max() < 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_wh": (510, 512)},
        {"stride": 0},
        {"sigma": 0.0},
        {"limb_sigma": -1.0},
        {"cut": 1.0},
        {"limb_floor": -0.1},
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=r"stride|sigma|cut|limb_floor"):
        codec(**wrong)
