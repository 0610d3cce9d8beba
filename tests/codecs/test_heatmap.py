"""Heatmap codec: published arrays, round trips, and reference loops."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppose.codecs.heatmap import Heatmap
from ppose.data.crops import BoxCrop
from ppose.structures.geometry import transform_points
from ppose.structures.skeleton import COCO17

SIZE = (192, 256)
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "topdown_codec.npz")
CASES = range(3)
ALIGNMENTS = ("classic", "udp", "tinypose")


def golden_keypoints(case):
    joints = GOLDEN[f"joints_crop{case}"][:, :2]
    return np.column_stack([joints, GOLDEN[f"vis{case}"]])


@pytest.mark.parametrize("case", CASES)
def test_crops_match_the_published_ones(case):
    matrix = BoxCrop(SIZE).matrix(GOLDEN[f"box{case}"])
    moved = transform_points(matrix, GOLDEN[f"joints{case}"][:, :2])
    labelled = GOLDEN[f"vis{case}"] > 0
    assert np.allclose(moved[labelled], GOLDEN[f"joints_crop{case}"][labelled, :2], atol=1e-3)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("target", "alignment"), [("msra", "classic"), ("dark", "classic"), ("udp", "udp")]
)
def test_targets_match_the_published_ones(case, target, alignment):
    codec = Heatmap(COCO17, SIZE, target=target, alignment=alignment)
    made = codec.encode_keypoints(golden_keypoints(case))
    assert np.allclose(made["target"], GOLDEN[f"target_{target}{case}"], atol=1e-6)
    assert (made["weight"] == GOLDEN[f"weight_{target}{case}"][:, 0]).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("refine", ["quarter", "dark"])
def test_decoding_matches_the_published_one(case, refine):
    codec = Heatmap(COCO17, SIZE, refine=refine)
    maps = GOLDEN[f"heatmap{case}"]
    found = codec.decode_keypoints(maps)[0]
    to_image = np.linalg.inv(BoxCrop(SIZE).matrix(GOLDEN[f"box{case}"]))
    assert np.allclose(
        transform_points(to_image, found[:, :2]), GOLDEN[f"decoded_{refine}{case}"][0], atol=1e-2
    )
    assert np.allclose(found[:, 2], np.clip(GOLDEN[f"maxvals{case}"][0, :, 0], 0, 1))


inside = st.tuples(st.floats(16, 170), st.floats(16, 235))


@given(st.lists(inside, min_size=17, max_size=17), st.sampled_from(ALIGNMENTS))
def test_an_exact_target_decodes_to_its_keypoint(points, alignment):
    codec = Heatmap(COCO17, SIZE, target="dark", refine="dark", alignment=alignment)
    keypoints = np.column_stack([points, np.full(17, 2)])
    found = codec.decode_keypoints(codec.encode_keypoints(keypoints)["target"][None])[0]
    assert np.abs(found[:, :2] - points).max() < 0.2
    assert found[:, 2].min() > 0.85


@given(st.lists(inside, min_size=17, max_size=17), st.sampled_from(["argmax", "quarter"]))
def test_rounded_targets_decode_to_within_a_cell(points, refine):
    codec = Heatmap(COCO17, SIZE, target="msra", refine=refine)
    keypoints = np.column_stack([points, np.full(17, 2)])
    found = codec.decode_keypoints(codec.encode_keypoints(keypoints)["target"][None])[0]
    assert np.abs(found[:, :2] - points).max() <= 4


def plain_newton_step(plane, x, y, blur):
    """DARK for one joint, as in the paper."""
    import cv2

    padded = np.pad(plane.astype(np.float64), blur)
    log = np.log(np.maximum(cv2.GaussianBlur(padded, (blur, blur), 0), 1e-10))
    at = lambda dx, dy: log[y + dy + blur, x + dx + blur]  # noqa: E731
    gradient = np.array([at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1)]) / 2
    dxx = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
    dyy = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    dxy = (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
    return -np.linalg.solve([[dxx, dxy], [dxy, dyy]], gradient)


@pytest.mark.parametrize("blur", [3, 5, 11])
def test_dark_equals_a_reference_loop(blur):
    rng = np.random.default_rng(blur)
    codec = Heatmap(COCO17, SIZE, refine="dark", blur=blur)
    keypoints = np.column_stack([rng.uniform(30, 160, (17, 2)), np.full(17, 2)])
    maps = codec.encode_keypoints(keypoints)["target"] + 0.01 * rng.random((17, 64, 48), np.float32)
    cells, _ = codec.peaks(maps[None])
    for plane, found in zip(maps, cells[0], strict=True):
        y, x = np.unravel_index(plane.argmax(), plane.shape)
        assert np.allclose(found, (x, y) + plain_newton_step(plane, x, y, blur), atol=1e-6)


@pytest.mark.parametrize("refine", ["argmax", "quarter", "dark"])
def test_a_batch_equals_single_people(refine):
    rng = np.random.default_rng(0)
    maps = rng.random((5, 17, 32, 24), np.float32)
    codec = Heatmap(COCO17, (96, 128), refine=refine)
    assert np.array_equal(
        codec.decode_keypoints(maps),
        np.concatenate([codec.decode_keypoints(m[None]) for m in maps]),
    )


@pytest.mark.parametrize("refine", ["argmax", "quarter", "dark"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_empty_maps_have_no_score(refine, value):
    found = Heatmap(COCO17, SIZE, refine=refine).decode_keypoints(
        np.full((1, 17, 64, 48), value, "float32")
    )
    assert (found == 0).all()


def test_refinements_differ():
    rng = np.random.default_rng(1)
    maps = rng.random((1, 17, 64, 48), np.float32)
    keypoints = [
        Heatmap(COCO17, SIZE, refine=r).decode_keypoints(maps)
        for r in ("argmax", "quarter", "dark")
    ]
    assert not np.allclose(keypoints[0], keypoints[1])
    assert not np.allclose(keypoints[1], keypoints[2])


@pytest.mark.parametrize(
    ("alignment", "shift_flip", "cells_off"),
    [("udp", False, 0.0), ("udp", True, -1.0), ("classic", False, 0.75), ("classic", True, -0.25)],
)
def test_flipped_back_maps_are_aligned_with_the_original(alignment, shift_flip, cells_off):
    """The input is flipped about its middle column, so only UDP's cells map to cells."""
    codec = Heatmap(
        COCO17, SIZE, target="dark", refine="dark", alignment=alignment, shift_flip=shift_flip
    )
    rng = np.random.default_rng(2)
    keypoints = np.column_stack([rng.uniform(20, 170, (17, 2)), np.full(17, 2)])
    mirrored = keypoints[COCO17.mirror_index] * [-1, 1, 1] + [SIZE[0] - 1, 0, 0]
    original, _ = codec.peaks(codec.encode_keypoints(keypoints)["target"][None])
    back, _ = codec.peaks(codec.flip_back(codec.encode_keypoints(mirrored)["target"][None]))
    assert np.allclose(original - back, [cells_off, 0], atol=0.05)


