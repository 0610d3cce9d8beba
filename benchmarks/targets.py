"""Time of encoding SimplePose's training targets, in a data worker or on the device.

    python benchmarks/targets.py [--json FILE]

Times are milliseconds per sample of 512×512 at stride 4. The worker encodes one sample at a time on
one core; the maps are stacked and copied to the device. The device encodes a batch of joints with
Paddle's operators, on Paddle's default device.
"""

import math

import numpy as np
import paddle
from paddle import Tensor
from report import parser, report, seconds

from ppose.codecs.part_layout import SIMPLEPOSE
from ppose.codecs.part_maps import part_maps

BATCH, SIDE, STRIDE = 8, 512, 4
CELLS = SIDE // STRIDE
SIGMA, LIMB_SIGMA, CUT, FLOOR = 9.0, 7.0, 0.015, 0.01


def main() -> None:
    args = parser(__doc__).parse_args()
    rng = np.random.default_rng(0)
    masks = np.ones((BATCH, CELLS, CELLS), np.float32)
    rows = []
    for people in (1, 5, 11, 30):
        joints = random_people(rng, people)
        maps = in_worker(joints, masks)
        batch = on_device(paddle.to_tensor(joints), paddle.to_tensor(masks))
        rows.append(
            {
                "people": people,
                "worker ms": median_ms(lambda joints=joints: in_worker(joints, masks)),
                "copy ms": median_ms(lambda maps=maps: paddle.to_tensor(np.stack(maps))),
                "device ms": median_ms(lambda joints=joints: finish_on_device(joints, masks), 3),
                "difference": f"{np.abs(np.stack(maps) - batch.numpy()).max():.0e}",
            }
        )
    report(rows, args.json)


def median_ms(work, repeats: int = 15) -> float:
    """Median milliseconds per sample of `work` on a batch."""
    return 1e3 * float(np.median(seconds(work, repeats))) / BATCH


def random_people(rng: np.random.Generator, people: int) -> np.ndarray:
    """(BATCH, people, J, 3) float32 random joints in the box of a person; 70 % are labelled."""
    height = rng.uniform(80, 400, (BATCH, people, 1, 1))
    centre = rng.uniform(0, SIDE, (BATCH, people, 1, 2))
    within = rng.uniform(-0.5, 0.5, (BATCH, people, len(SIMPLEPOSE.joints), 2))
    places = centre + within * height * (0.4, 1.0)
    labelled = 2 * (rng.random((*places.shape[:3], 1)) < 0.7)
    return np.concatenate([places, labelled], -1).astype(np.float32)


def in_worker(joints: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
    return [
        part_maps(one, SIMPLEPOSE.limb_index, mask, STRIDE, SIGMA, LIMB_SIGMA, CUT, FLOOR)
        for one, mask in zip(joints, masks, strict=True)
    ]


def finish_on_device(joints: np.ndarray, masks: np.ndarray) -> float:
    """`on_device`, and waits for the result."""
    return float(on_device(paddle.to_tensor(joints), paddle.to_tensor(masks))[0, 0, 0, 0])


def on_device(joints: Tensor, masks: Tensor) -> Tensor:
    """(N, C, h, w) result of `part_maps` with Paddle's operators, one person at a time."""
    starts, ends = paddle.to_tensor(SIMPLEPOSE.limb_index.T.copy())
    parts = len(SIMPLEPOSE.joints), len(SIMPLEPOSE.limbs)
    highest, total, count = (
        paddle.zeros([BATCH, n, CELLS, CELLS]) for n in (parts[0], parts[1], parts[1])
    )
    for i in range(joints.shape[1]):
        person = joints[:, i]
        highest = paddle.maximum(highest, joint_peaks(person))
        peaks, box = limb_peaks(
            person.index_select(starts, axis=1), person.index_select(ends, axis=1)
        )
        total, count = total + peaks, count + box
    limbs = total / count.clip(min=1)
    eroded = -paddle.nn.functional.max_pool2d(-masks[:, None], 3, 1, 1)
    return paddle.concat([limbs, highest, eroded, highest.max(1, keepdim=True)], 1)


def joint_peaks(person: Tensor) -> Tensor:
    """(N, J, h, w) Gaussians of one person's joints (N, J, 3)."""
    reach = math.ceil(SIGMA * math.sqrt(-2 * math.log(CUT)) / STRIDE)
    cells = paddle.arange(CELLS, dtype="float32")
    away = (cells * STRIDE + (STRIDE - 1) / 2 - person[..., :2, None]) / SIGMA
    window = (cells - (person[..., :2, None] / STRIDE).round()).abs() <= reach
    profile = (-0.5 * away.square()).exp() * window.astype("float32")
    labelled = (person[..., 2] > 0).astype("float32")[..., None]
    return (profile[:, :, 1] * labelled)[..., None] * profile[:, :, 0, None, :]


def limb_peaks(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """(N, L, h, w) limbs of one person between ends (N, L, 3), and masks of their boxes."""
    cells = paddle.arange(CELLS, dtype="float32")
    labelled = ((start[..., 2] > 0) & (end[..., 2] > 0)).astype("float32")[..., None]
    start, end = start[..., :2], end[..., :2]
    low = ((paddle.minimum(start, end) - STRIDE) / STRIDE).round()
    high = ((paddle.maximum(start, end) + STRIDE) / STRIDE).round()
    inside = ((cells >= low[..., None]) & (cells <= high[..., None])).astype("float32")
    box = (inside[:, :, 1] * labelled)[..., None] * inside[:, :, 0, None, :]

    along = (end - start) / ((end - start).norm(axis=-1, keepdim=True) * LIMB_SIGMA)
    offset = cells * STRIDE + (STRIDE - 1) / 2 - start[..., None]
    away = (along[..., 0, None] * offset[:, :, 1])[..., None] - (
        along[..., 1, None] * offset[:, :, 0]
    )[:, :, None, :]
    peak = (-0.5 * away.square()).exp()
    return paddle.where(peak > CUT, peak, paddle.full_like(peak, FLOOR)) * box, box


if __name__ == "__main__":
    main()
