"""Data loading: samples per second of one process, and the time of each part.

    python benchmarks/data.py [--config configs/hrnet_w32_256x192.yml] [--json FILE]
    python benchmarks/data.py --config configs/imhn_4stack_512x512_coco.yml
    python benchmarks/data.py --image_dir DIR --anno_path FILE

Loads training samples with all augmentations, in one process with one thread. The images are
640×480 JPEGs of synthetic people, which decode faster than photographs, or your own.
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np
from report import ROOT, parser, report, seconds

from ppose.data.crops import CentreCrop
from ppose.data.images import read_image
from ppose.data.loader import TrainingSet
from ppose.data.transforms import (
    ColorJitter,
    HalfBody,
    InformationDropping,
    RandomFlip,
    RandomRotate,
    RandomScale,
    RandomShift,
    Transform,
    Warp,
    apply_transforms,
)
from ppose.experiment import Experiment
from ppose.synthetic import write_coco

IMAGES = 100


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--config", default=str(ROOT / "configs" / "hrnet_w32_256x192.yml"))
    arguments.add_argument("--image_dir", help="folder of your own images")
    arguments.add_argument("--anno_path", help="their annotations")
    args = arguments.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        if not args.image_dir:
            write_coco(Path(folder), "train", IMAGES, seed=0, size_wh=(640, 480))
        annotations = f"{folder}/annotations/person_keypoints_train.json"
        experiment = Experiment.from_file(
            args.config,
            [
                f"train_dataset.image_dir={args.image_dir or f'{folder}/train'}",
                f"train_dataset.anno_path={args.anno_path or annotations}",
            ],
        )
        report(measure(experiment), args.json)


def all_augmentations(experiment: Experiment) -> list[Transform]:
    """All transforms, each with a probability of 1."""
    skeleton = experiment.skeleton
    top_down = experiment.crop.uses_boxes
    size = experiment.input_size
    crop = [HalfBody(skeleton, p=1), experiment.crop] if top_down else [CentreCrop(size)]
    return [
        *crop,
        RandomScale(0.35),
        RandomRotate(40, p=1),
        RandomShift(0.1),
        RandomFlip(skeleton, p=1),
        Warp(),
        ColorJitter(0.3, 0.3, 0.3, 15),
        *([InformationDropping(p=1)] if top_down else []),
    ]


def measure(experiment: Experiment) -> list[dict]:
    source = experiment.train_dataset
    dataset = TrainingSet(source, all_augmentations(experiment), experiment.codec, seed=0)
    count = min(len(source), 2 * IMAGES)
    samples = [source[i] for i in range(count)]
    rng = np.random.default_rng(0)
    inputs = [apply_transforms(sample, dataset.transforms, rng) for sample in samples]

    def each(work):
        return np.array([seconds(lambda i=i: work(i), 3, 1).min() for i in range(count)])

    parts = {
        "read and decode": each(lambda i: read_image(source.images[source.image_index[i]].path)),
        "augment and warp": each(lambda i: apply_transforms(samples[i], dataset.transforms, rng)),
        "targets": each(lambda i: experiment.codec.encode(inputs[i])),
        "whole sample": each(lambda i: dataset[0, i]),
    }
    whole = parts["whole sample"].mean()
    return [
        {
            "part": name,
            "mean ms": float(1e3 * times.mean()),
            "share": f"{times.mean() / whole:.0%}",
            "a second": float(1 / times.mean()),
        }
        for name, times in parts.items()
    ]


if __name__ == "__main__":
    main()
