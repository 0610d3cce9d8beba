"""Pixels and keypoints are transformed together; augmentation is reproducible."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppose.config import ConfigError, build, registered
from ppose.data.crops import BoxCrop
from ppose.data.normalize import Normalize
from ppose.data.transforms import (
    ColorJitter,
    HalfBody,
    InformationDropping,
    PipelineError,
    RandomFlip,
    RandomRotate,
    RandomScale,
    RandomShift,
    Transform,
    Warp,
    apply_transforms,
)
from ppose.structures import Sample, geometry
from ppose.structures.skeleton import COCO17, Joint, Skeleton
from ppose.utils.errors import PposeError

SIZE = (96, 128)
SPOT = 9


def spotted(seed=0, size_wh=(320, 240)):
    """A black image with a bright disc at each joint."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[: size_wh[1], : size_wh[0]]
    cells = rng.permutation(20)[:17]
    grid = np.stack([70 + 45 * (cells % 5), 40 + 45 * (cells // 5)], -1)
    spots = grid + rng.uniform(-4, 4, (17, 2))
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for x, y in spots:
        image[(xx - x) ** 2 + (yy - y) ** 2 < SPOT**2] = 255
    keypoints = np.column_stack([spots, np.full(17, 2)]).astype(np.float32)[None]
    return Sample(image, np.array([60, 20, 200, 200], np.float32), keypoints)


GEOMETRY = [
    RandomScale(0.3),
    RandomRotate(40, p=1.0),
    RandomShift(0.1),
    RandomFlip(COCO17, p=1.0),
]


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from(GEOMETRY), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_bright_spots_stay_at_their_keypoints(seed, steps, udp, half_body):
    before = [HalfBody(COCO17, p=1.0)] if half_body else []
    pipeline = [*before, BoxCrop((192, 256), udp=udp), *steps, Warp()]
    sample = apply_transforms(spotted(seed), pipeline, np.random.default_rng(seed))
    scale = np.sqrt(abs(np.linalg.det(sample.matrix[:2, :2])))
    yy, xx = np.mgrid[:256, :192]
    for x, y, _ in sample.keypoints[0]:
        radius = SPOT * scale
        if not (radius + 2 < x < 190 - radius and radius + 2 < y < 254 - radius):
            continue
        near = (xx - x) ** 2 + (yy - y) ** 2 < (1.6 * radius) ** 2
        light = sample.image[..., 0] * near
        found = [(light * xx).sum() / light.sum(), (light * yy).sum() / light.sum()]
        assert np.abs(np.subtract(found, (x, y))).max() < 0.6


def test_flip_swaps_joints_by_name():
    sample = spotted()
    pipeline = [BoxCrop(SIZE), RandomFlip(COCO17, p=1.0), Warp()]
    flipped = apply_transforms(sample, pipeline, np.random.default_rng(0)).keypoints[0]
    straight = apply_transforms(
        sample, [BoxCrop(SIZE), Warp()], np.random.default_rng(0)
    ).keypoints[0]
    left, right = COCO17.index("left_wrist"), COCO17.index("right_wrist")
    assert flipped[left, 0] == pytest.approx(SIZE[0] - straight[right, 0], abs=1e-3)
    assert flipped[left, 1] == pytest.approx(straight[right, 1], abs=1e-3)


@pytest.mark.parametrize("step", GEOMETRY, ids=lambda step: type(step).__name__)
def test_random_geometry_changes_only_the_matrix(step):
    sample = BoxCrop(SIZE)(spotted(), np.random.default_rng(0))
    moved = step(sample, np.random.default_rng(0))
    assert not np.allclose(moved.matrix, sample.matrix)
    assert moved.image is sample.image


@pytest.mark.parametrize(
    "make",
    [
        lambda p: RandomScale(0.3, p=p),
        lambda p: RandomRotate(40, p=p),
        lambda p: RandomShift(0.1, p=p),
        lambda p: RandomFlip(COCO17, p=p),
        lambda p: HalfBody(COCO17, p=p),
        lambda p: ColorJitter(0.3, 0.3, 0.3, 20, p=p),
        lambda p: InformationDropping(p=p),
    ],
)
def test_p_is_the_probability(make):
    def changes(p):
        step = make(p)
        before = [] if isinstance(step, HalfBody) else [BoxCrop(SIZE)]
        start = apply_transforms(spotted(), before, np.random.default_rng(0))
        return [step(start, np.random.default_rng(i)) is not start for i in range(60)]

    assert not any(changes(0.0))
    assert all(changes(1.0))
    assert 10 < sum(changes(0.5)) < 50


def test_the_same_seed_gives_the_same_sample():
    pipeline = [HalfBody(COCO17), BoxCrop(SIZE), *GEOMETRY, Warp(), ColorJitter(0.5, 0.5, 0.5, 30)]
    one, two = (apply_transforms(spotted(), pipeline, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.keypoints, two.keypoints)


def test_random_scale_and_rotation_stay_in_the_published_ranges():
    sample = BoxCrop(SIZE)(spotted(), np.random.default_rng(0))
    base = np.sqrt(np.linalg.det(sample.matrix[:2, :2]))
    scales, angles = [], []
    for seed in range(300):
        linear = RandomScale(0.35)(sample, np.random.default_rng(seed)).matrix[:2, :2]
        scales.append(base / np.sqrt(np.linalg.det(linear)))
        linear = RandomRotate(40, p=1)(sample, np.random.default_rng(seed)).matrix[:2, :2]
        angles.append(np.degrees(np.arctan2(linear[1, 0], linear[0, 0])))
    assert min(scales) == pytest.approx(0.65)
    assert max(scales) == pytest.approx(1.35)
    assert 60 < max(map(abs, angles)) <= 80 + 1e-6


def test_half_body_uses_one_half():
    sample = spotted()
    boxes = [HalfBody(COCO17, p=1)(sample, np.random.default_rng(i)).box_xywh for i in range(9)]
    halves = [sample.keypoints[0, index, :2] for index in (COCO17.upper_index, COCO17.lower_index)]
    middles = {tuple(np.round(b[:2] + b[2:] / 2, 2)) for b in boxes}
    assert middles == {tuple(np.round(half.mean(0), 2)) for half in halves}


def test_half_body_keeps_the_box_of_people_with_few_joints():
    sample = spotted()
    sample.keypoints[0, 8:, 2] = 0
    assert HalfBody(COCO17, p=1, min_joints=8)(sample, np.random.default_rng(0)) is sample


def halves(upper, lower, **parts):
    names = [f"{side}_{n}" for n in range((upper + lower) // 2) for side in ("left", "right")]
    names += ["nose"] * ((upper + lower) % 2)
    joints = [
        Joint(name, 0.1, part=parts.get(name, "upper" if i < upper else "lower"))
        for i, name in enumerate(names)
    ]
    return Skeleton("mine", joints, [])


@pytest.mark.parametrize(
    ("skeleton", "arguments", "message"),
    [
        (
            halves(10, 0),
            {},
            "0 joints with part: lower, .* needs 3; write .* as {.*, part: lower}, or",
        ),
        (
            halves(0, 10),
            {},
            "0 joints with part: upper, .* such as {name: .*, part: upper}, or",
        ),
        (halves(8, 2), {}, "2 joints with part: lower"),
        (halves(6, 6, left_5="upper"), {}, "'left_5' is in the upper body, but its mirror"),
        (halves(4, 4), {}, r"8 joints, .* min_joints has to be in 0\.\.7, found 8"),
    ],
)
def test_half_body_refuses_what_it_cannot_halve(skeleton, arguments, message):
    node = {"type": "HalfBody", "skeleton": skeleton.node(), **arguments}
    with pytest.raises(ConfigError, match=f"node: HalfBody: skeleton 'mine'.*{message}"):
        build(node, Transform, "node")
    build(node | {"skeleton": halves(4, 4).node(), "min_joints": 7}, Transform)


def test_a_flip_swaps_sides_that_only_the_names_tell():
    plain = Skeleton("mine", [Joint(name, 0.1) for name in COCO17.joint_names], [])
    sample = BoxCrop(SIZE)(spotted(), np.random.default_rng(0))
    flipped = RandomFlip(plain, p=1)(sample, np.random.default_rng(0))
    assert (flipped.keypoints == sample.keypoints[:, COCO17.mirror_index]).all()


def test_color_jitter_changes_colours_only_if_enabled():
    rng = np.random.default_rng(0)
    image = rng.integers(30, 220, (20, 20, 3), np.uint8)
    sample = Sample(image, np.zeros(4), np.zeros((1, 17, 3)), size_wh=(20, 20))
    same = ColorJitter()(sample, rng).image
    assert np.abs(same.astype(int) - image).max() <= 1
    for kind in ({"brightness": 0.5}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 40.0}):
        changed = ColorJitter(**kind)(sample, np.random.default_rng(3)).image
        assert np.abs(changed.astype(int) - image).mean() > 2, kind


def test_saturation_and_hue_keep_grey_values():
    image = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2)
    sample = Sample(image, np.zeros(4), np.zeros((1, 17, 3)))
    changed = ColorJitter(saturation=0.9, hue=90)(sample, np.random.default_rng(0)).image
    assert np.abs(changed.astype(int) - image).max() <= 1


def test_information_dropping_blacks_out_pixels_near_a_joint():
    sample = apply_transforms(spotted(), [BoxCrop(SIZE), Warp()], np.random.default_rng(0))
    sample.image[:] = 255
    dropped = InformationDropping(p=1, patches=1)(sample, np.random.default_rng(1))
    blank = np.argwhere((dropped.image == 0).all(-1))[:, ::-1]
    reach = np.linalg.norm(sample.keypoints[0, :, None, :2] - blank.mean(0), axis=-1).min()
    assert len(blank) > 100
    assert reach < 0.1 * max(SIZE)
    assert (sample.image == 255).all(), "the input is not modified"


def test_normalize_follows_the_formula():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    found = Normalize()(images).numpy()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert np.allclose(found, ((images / 255 - mean) / std).transpose(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize("step", [Warp(), RandomScale(0.3), RandomFlip(COCO17)])
def test_transforms_before_the_crop_are_errors(step):
    with pytest.raises(PipelineError, match="has to come after the crop"):
        step(spotted(), np.random.default_rng(0))
    assert issubclass(PipelineError, PposeError), "the tools print it without a traceback"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoxCrop((0, 5)), "size_wh.0: expected int in 1..8192, found 0"),
        (lambda: BoxCrop(SIZE, padding=0), "padding"),
        (lambda: BoxCrop(SIZE, padding=np.inf), "padding"),
        (lambda: RandomScale(1.5), "spread"),
        (lambda: RandomFlip(COCO17, p=2), "p: expected float in 0..1, found 2"),
        (lambda: RandomRotate(-1), "degrees: expected float in 0..180, found -1"),
        (lambda: RandomRotate(np.nan), "degrees"),
        (lambda: RandomShift(-3), "fraction: expected float in 0..1, found -3"),
        (lambda: HalfBody(COCO17, p=30), "p: expected float in 0..1, found 30"),
        (lambda: HalfBody(COCO17, padding=-1), "padding"),
        (lambda: ColorJitter(p=9), "p: expected"),
        (lambda: ColorJitter(brightness=-0.1), "brightness"),
        (lambda: ColorJitter(contrast=1.1), "contrast"),
        (lambda: ColorJitter(saturation=np.nan), "saturation"),
        (lambda: ColorJitter(hue=-5), "hue"),
        (lambda: InformationDropping(p=5), "p: expected"),
        (lambda: InformationDropping(patches=-2), "patches: expected int in 1..100, found -2"),
        (lambda: InformationDropping(radius=(0.5, -1)), "radius"),
        (lambda: InformationDropping(radius=(0.5, 0.1)), "radius"),
        (lambda: InformationDropping(offset=-0.1), "offset"),
        (lambda: Normalize(std=(0, 0, 0)), "std.0: expected float above 0"),
        (
            lambda: Normalize(std=(0.2, -0.2, 0.2)),
            "std.1: expected float above 0 and at most 1, found -0.2",
        ),
        (lambda: Normalize(mean=(0.5,)), "mean: expected 3 values"),
        (
            lambda: Normalize(mean=(123.675, 116.28, 103.53)),
            "mean.0: expected float in 0..1, found 123.675",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"type": "ColorJitter", "p": 9}, "node.p: expected float in 0..1, found int 9"),
        ({"type": "Normalize", "std": [0, 0, 0]}, "node.std.0: expected float above 0"),
        ({"type": "Normalize", "mean": [0.5]}, "node.mean: expected 3 values"),
    ],
)
def test_wrong_arguments_in_a_config_name_the_node(node, message):
    with pytest.raises(ConfigError, match=message):
        build(node, path="node")


def test_every_registered_transform_is_tested_here():
    names = {type(step).__name__ for step in GEOMETRY}
    assert set(registered(Transform)) == names | {
        "BoxCrop", "Warp", "HalfBody", "ColorJitter", "InformationDropping",
        "ImageFit", "CentreCrop"
    }  # fmt: skip


def test_crop_and_inverse_cancel_out():
    matrix = BoxCrop(SIZE).matrix(np.array([10, 20, 50, 60]))
    points = np.random.default_rng(0).uniform(0, 100, (7, 2))
    moved = geometry.transform_points(matrix, points)
    assert np.allclose(geometry.transform_points(np.linalg.inv(matrix), moved), points)


def random_scales(step, count=400):
    sample = BoxCrop(SIZE)(spotted(), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    before = np.linalg.det(sample.matrix)
    return [np.sqrt(np.linalg.det(step(sample, rng).matrix) / before) for _ in range(count)]


def test_uniform_and_normal_scaling():
    uniform = random_scales(RandomScale(0.5, uniform=True))
    assert 0.5 <= min(uniform) < 0.55 and 1.45 < max(uniform) <= 1.5
    assert np.mean(uniform) == pytest.approx(1, abs=0.05)
    normal = random_scales(RandomScale(0.5))
    assert (min(normal), max(normal)) == pytest.approx((1 / 1.5, 2))


@pytest.mark.parametrize(("uniform", "least", "most"), [(True, 36, 40), (False, 60, 80)])
def test_uniform_and_normal_rotation(uniform, least, most):
    sample = BoxCrop(SIZE)(spotted(), np.random.default_rng(0))
    step, rng = RandomRotate(40, p=1, uniform=uniform), np.random.default_rng(1)
    angles = []
    for _ in range(300):
        rotation = step(sample, rng).matrix @ np.linalg.inv(sample.matrix)
        angles.append(abs(np.rad2deg(np.arctan2(rotation[1, 0], rotation[0, 0]))))
    assert least < max(angles) <= most + 1e-6


def test_the_border_has_the_given_grey_level():
    sample = BoxCrop(SIZE, padding=3.0)(spotted(), np.random.default_rng(0))
    for border in (0, 128):
        image = Warp(border)(sample, np.random.default_rng(0)).image
        assert (image[0, 0] == border).all()


@pytest.mark.parametrize(("version", "warns"), [("4.14.0", True), ("5.0.0", False)])
def test_an_older_opencv_is_named(version, warns):
    code = f"import cv2; cv2.__version__ = {version!r}; import ppose.data.transforms"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (f"OpenCV {version} rounds positions" in run.stderr) == warns
