"""The estimator: crops, scales, flip test, batches, and invalid input."""

import weakref

import cv2
import numpy as np
import paddle
import pytest

from ppose.codecs.heatmap import Heatmap
from ppose.data.crops import BoxCrop, ImageCrop
from ppose.data.images import ImageError
from ppose.data.normalize import Normalize
from ppose.inference.eager import EagerRunner
from ppose.inference.estimator import PoseEstimator, keypoint_boxes, resample
from ppose.inference.postprocess import Postprocess
from ppose.inference.request import InputError, Request
from ppose.models.network import Network
from ppose.structures import geometry
from ppose.structures.skeleton import COCO17

SIZE = (96, 128)


class BrightSpot(Network):
    """A network that detects all joints where the image is bright; cell i is pixel 4·i."""

    stride, size_multiple, channels = 4, 4, 17

    def forward(self, images):
        pool = paddle.nn.functional.avg_pool2d
        smooth = pool(images.mean(axis=1, keepdim=True) + 2.2, 15, 1, 7)
        return pool(smooth, 15, 4, 7).tile([1, 17, 1, 1])


def estimator(**changes):
    parts = {
        "runner": EagerRunner(BrightSpot(), Normalize()),
        "codec": Heatmap(COCO17, SIZE, refine="dark"),
        "crop": BoxCrop(SIZE),
        "postprocess": Postprocess(),
    }
    return PoseEstimator(**parts | changes)


def spot(x, y, size_wh=(320, 240)):
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    cv2.circle(image, (x, y), 6, (255, 255, 255), -1, cv2.LINE_AA)
    return image


@pytest.mark.parametrize("box", [[40, 30, 90, 120], [60, 60, 60, 40], [10, 20, 200, 200]])
@pytest.mark.parametrize("udp", [False, True])
def test_keypoints_are_in_pixels_of_the_image(box, udp):
    crop, codec = BoxCrop(SIZE, udp=udp), Heatmap(COCO17, SIZE, refine="dark")
    poses = estimator(crop=crop, codec=codec)(spot(88, 77), [box])
    input_pixel = 1 / crop.matrix(np.array(box))[0, 0]
    assert np.abs(poses.keypoints[0, :, :2] - (88, 77)).max() < input_pixel
    assert 0 < poses.scores[0] <= 1
    assert poses.box_source == "given boxes"


def test_flip_test_averages_with_the_mirror_image():
    crops = np.random.default_rng(0).integers(0, 256, (2, 128, 96, 3), np.uint8)
    plain, both = estimator(), estimator(flip_test=True)
    mirrored = plain.codec.flip_back(plain.maps(crops[:, :, ::-1]))
    mean = (plain.maps(crops) + mirrored) / 2
    assert np.allclose(both.maps(crops), mean, atol=1e-5)
    assert np.abs(mean - plain.maps(crops)).max() > 1e-3


def test_without_boxes_the_image_is_one_person():
    poses = estimator()(spot(100, 100))
    assert poses.boxes_xywh.tolist() == [[0, 0, 320, 240]]
    assert poses.box_source == "whole picture"


def test_box_scores_multiply_the_score():
    one, half = (
        estimator(postprocess=Postprocess(oks_nms=None))(spot(88, 77), [[40, 30, 90, 120, s]])
        for s in (1, 0.5)
    )
    assert half.scores[0] == pytest.approx(one.scores[0] / 2)


def test_an_empty_list_of_boxes_gives_no_poses():
    assert len(estimator()(spot(5, 5), [])) == 0


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_poses_do_not_depend_on_the_batch_size(batch_size, tmp_path):
    rng = np.random.default_rng(0)
    requests = []
    for i, people in enumerate((3, 0, 1, 2)):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (120, 160, 3), np.uint8))
        boxes = np.column_stack([rng.uniform(0, 40, (people, 2)), rng.uniform(50, 99, (people, 2))])
        requests.append(Request(path, boxes, image_id=i))
    loose = Postprocess(oks_nms=None)
    found = list(estimator(batch_size=batch_size, postprocess=loose).run(requests))
    assert [len(poses) for poses in found] == [3, 0, 1, 2]
    assert [poses.image_id for poses in found] == [0, 1, 2, 3]
    for request, poses in zip(requests, found, strict=True):
        alone = estimator(postprocess=loose)(request.image, request.boxes_xywh)
        assert np.allclose(alone.keypoints, poses.keypoints, atol=1e-3)


