"""Crops: the whole image is inside the input, padded, centred or scaled as specified."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppose.data.crops import CentreCrop, ImageCrop, ImageFit
from ppose.data.transforms import Warp, apply_transforms
from ppose.structures import Sample, geometry

SIDES = st.integers(1, 3000)


def image_sample(width, height, box=(0, 0, 1, 1)):
    return Sample(
        image=np.full((height, width, 3), 200, np.uint8),
        box_xywh=np.array(box, np.float32),
        keypoints=np.array([[[0, 0, 2], [width - 1, height - 1, 2]]], np.float32),
    )


@given(SIDES, SIDES, st.sampled_from(["short", "height", "long"]), st.sampled_from([32, 64]))
def test_an_image_view_is_padded_and_contains_the_whole_image(width, height, side, multiple):
    crop = ImageCrop(128, side, scales=(1.0, 0.5), max_side=512)
    [views] = crop.views((width, height), None, multiple)
    assert len(views) == 2
    for view in views:
        assert all(length % multiple == 0 for length in view.size_wh)
        assert max(view.size_wh) <= 512
        corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
        low, high = geometry.transform_points(view.matrix, corners)
        assert np.allclose(low, -0.5)
        assert (high <= np.array(view.size_wh) - 0.5 + 0.51).all()
        assert (np.array(view.size_wh) - high < multiple + 1).all()


@pytest.mark.parametrize(
    ("side", "scaled"), [("short", (256, 128)), ("height", (256, 128)), ("long", (128, 64))]
)
def test_the_selected_side_gets_the_size(side, scaled):
    [[view]] = ImageCrop(128, side).views((400, 200), None, 64)
    assert view.size_wh == scaled
    [[view]] = ImageCrop(128, "short").views((200, 400), None, 64)
    assert view.size_wh == (128, 256)


def test_the_longest_side_is_bounded():
    [[view]] = ImageCrop(128, "short", max_side=640).views((10_000, 100), None, 64)
    assert view.size_wh == (640, 64)


@pytest.mark.parametrize(("width", "height"), [(320, 100), (100, 320), (64, 64)])
def test_a_fitted_image_is_centred_and_undistorted(width, height):
    sample = apply_transforms(
        image_sample(width, height), [ImageFit((128, 96)), Warp()], np.random.default_rng(0)
    )
    assert sample.image.shape == (96, 128, 3)
    rows, columns = np.nonzero(sample.image[..., 0] > 100)
    margins = rows.min() - (95 - rows.max()), columns.min() - (127 - columns.max())
    assert np.abs(margins).max() <= 1
    assert rows.min() == 0 or columns.min() == 0
    across, down = np.ptp(sample.keypoints[0, :, :2], axis=0)
    assert across / down == pytest.approx((width - 1) / (height - 1), rel=1e-3)


def test_the_person_is_centred_with_the_given_height():
    sample = CentreCrop((128, 96), person_height=0.5)(
        image_sample(400, 300, box=(100, 50, 20, 80)), np.random.default_rng(0)
    )
    corners = geometry.transform_points(sample.matrix, np.array([[100, 50], [120, 130.0]]))
    assert corners.mean(0) == pytest.approx([63.5, 47.5])
    assert np.ptp(corners[:, 1]) == pytest.approx(48)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageCrop(0), "size: expected int in 1..8192, found 0"),
        (lambda: ImageCrop(512, max_side=100), "max_side"),
        (lambda: ImageCrop(scales=()), "scales: expected list .* of 1..16 items"),
        (lambda: ImageCrop(scales=(1.0, -1.0)), "scales"),
        (lambda: ImageFit((0, 5)), "size_wh.0: expected"),
        (lambda: CentreCrop((5, 5), person_height=0), "person_height"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
