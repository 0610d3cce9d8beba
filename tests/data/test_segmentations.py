"""Segmentations are drawn as by pycocotools, and transformed with the image."""

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from ppose.data.segmentations import SegmentationTable
from ppose.structures import geometry

SIZE = (40, 30)
L_SHAPE = array("f", [5, 5, 30, 5, 30, 12, 14, 12, 14, 25, 5, 25])
HOLE_FREE = array("f", [20, 15, 38, 15, 38, 28, 20, 28])


def table(*segmentations, box=(2.0, 3.0, 10.0, 8.0), labelled=True, crowd=False):
    count = len(segmentations)
    return SegmentationTable(
        segmentations,
        np.tile(SIZE, (count, 1)),
        np.tile(np.array(box), (count, 1)),
        np.full(count, labelled),
        np.full(count, crowd),
    )


def drawn(segmentation, matrix=None):
    mask = np.zeros(SIZE[::-1], np.uint8)
    segmentation.draw(mask, np.eye(3) if matrix is None else matrix, 255)
    return mask > 0


def region():
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[4:20, 6:30] = 1
    mask[8:12, 10:15] = 0
    return mask


def uncompressed(mask):
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": counts if not flat[0] else [0, *counts]}


def test_polygons_cover_the_mask_of_pycocotools():
    segmentation = table([L_SHAPE, HOLE_FREE])[0]
    runs = coco_mask.frPyObjects([L_SHAPE.tolist(), HOLE_FREE.tolist()], *SIZE[::-1])
    expected = coco_mask.decode(coco_mask.merge(runs)) > 0
    found = drawn(segmentation)
    assert (found & expected).sum() == expected.sum()
    assert found.sum() < 1.2 * expected.sum()


@pytest.mark.parametrize("form", ["list", "text"])
def test_run_lengths_are_exact(form):
    mask = region()
    segmentation = uncompressed(mask)
    if form == "text":
        runs = coco_mask.encode(np.asfortranarray(mask))
        segmentation = runs | {"counts": runs["counts"].decode()}
    segmentations = table(segmentation)
    assert not segmentations.replaced.any()
    assert np.array_equal(drawn(segmentations[0]), mask > 0)


def test_segmentations_are_transformed_with_the_image():
    matrix = geometry.translation(6, -3)
    for segmentation in ([L_SHAPE], uncompressed(region())):
        segmentation = table(segmentation)[0]
        moved = drawn(segmentation, matrix)
        assert np.array_equal(moved[:-3, 6:], drawn(segmentation)[3:, :-6])


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        "text",
        [array("f", [1, 2, 3, 4])],
        [array("f", [1, 2, 3, 4, 5])],
        [array("f", [1, 2, 3, 4, 5, float("nan")])],
        {},
        {"size": [30, 40], "counts": [5]},
        {"size": [30, 40], "counts": [-5, 1205]},
        {"size": [30, 40], "counts": ["5", 1195]},
        {"size": [3, 4], "counts": [12]},
        {"size": [30, 40], "counts": 7},
        {"size": [30, 40], "counts": "zzzzzzzz"},
        {"size": [30, 40], "counts": "ä"},
        {"size": [30, 40], "counts": "oo"},
    ],
)
def test_the_box_replaces_an_invalid_segmentation(segmentation):
    segmentations = table(segmentation)
    assert segmentations.replaced.tolist() == [True]
    rows, columns = np.nonzero(drawn(segmentations[0]))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (2, 3, 12, 11)


@given(st.lists(st.lists(st.integers(3, 6), max_size=3), max_size=6))
def test_each_annotation_keeps_its_polygons(corner_counts):
    rng = np.random.default_rng(0)
    given_polygons = [
        [array("f", rng.uniform(0, 30, 2 * corners)) for corners in counts]
        for counts in corner_counts
    ]
    segmentations = table(*given_polygons)
    assert len(segmentations) == len(given_polygons)
    for i, polygons in enumerate(given_polygons):
        found = [polygon.ravel().tolist() for polygon in segmentations[i].polygons]
        assert found == [p.tolist() for p in polygons] or (not polygons and len(found) == 1)


def test_labelled_and_crowd_flags():
    assert table(None, labelled=False, crowd=True)[0].crowd
    assert not table(None, labelled=False)[0].labelled


def test_distant_corners_are_drawn_without_overflow():
    far = array("f", [-1e30, -1e30, 1e30, -1e30, 1e30, 1e30, -1e30, 1e30])
    assert drawn(table([far])[0]).all()


def test_annotations_in_another_order():
    segmentations = [[L_SHAPE], None, uncompressed(region()), [HOLE_FREE, L_SHAPE]]
    rows = np.array([3, 1, 0, 2])
    boxes = np.arange(16.0).reshape(4, 4)
    flags = np.array([True, False, True, False])
    sizes = np.tile(SIZE, (4, 1))
    mixed = SegmentationTable(segmentations, sizes, boxes, flags, ~flags, rows)
    straight = SegmentationTable([segmentations[i] for i in rows], sizes, boxes, flags, ~flags)
    assert mixed.replaced.tolist() == [False, True, False, False]
    for i in range(4):
        assert np.array_equal(drawn(mixed[i]), drawn(straight[i]))
        assert mixed[i].labelled == flags[i]


def test_run_lengths_of_another_size_are_replaced():
    other = {"size": [20, 60], "counts": [1200]}
    assert table(other, uncompressed(region())).replaced.tolist() == [True, False]