def test_the_mode_of_the_network_is_restored():
    est = estimator()
    est.runner.network.train()
    est(spot(9, 9))
    assert est.runner.network.training


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (np.zeros((4, 4), np.uint8), None, r"expected \(H, W, 3\) uint8 RGB, found \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), None, "float32"),
        (np.zeros((0, 4, 3), np.uint8), None, "expected"),
        (
            spot(9, 9),
            [[1, 2, 3]],
            r"boxes: expected shape \(P, 4\) or \(P, 5\), found \(1, 3\)",
        ),
        (
            spot(9, 9),
            [[1, 2, 3, 4], [1, 2, 3]],
            "boxes: expected rows of 4 or 5 numbers, found",
        ),
        (spot(9, 9), [["1px", 2, 3, 4]], "boxes: expected rows of 4 or 5 numbers, found"),
        (spot(9, 9), [[1, 2, 3, 4, 1], [1, 2, 3, 4, 87]], r"scores in 0\.\.1, found 87"),
        (spot(9, 9), [[1, 2, 3, 4, float("nan")]], r"scores in 0\.\.1, found nan"),
        (spot(9, 9), [[1, 2, 0, 5]], "width and height above 0"),
        (spot(9, 9), [[1, 2, float("nan"), 5]], "width and height above 0"),
    ],
)
def test_invalid_input_is_an_error(image, boxes, message):
    with pytest.raises(InputError, match=message):
        estimator()(image, boxes)


