"""Crop matrices, pivots, and stacks of matrices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppose.structures import geometry

numbers = st.floats(-1000, 1000)
sizes = st.floats(1, 1000)
boxes = st.tuples(numbers, numbers, sizes, sizes).map(np.array)


@given(boxes, st.booleans())
def test_a_fitted_box_fills_the_input(box, udp):
    size_wh = (192, 256)
    box = geometry.fit_box(box, size_wh, 1.25)
    matrix = geometry.box_to_input(box, size_wh, udp)
    corners = np.stack([box[:2], box[:2] + box[2:]])
    last = (191, 255) if udp else (192, 256)
    assert np.allclose(geometry.transform_points(matrix, corners), [(0, 0), last], atol=1e-6)


@given(boxes, st.floats(0.5, 3))
def test_a_fitted_box_has_the_same_centre_and_contains_the_box(box, padding):
    fitted = geometry.fit_box(box, (3, 4), padding)
    assert np.allclose(fitted[:2] + fitted[2:] / 2, box[:2] + box[2:] / 2)
    assert (fitted[2:] >= box[2:] * padding - 1e-6).all()
    assert fitted[2] / fitted[3] == pytest.approx(3 / 4)


@given(numbers, numbers, st.floats(-180, 180), st.floats(0.1, 10))
def test_a_pivot_is_a_fixed_point(x, y, degrees, factor):
    linear = geometry.rotation(degrees) @ geometry.scaling(factor)
    matrix = geometry.about(linear, (x, y))
    assert np.allclose(geometry.transform_points(matrix, np.array([x, y])), [x, y], atol=1e-6)


def test_rotation_turns_x_towards_y():
    assert np.allclose(geometry.transform_points(geometry.rotation(90), np.array([1.0, 0])), [0, 1])


@given(st.integers(0, 5))
def test_a_stack_of_matrices_equals_single_matrices(count):
    rng = np.random.default_rng(count)
    matrices = rng.normal(size=(count, 3, 3))
    points = rng.normal(size=(count, 4, 2)).astype(np.float32)
    moved = geometry.transform_points(matrices, points)
    assert moved.dtype == np.float32
    for matrix, before, after in zip(matrices, points, moved, strict=True):
        assert np.allclose(geometry.transform_points(matrix, before), after, atol=1e-5)


def test_iou():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [20, 20, 4, 4], [3, 3, 0, 5]], float)
    table = geometry.iou(boxes[:, None], boxes)
    np.testing.assert_allclose(np.diag(table), [1, 1, 1, 0])
    assert table[0, 1] == pytest.approx(50 / 150)
    assert table[0, 2] == 0
    # Scaled by 2: -5..15 and 0..20 in x, -5..15 in y.
    assert geometry.iou(boxes[0], boxes[1], 2.0) == pytest.approx(300 / 500)
