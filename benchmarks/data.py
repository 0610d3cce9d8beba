"""Samples a second of one loading process, and where its time goes.

    python benchmarks/data.py [--config configs/hrnet_w32_256x192.yml] [--json FILE]

Renders 640×480 JPEGs of synthetic people, then makes training samples of them: read, augment,
warp, targets. One process, one thread.
"""

import tempfile
from pathlib import Path

import cv2
import numpy as np
from report import ROOT, parser, report, seconds

from ppose.data.images import read_image
from ppose.data.loader import TrainingSet
from ppose.data.synthetic import write_coco
from ppose.data.transforms import augmented
from ppose.experiment import Experiment

PICTURES = 100


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--config", default=str(ROOT / "configs" / "hrnet_w32_256x192.yml"))
    args = arguments.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        write_coco(Path(folder), "train", PICTURES, seed=0, size_wh=(640, 480))
        experiment = Experiment.from_file(
            args.config,
            [
                f"train_dataset.image_dir={folder}/train",
                f"train_dataset.anno_path={folder}/annotations/person_keypoints_train.json",
            ],
        )
        report(measure(experiment), args.json)


def measure(experiment: Experiment) -> list[dict]:
    source = experiment.train_dataset
    dataset = TrainingSet(source, experiment.train_transforms, experiment.codec, seed=0)
    count = min(len(source), 2 * PICTURES)
    samples = [source[i] for i in range(count)]
    rng = np.random.default_rng(0)
    inputs = [augmented(sample, experiment.train_transforms, rng) for sample in samples]

    def each(work):
        return np.array([seconds(lambda i=i: work(i), 3, 1).min() for i in range(count)])

    parts = {
        "read JPEG 640x480": each(lambda i: read_image(source.images[source.image_index[i]].path)),
        "augment and warp": each(lambda i: augmented(samples[i], dataset.transforms, rng)),
        "targets": each(lambda i: experiment.codec.encode(inputs[i].keypoints[0])),
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