def test_unreadable_images_raise_or_are_skipped(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    cv2.imwrite(str(good), spot(9, 9))
    bad.write_bytes(b"not an image")
    with pytest.raises(ImageError):
        estimator()(bad)
    failed = []
    found = list(estimator().run([Request(bad), Request(good)], failed))
    assert [poses.file for poses in found] == [good]
    assert len(failed) == 1


def whole_image_estimator(**crop):
    """An estimator that detects one person in the whole image."""
    codec = Heatmap(COCO17, SIZE, refine="dark")
    return estimator(crop=ImageCrop(**crop), codec=codec, postprocess=Postprocess(oks_nms=None))


@pytest.mark.parametrize("size_wh", [(320, 240), (240, 320), (97, 301), (640, 480)])
@pytest.mark.parametrize(
    "crop",
    [
        {"size": 128},
        {"size": 192, "side": "long"},
        {"size": 128, "side": "height", "scales": (1.0, 0.5)},
    ],
)
def test_keypoints_in_whole_images_of_any_size(size_wh, crop):
    x, y = size_wh[0] // 3, size_wh[1] // 4
    poses = whole_image_estimator(**crop)(spot(x, y, size_wh))
    [[view, *_]] = ImageCrop(**crop).views(size_wh, None, 4)
    pixel = 1 / view.matrix[0, 0]
    # The cells of the network are off by half a pixel of the input.
    assert np.abs(poses.keypoints[0, :, :2] - (x, y)).max() < 2 * pixel + 1
    assert poses.box_source == "no boxes: bottom-up"


def test_scales_are_averaged_on_the_finest_grid():
    image = spot(120, 90)
    finer, coarser = whole_image_estimator(size=128), whole_image_estimator(size=128, scales=(0.5,))
    both = [
        whole_image_estimator(size=128, scales=scales)(image) for scales in ((1.0, 0.5), (0.5, 1.0))
    ]
    assert np.array_equal(both[0].keypoints, both[1].keypoints)
    fine, mean, coarse = (p.keypoints[0, 0, 2] for p in (finer(image), both[0], coarser(image)))
    assert min(fine, coarse) < mean < max(fine, coarse)


@pytest.mark.parametrize("axis", [0, 1])
def test_padding_is_not_decoded(axis):
    class Ramp(BrightSpot):
        """Maps that rise to the right or lower end of the input."""

        size_multiple = 64

        def forward(self, images):
            height, width = (side // 4 for side in images.shape[2:])
            shape = [1, 1, 1, width] if axis == 0 else [1, 1, height, 1]
            ramp = paddle.arange(max(shape), dtype="float32").reshape(shape)
            return paddle.zeros([len(images), 17, height, width]) + ramp

    one = whole_image_estimator(size=64, side="long")
    one.runner = EagerRunner(Ramp(), Normalize())
    size_wh = (70, 90) if axis == 0 else (90, 70)
    poses = one(np.zeros((size_wh[1], size_wh[0], 3), np.uint8))
    assert 0.8 * size_wh[axis] < poses.keypoints[..., axis].max() < size_wh[axis]


def test_padding_has_the_configured_grey_level():
    [[view]] = ImageCrop(64, border=128).views((90, 70), None, 64)
    pixels = view(np.zeros((70, 90, 3), np.uint8))
    assert (pixels[:, view.content_wh[0] + 2 :] == 128).all()
    assert (pixels[:, : view.content_wh[0] - 2] == 0).all()


def test_images_of_different_sizes_are_returned_in_order():
    sizes = [(160, 120), (320, 240), (160, 120), (97, 301)]
    places = [(40, 30), (100, 80), (50, 90), (20, 200)]
    requests = [
        Request(spot(*place, size), image_id=i)
        for i, (place, size) in enumerate(zip(places, sizes, strict=True))
    ]
    one = whole_image_estimator(size=128)
    one.batch_size = 2
    found = list(one.run(requests))
    assert [poses.image_id for poses in found] == [0, 1, 2, 3]
    for poses, place in zip(found, places, strict=True):
        assert np.abs(poses.keypoints[0, :, :2] - place).max() < 6


def test_boxes_for_a_bottom_up_network_are_an_error():
    with pytest.raises(InputError, match="run it without boxes"):
        whole_image_estimator(size=128)(spot(50, 50), boxes=[[0, 0, 10, 10]])


def test_maps_are_resampled_between_views():
    views = [ImageCrop(64, scales=(s,)).views((90, 70), None, 16)[0][0] for s in (1.0, 2.0)]

    def seen(view):
        """Maps that are a smooth function of the image."""
        width, height = (side // 4 for side in view.size_wh)
        cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)
        to_image = np.linalg.inv(view.matrix) @ geometry.resizing(4)
        x, y = np.moveaxis(geometry.transform_points(to_image, cells), -1, 0)
        return (np.sin(x / 15) + np.cos(y / 12)).astype(np.float32)

    between = views[1].matrix @ np.linalg.inv(views[0].matrix)
    wanted = seen(views[0])
    moved = resample(seen(views[1])[None], between, 4, wanted.shape)[0]
    inside = np.s_[1:15, 1:19]
    assert np.abs(moved - wanted)[inside].max() < 0.03
    flat = resample(np.ones((1, 8, 8), np.float32), geometry.resizing(0.5), 4, (16, 16))
    assert flat.min() == flat.max() == 1, "maps do not fade at the border"


def test_boxes_around_the_detected_joints():
    keypoints = np.zeros((3, 17, 3), np.float32)
    keypoints[0, :2] = [[10, 20, 0.5], [30, 25, 0.1]]
    keypoints[0, 2] = [99, 99, 0]
    keypoints[1, 0] = [5, 6, 1]
    assert keypoint_boxes(keypoints).tolist() == [[10, 20, 20, 5], [5, 6, 0, 0], [0, 0, 0, 0]]


def test_images_without_people_do_not_accumulate():
    alive = []

    def empty():
        for _ in range(100):
            image = spot(9, 9)
            alive.append(weakref.ref(image))
            yield Request(image, np.zeros((0, 4), np.float32))

    found = estimator(batch_size=2, workers=1).run(empty())
    assert len(next(found)) == 0
    assert len(alive) < 30
    del found


def test_images_are_released_after_cropping():
    images = [spot(9 + i, 9) for i in range(6)]
    alive = [weakref.ref(image) for image in images]
    requests = (Request(images.pop(0), np.array([[0, 0, 9, 9]])) for _ in range(6))
    found = estimator(batch_size=6, workers=1).run(requests)
    next(found)
    # A thread may still hold its last image.
    assert sum(reference() is not None for reference in alive) <= 2


def test_the_mode_of_the_network_is_restored_after_an_error():
    est = estimator()
    est.runner.network.train()
    with pytest.raises(ValueError):
        est.runner.maps(np.zeros((1, 7, 7, 5), np.uint8))
    assert est.runner.network.training


def test_peaks_cannot_be_averaged():
    class PeakRunner(EagerRunner):
        finds_peaks = True

    runner = PeakRunner(BrightSpot(), Normalize())
    with pytest.raises(ValueError, match="outputs peaks only"):
        estimator(runner=runner, flip_test=True)
    with pytest.raises(ValueError, match="outputs peaks only"):
        estimator(runner=runner, crop=ImageCrop(64, scales=(1.0, 0.5)))
