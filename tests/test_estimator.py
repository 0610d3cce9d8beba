"""The estimator finds what is there, in the pixels of the image, however it is asked."""

import weakref

import cv2
import numpy as np
import paddle
import pytest

from ppose import geometry
from ppose.codecs.heatmap import Heatmap
from ppose.data.crops import BoxCrop, PictureCrop
from ppose.data.images import ImageError
from ppose.data.transforms import Normalize
from ppose.engine.predict import EagerRunner
from ppose.estimator import InputError, PoseEstimator, Request, extents, resample
from ppose.models.network import Network
from ppose.postprocess import Postprocess
from ppose.skeleton import COCO17

SIZE = (96, 128)


class Lamp(Network):
    """A network that shows every joint where the picture is bright; cell i sees pixel 4·i."""

    stride, size_multiple, channels = 4, 4, 17

    def forward(self, images):
        pool = paddle.nn.functional.avg_pool2d
        smooth = pool(images.mean(axis=1, keepdim=True) + 2.2, 15, 1, 7)
        return pool(smooth, 15, 4, 7).tile([1, 17, 1, 1])


def estimator(**changes):
    parts = {
        "runner": EagerRunner(Lamp(), Normalize()),
        "codec": Heatmap(COCO17, SIZE, refine="dark"),
        "crop": BoxCrop(SIZE),
        "postprocess": Postprocess(),
    }
    return PoseEstimator(**parts | changes)


def lit(x, y, size_wh=(320, 240)):
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    cv2.circle(image, (x, y), 6, (255, 255, 255), -1, cv2.LINE_AA)
    return image


@pytest.mark.parametrize("box", [[40, 30, 90, 120], [60, 60, 60, 40], [10, 20, 200, 200]])
@pytest.mark.parametrize("udp", [False, True])
def test_a_light_is_found_in_pixels_of_the_image(box, udp):
    crop, codec = BoxCrop(SIZE, udp=udp), Heatmap(COCO17, SIZE, refine="dark")
    poses = estimator(crop=crop, codec=codec)(lit(88, 77), [box])
    input_pixel = 1 / crop.matrix(np.array(box))[0, 0]
    assert np.abs(poses.keypoints[0, :, :2] - (88, 77)).max() < input_pixel
    assert 0 < poses.scores[0] <= 1
    assert poses.box_source == "given boxes"


def test_flip_test_averages_with_the_mirror_image():
    crops = np.random.default_rng(0).integers(0, 256, (2, 128, 96, 3), np.uint8)
    plain, both = estimator(), estimator(flip_test=True)
    mirrored = plain.codec.unflip(plain.maps(crops[:, :, ::-1]))
    mean = (plain.maps(crops) + mirrored) / 2
    assert np.allclose(both.maps(crops), mean, atol=1e-5)
    assert np.abs(mean - plain.maps(crops)).max() > 1e-3


def test_without_boxes_the_picture_is_one_person():
    poses = estimator()(lit(100, 100))
    assert poses.boxes_xywh.tolist() == [[0, 0, 320, 240]]
    assert poses.box_source == "whole picture"


def test_box_scores_multiply_the_score():
    one, half = (
        estimator(postprocess=Postprocess(oks_nms=None))(lit(88, 77), [[40, 30, 90, 120, s]])
        for s in (1, 0.5)
    )
    assert half.scores[0] == pytest.approx(one.scores[0] / 2)


def test_nobody_is_no_error():
    assert len(estimator()(lit(5, 5), [])) == 0


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batches_over_pictures_change_nothing(batch_size, tmp_path):
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