def test_tinypose_crops_with_udp_and_decodes_without_it():
    """As published: image = (cell − cells/2) · box/cells + middle of the box."""
    box = np.array([10.0, 20.0, 90.0, 120.0])
    codec = Heatmap(COCO17, SIZE, refine="argmax", alignment="tinypose")
    maps = np.zeros((1, 17, 64, 48), np.float32)
    maps[0, :, 50, 9] = 1
    found = codec.decode_keypoints(maps)[0, 0, :2]
    to_image = np.linalg.inv(BoxCrop(SIZE, padding=1.0, udp=True).matrix(box))
    expected = (np.array([9, 50]) - [24, 32]) * [90 / 48, 120 / 64] + [55, 80]
    assert np.allclose(transform_points(to_image, found), expected, atol=1e-3)


def test_joints_outside_have_no_weight():
    codec = Heatmap(COCO17, SIZE)
    keypoints = np.full((17, 3), 2.0)
    keypoints[0, :2] = (-40, 10)
    keypoints[1, :2] = (10, 300)
    keypoints[2, 2] = 0
    made = codec.encode_keypoints(keypoints)
    assert made["weight"].tolist() == [0, 0, 0] + [1] * 14
    assert not made["target"][:3].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size_wh": (190, 256)}, "multiple of the stride"),
        ({"sigma": 0}, "sigma: expected float above 0"),
        ({"blur": 4}, "odd"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Heatmap(**{"skeleton": COCO17, "size_wh": SIZE} | arguments)


def test_maps_of_another_skeleton_are_errors():
    with pytest.raises(ValueError, match="17 joints .*found 5"):
        Heatmap(COCO17, SIZE).decode_keypoints(np.zeros((1, 5, 64, 48), np.float32))
