"""Losses, compared with NumPy implementations."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppose.codecs.part_layout import SIMPLEPOSE, PartLayout
from ppose.config import ConfigError, build
from ppose.losses import BodyPartsLoss, HeatmapMSE, HeatmapOHKM
from ppose.structures.skeleton import Joint, Skeleton

GOLDEN = np.load(Path(__file__).parent / "golden" / "imhn_loss.npz")


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    outputs = rng.random((3, 5, 8, 6), np.float32)
    target = rng.random((3, 5, 8, 6), np.float32)
    weight = (rng.random((3, 5)) < 0.7).astype(np.float32)
    targets = {"target": paddle.to_tensor(target), "weight": paddle.to_tensor(weight)}
    errors = ((outputs - target) ** 2).mean((2, 3)) * weight
    return paddle.to_tensor(outputs), targets, errors


def test_mse_is_the_mean_over_joints(batch):
    outputs, targets, errors = batch
    loss = HeatmapMSE(scale=0.5)(outputs, targets)
    assert list(loss) == ["heatmap"]
    assert float(loss["heatmap"]) == pytest.approx(0.5 * errors.mean(), rel=1e-5)
    assert float(HeatmapMSE(scale=1.0)(outputs, targets)["heatmap"]) == pytest.approx(errors.mean())


@pytest.mark.parametrize("joints", [1, 3, 5])
def test_ohkm_is_the_mean_of_the_hardest_joints(batch, joints):
    outputs, targets, errors = batch
    hardest = np.sort(errors, 1)[:, -joints:].mean()
    loss = HeatmapOHKM(joints=joints)(outputs, targets)["heatmap_ohkm"]
    assert float(loss) == pytest.approx(0.5 * hardest, rel=1e-5)


def test_ohkm_with_too_many_joints_is_rejected(batch):
    outputs, targets, _ = batch
    with pytest.raises(ConfigError, match="loss.joints: .*hardest 8 joints, but there are only 5"):
        HeatmapOHKM(joints=8)(outputs, targets)


def test_unlabelled_joints_get_no_gradient(batch):
    outputs, targets, _ = batch
    outputs.stop_gradient = False
    HeatmapMSE()(outputs, targets)["heatmap"].backward()
    has_gradient = np.abs(outputs.grad.numpy()).sum((2, 3)) > 0
    assert (has_gradient == (targets["weight"].numpy() > 0)).all()


# Channels: 2 limbs, 3 joints, people, maximum
PARTS = PartLayout(Skeleton("three", [Joint(n, 0.1) for n in "abc"], [("a", "b"), ("b", "c")]))
SCALES = (0.5, 1.0, 2.0)
ARGUMENTS = [
    {},
    {"gamma": 0},
    {"gamma": 2.0},
    {"gamma": 1.5},
    {"scale_weights": (3.0, 0.0, 1.0)},
    {"stack_weights": (1.0, 3.0)},
    {"joint_weight": 1.0},
    {"mask_weight": 1.0},
]


@pytest.fixture
def parts_batch():
    """Outputs of 2 stacks with 3 scales, targets, and a mask with values between 0 and 1."""
    rng = np.random.default_rng(0)
    outputs = [[rng.uniform(-0.2, 1.2, (3, 7, 8 >> s, 16 >> s)) for s in range(3)] for _ in "12"]
    target = rng.random((3, 7, 8, 16)) * (rng.random((3, 7, 8, 16)) < 0.2)
    target[:, :2, :, :4] = 0.01
    target[..., 8:] = 0
    mask = rng.choice([0, 0.4, 0.5, 1], (3, 1, 8, 16))
    as_float32 = [[maps.astype(np.float32) for maps in stack] for stack in outputs]
    return as_float32, target.astype(np.float32), mask.astype(np.float32)


def numpy_loss(
    outputs,
    target,
    mask,
    gamma=1,
    scale_weights=SCALES,
    stack_weights=(1, 1),
    joint_weight=3,
    mask_weight=0.1,
):
    """(C,) loss of each channel in float64."""
    total = 0
    for stack, stack_weight in zip(outputs, stack_weights, strict=True):
        for maps, scale_weight in zip(stack, scale_weights, strict=True):
            maps, (height, width) = maps.astype(np.float64), maps.shape[2:]
            blocks = (height, target.shape[2] // height, width, target.shape[3] // width)
            wanted = target.reshape(*target.shape[:2], *blocks).astype(np.float64).mean((3, 5))
            known = mask.reshape(len(mask), 1, *blocks)
            middle = slice((blocks[1] - 1) // 2, blocks[1] // 2 + 1)
            known = known[:, :, :, middle, :, middle].mean((3, 5))
            known = np.where(known < 0.5, 0, known)
            distance = np.where(wanted > 0.00999, 1 - maps, maps)
            errors = (maps - wanted) ** 2 * np.abs(distance) ** gamma * known
            total = total + errors.sum((0, 2, 3)) * scale_weight * stack_weight
    weights = np.array([1, 1, *[joint_weight] * 3, mask_weight, 1])
    return total * weights / (sum(scale_weights) * sum(stack_weights) * len(target))


def tensors(outputs, target, mask):
    """Converts to tensors; the outputs require gradients."""
    outputs = [[paddle.to_tensor(maps, stop_gradient=False) for maps in s] for s in outputs]
    return outputs, {"target": paddle.to_tensor(target), "mask": paddle.to_tensor(mask)}


def test_body_parts_loss_matches_the_published_code():
    outputs = [[GOLDEN[f"pred_stack{i}_scale{s}"] for s in range(5)] for i in range(4)]
    batch = tensors(outputs, GOLDEN["target"], GOLDEN["mask_miss"])
    loss = BodyPartsLoss(SIMPLEPOSE)(*batch)
    assert list(loss) == ["limbs", "joints", "masks"]
    assert sum(map(float, loss.values())) == pytest.approx(float(GOLDEN["loss"]), rel=1e-5)


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_body_parts_loss_matches_numpy(parts_batch, arguments):
    expected = numpy_loss(*parts_batch, **arguments)
    loss = BodyPartsLoss(PARTS, **{"scale_weights": SCALES, **arguments})(*tensors(*parts_batch))
    assert float(loss["limbs"]) == pytest.approx(expected[:2].sum(), rel=1e-5)
    assert float(loss["joints"]) == pytest.approx(expected[2:5].sum(), rel=1e-5)
    assert float(loss["masks"]) == pytest.approx(expected[5:].sum(), rel=1e-5)
    if arguments:
        default = numpy_loss(*parts_batch).sum()
        assert expected.sum() != pytest.approx(default, rel=1e-3), "the argument has no effect"


@pytest.mark.parametrize("gamma", [0, 1, 1.5, 2])
def test_gradients_match_finite_differences(parts_batch, gamma):
    outputs, batch = tensors(*parts_batch)
    sum(BodyPartsLoss(PARTS, gamma, SCALES)(outputs, batch).values()).backward()
    rng, step = np.random.default_rng(1), 1e-5
    moved = [[maps.astype(np.float64) for maps in stack] for stack in parts_batch[0]]
    for stack, scale in np.ndindex(2, 3):
        gradient = outputs[stack][scale].grad.numpy()
        maps = moved[stack][scale]
        for cell in rng.permutation(maps.size)[:20]:
            place, value, ends = np.unravel_index(cell, maps.shape), maps.flat[cell], []
            for maps[place] in (value - step, value + step):
                ends.append(numpy_loss(moved, *parts_batch[1:], gamma=gamma).sum())
            maps[place] = value
            slope = (ends[1] - ends[0]) / (2 * step)
            assert gradient[place] == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_perfect_maps_have_zero_loss_and_gradient():
    target = np.zeros((1, 7, 8, 8), np.float32)
    target[:, :, 2:4, 2:4] = 1
    outputs, batch = tensors([[target]], target, np.ones((1, 1, 8, 8), np.float32))
    loss = sum(BodyPartsLoss(PARTS, scale_weights=[1.0])(outputs, batch).values())
    loss.backward()
    assert float(loss) == 0
    assert not outputs[0][0].grad.numpy().any()


def test_masked_areas_get_no_gradient(parts_batch):
    maps, target, mask = parts_batch
    mask[:] = 1
    mask[:, :, :, :8] = 0
    outputs, batch = tensors(maps, target, mask)
    sum(BodyPartsLoss(PARTS, scale_weights=SCALES)(outputs, batch).values()).backward()
    for output in (output for stack in outputs for output in stack):
        gradient, half = output.grad.numpy(), output.shape[-1] // 2
        assert not gradient[..., :half].any()
        assert gradient[..., half:].any()


def test_the_loss_is_the_mean_over_samples(parts_batch):
    loss = BodyPartsLoss(PARTS, scale_weights=SCALES)
    outputs, target, mask = parts_batch
    together = sum(map(float, loss(*tensors(*parts_batch)).values()))
    alone = []
    for i in range(3):
        one = [[maps[i : i + 1] for maps in stack] for stack in outputs]
        losses = loss(*tensors(one, target[i : i + 1], mask[i : i + 1]))
        alone.append(sum(map(float, losses.values())))
    assert together == pytest.approx(np.mean(alone), rel=1e-5)


def test_float16_maps_are_computed_in_float32(parts_batch):
    halves = [[maps.astype(np.float16) for maps in stack] for stack in parts_batch[0]]
    singles = [[maps.astype(np.float32) for maps in stack] for stack in halves]
    loss = BodyPartsLoss(PARTS, scale_weights=SCALES)
    found = [loss(*tensors(maps, *parts_batch[1:])) for maps in (halves, singles)]
    for name, value in found[0].items():
        assert value.dtype == paddle.float32
        assert float(value) == float(found[1][name])


@pytest.mark.parametrize("people", [1, 3, 7])
def test_the_minimum_limb_value_is_foreground(people):
    floor = sum([np.float32(0.01)] * people, np.float32(0)) / np.float32(people)
    target = np.full((1, 7, 32, 32), floor, np.float32)
    sizes = [32 >> s for s in range(5)]
    outputs = [[np.full((1, 7, n, n), 0.9, np.float32) for n in sizes]]
    batch = tensors(outputs, target, np.ones((1, 1, 32, 32), np.float32))
    found = sum(map(float, BodyPartsLoss(PARTS, joint_weight=1, mask_weight=1)(*batch).values()))
    cells = sum(n * n * w for n, w in zip(sizes, (0.1, 0.2, 0.4, 1.6, 6.4), strict=True))
    assert found == pytest.approx(7 * cells / 8.7 * 0.89**2 * 0.1, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.5}, "gamma: expected 0, or at least 1, found 0.5"),
        ({"gamma": -1}, "gamma: expected float in 0..10, found -1"),
        ({"scale_weights": [1, -1]}, "scale_weights.1: expected float in 0..1000000, found -1"),
        ({"scale_weights": []}, "scale_weights: expected list .* of 1..64 items"),
        ({"stack_weights": [0, 0]}, "stack_weights: expected not only 0"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        BodyPartsLoss(PARTS, **arguments)


def drop_last(stacks):
    return [stack[:-1] for stack in stacks]


def small_second(stacks):
    return [stacks[0], [stacks[1][0], stacks[1][2], stacks[1][2]]]


@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        ({}, lambda stacks: stacks[0][0], "needs a list of stacks.*the network returns a Tensor"),
        ({}, lambda stacks: stacks[0], "needs a list of stacks, each a list of scales"),
        ({}, lambda stacks: [], "needs a list of stacks, each a list of scales"),
        ({"stack_weights": [1] * 4}, list, "loss.stack_weights: 4 weights, but .* 2 stacks"),
        ({}, drop_last, "loss.scale_weights: 3 weights, but stack 0 of the network has 2 scales"),
        (
            {},
            small_second,
            r"stack 1, scale 1: expected shape \[3, 7, 4, 8\].*found \[3, 7, 2, 4\]",
        ),
        ({"parts": SIMPLEPOSE}, list, "30 limbs, 18 joints.* 50 channels, but the targets have 7"),
    ],
)
def test_maps_of_wrong_number_or_shape_are_rejected(parts_batch, arguments, change, message):
    outputs, batch = tensors(*parts_batch)
    loss = BodyPartsLoss(**{"parts": PARTS, "scale_weights": SCALES, **arguments})
    with pytest.raises(ConfigError, match=message):
        loss(change(outputs), batch)


def test_a_mask_of_wrong_shape_is_rejected(parts_batch):
    outputs, batch = tensors(*parts_batch)
    batch["mask"] = batch["mask"][:, 0]
    with pytest.raises(ConfigError, match=r"the mask: expected shape \[3, 1, 8, 16\]"):
        BodyPartsLoss(PARTS, scale_weights=SCALES)(outputs, batch)


def test_build_from_a_config():
    node = {"type": "BodyPartsLoss", "parts": "simplepose", "gamma": 2, "stack_weights": [1, 2.5]}
    assert build(node, BodyPartsLoss, "loss").parts is SIMPLEPOSE