def test_the_network_keeps_its_mode():
    est = estimator()
    est.runner.network.train()
    est(lit(9, 9))
    assert est.runner.network.training


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (np.zeros((4, 4), np.uint8), None, r"expected \(H, W, 3\) uint8 RGB, found \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), None, "float32"),
        (np.zeros((0, 4, 3), np.uint8), None, "expected"),
        (lit(9, 9), [[1, 2, 3]], r"boxes: expected shape \(P, 4\) or \(P, 5\), found \(1, 3\)"),
        (lit(9, 9), [[1, 2, 3, 4], [1, 2, 3]], "boxes: expected rows of 4 or 5 numbers, found"),
        (lit(9, 9), [["1px", 2, 3, 4]], "boxes: expected rows of 4 or 5 numbers, found"),
        (lit(9, 9), [[1, 2, 3, 4, 1], [1, 2, 3, 4, 87]], r"scores in 0\.\.1, found 87"),
        (lit(9, 9), [[1, 2, 3, 4, float("nan")]], r"scores in 0\.\.1, found nan"),
        (lit(9, 9), [[1, 2, 0, 5]], "width and height above 0"),
        (lit(9, 9), [[1, 2, float("nan"), 5]], "width and height above 0"),
    ],
)
def test_wrong_input_is_explained(image, boxes, message):
    with pytest.raises(InputError, match=message):
        estimator()(image, boxes)


def test_unreadable_pictures_raise_or_are_left_out(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    cv2.imwrite(str(good), lit(9, 9))
    bad.write_bytes(b"no picture")
    with pytest.raises(ImageError):
        estimator()(bad)
    failed = []
    found = list(estimator().run([Request(bad), Request(good)], failed))
    assert [poses.file for poses in found] == [good]
    assert len(failed) == 1


def everywhere(**crop):
    """An estimator that looks at whole pictures and finds one person in each."""
    codec = Heatmap(COCO17, SIZE, refine="dark")
    return estimator(crop=PictureCrop(**crop), codec=codec, postprocess=Postprocess(oks_nms=None))


@pytest.mark.parametrize("size_wh", [(320, 240), (240, 320), (97, 301), (640, 480)])
@pytest.mark.parametrize(
    "crop",
    [
        {"size": 128},
        {"size": 192, "side": "long"},
        {"size": 128, "side": "height", "scales": (1.0, 0.5)},
    ],
)
def test_a_light_is_found_in_whole_pictures_of_any_size(size_wh, crop):
    x, y = size_wh[0] // 3, size_wh[1] // 4
    poses = everywhere(**crop)(lit(x, y, size_wh))
    [[view, *_]] = PictureCrop(**crop).views(size_wh, None, 4)
    pixel = 1 / view.matrix[0, 0]
    # The lamp's cells lie at the corner of their pixels, half a pixel of the input off.
    assert np.abs(poses.keypoints[0, :, :2] - (x, y)).max() < 2 * pixel + 1
    assert poses.box_source == "no boxes: bottom-up"


def test_scales_are_averaged_on_the_finest_grid():
    picture = lit(120, 90)
    finer, coarser = everywhere(size=128), everywhere(size=128, scales=(0.5,))
    both = [everywhere(size=128, scales=scales)(picture) for scales in ((1.0, 0.5), (0.5, 1.0))]
    assert np.array_equal(both[0].keypoints, both[1].keypoints)
    fine, mean, coarse = (p.keypoints[0, 0, 2] for p in (finer(picture), both[0], coarser(picture)))
    assert min(fine, coarse) < mean < max(fine, coarse)


@pytest.mark.parametrize("axis", [0, 1])
def test_nobody_is_found_on_the_padding(axis):
    class Far(Lamp):
        """Sees most at the right or lower end of its input."""

        size_multiple = 64

        def forward(self, images):
            height, width = (side // 4 for side in images.shape[2:])
            shape = [1, 1, 1, width] if axis == 0 else [1, 1, height, 1]
            ramp = paddle.arange(max(shape), dtype="float32").reshape(shape)
            return paddle.zeros([len(images), 17, height, width]) + ramp

    one = everywhere(size=64, side="long")
    one.runner = EagerRunner(Far(), Normalize())
    size_wh = (70, 90) if axis == 0 else (90, 70)
    poses = one(np.zeros((size_wh[1], size_wh[0], 3), np.uint8))
    assert 0.8 * size_wh[axis] < poses.keypoints[..., axis].max() < size_wh[axis]


def test_the_border_of_a_picture_has_the_grey_that_is_asked_for():
    [[view]] = PictureCrop(64, border=128).views((90, 70), None, 64)
    pixels = view(np.zeros((70, 90, 3), np.uint8))
    assert (pixels[:, view.content_wh[0] + 2 :] == 128).all()
    assert (pixels[:, : view.content_wh[0] - 2] == 0).all()


def test_pictures_of_many_sizes_come_back_in_order():
    sizes = [(160, 120), (320, 240), (160, 120), (97, 301)]
    places = [(40, 30), (100, 80), (50, 90), (20, 200)]
    requests = [
        Request(lit(*place, size), image_id=i)
        for i, (place, size) in enumerate(zip(places, sizes, strict=True))
    ]
    one = everywhere(size=128)
    one.batch_size = 2
    found = list(one.run(requests))
    assert [poses.image_id for poses in found] == [0, 1, 2, 3]
    for poses, place in zip(found, places, strict=True):
        assert np.abs(poses.keypoints[0, :, :2] - place).max() < 6


def test_boxes_are_refused_where_none_are_used():
    with pytest.raises(InputError, match="run it without boxes"):
        everywhere(size=128)(lit(50, 50), boxes=[[0, 0, 10, 10]])


def test_maps_move_between_views():
    views = [PictureCrop(64, scales=(s,)).views((90, 70), None, 16)[0][0] for s in (1.0, 2.0)]

    def seen(view):
        """What a network would show whose maps are a smooth function of the picture."""
        width, height = (side // 4 for side in view.size_wh)
        cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)
        to_picture = np.linalg.inv(view.matrix) @ geometry.resizing(4)
        x, y = np.moveaxis(geometry.transform_points(to_picture, cells), -1, 0)
        return (np.sin(x / 15) + np.cos(y / 12)).astype(np.float32)

    between = views[1].matrix @ np.linalg.inv(views[0].matrix)
    wanted = seen(views[0])
    moved = resample(seen(views[1])[None], between, 4, wanted.shape)[0]
    inside = np.s_[1:15, 1:19]
    assert np.abs(moved - wanted)[inside].max() < 0.03
    flat = resample(np.ones((1, 8, 8), np.float32), geometry.resizing(0.5), 4, (16, 16))
    assert flat.min() == flat.max() == 1, "maps do not fade at the edge"


def test_boxes_around_the_joints_that_were_found():
    keypoints = np.zeros((3, 17, 3), np.float32)
    keypoints[0, :2] = [[10, 20, 0.5], [30, 25, 0.1]]
    keypoints[0, 2] = [99, 99, 0]
    keypoints[1, 0] = [5, 6, 1]
    assert extents(keypoints).tolist() == [[10, 20, 20, 5], [5, 6, 0, 0], [0, 0, 0, 0]]


def test_pictures_without_anybody_do_not_pile_up():
    alive = []

    def empty():
        for _ in range(100):
            picture = lit(9, 9)
            alive.append(weakref.ref(picture))
            yield Request(picture, np.zeros((0, 4), np.float32))

    found = estimator(batch_size=2, workers=1).run(empty())
    assert len(next(found)) == 0
    assert len(alive) < 30
    del found


def test_pixels_of_a_picture_go_once_its_inputs_are_cut():
    pictures = [lit(9 + i, 9) for i in range(6)]
    alive = [weakref.ref(picture) for picture in pictures]
    requests = (Request(pictures.pop(0), np.array([[0, 0, 9, 9]])) for _ in range(6))
    found = estimator(batch_size=6, workers=1).run(requests)
    next(found)
    # A thread may still hold its last one.
    assert sum(reference() is not None for reference in alive) <= 2


def test_the_network_keeps_its_mode_where_it_fails():
    est = estimator()
    est.runner.network.train()
    with pytest.raises(ValueError):
        est.runner.maps(np.zeros((1, 7, 7, 5), np.uint8))
    assert est.runner.network.training


def test_peaks_cannot_be_averaged():
    class Finds(EagerRunner):
        finds_peaks = True

    runner = Finds(Lamp(), Normalize())
    with pytest.raises(ValueError, match="gives peaks only"):
        estimator(runner=runner, flip_test=True)
    with pytest.raises(ValueError, match="gives peaks only"):
        estimator(runner=runner, crop=PictureCrop(64, scales=(1.0, 0.5)))
