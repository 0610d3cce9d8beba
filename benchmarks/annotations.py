"""Time and memory of reading an annotation file of the size of COCO's train2017.

    python benchmarks/annotations.py [--images 118287] [--workers 4] [--json FILE]

Writes a synthetic file with as many images, annotations, polygons and run-length encodings as
person_keypoints_train2017.json, and placeholder files for the images. Each dataset is read in its
own process, without and with Paddle imported; forked workers then access the annotations of every
sample. Memory is that of the whole process in MB of 10^6 bytes: `imports` before reading, `peak`
the maximum, `kept` after reading. `a worker` is the largest private memory of a worker, `idle`
that of a worker without work.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from report import parser, report

from ppose.data.workers import Workers
from ppose.structures.skeleton import COCO17
from ppose.synthetic import write_coco

IMAGES, ANNOTATIONS, LABELLED, CROWDS = 118_287, 262_465, 149_813, 10_500
SCENES = 100
CORNERS = 28  # maximum per polygon; gives the 238 MB of COCO's file
SEPARATORS = (",", ": ")  # as in COCO's file
LINKS = 30_000  # hard links per file, which file systems limit


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=IMAGES)
    arguments.add_argument("--workers", type=int, default=4)
    arguments.add_argument("--measure", nargs=3, help="for internal use")
    args = arguments.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), args.images)
        rows = [
            measure_in_process([dataset, paddle, folder, "--workers", str(args.workers)])
            for dataset in ("CocoDataset", "CocoMultiPerson")
            for paddle in ("without", "with")
        ]
    report(rows, args.json)


def write_dataset(folder: Path, images: int) -> None:
    """Writes `people.json` and the folder `train` of its images."""
    people = drawn_people(folder / "drawn")
    rng = np.random.default_rng(0)
    share = images / IMAGES
    ids = rng.choice(600_000, images, replace=False)
    (folder / "train").mkdir()
    for i, image_id in enumerate(ids):
        path = folder / "train" / f"{image_id:012d}.jpg"
        if i % LINKS == 0:
            path.write_bytes(b"not opened")
            first = path
        else:
            path.hardlink_to(first)
    count = round(ANNOTATIONS * share)
    kinds = np.zeros(count, int)
    kinds[: round(LABELLED * share)] = 1
    kinds[len(kinds) - round(CROWDS * share) :] = 2
    rng.shuffle(kinds)
    owners = rng.choice(ids, count)
    chosen = rng.integers(len(people), size=count)
    with (folder / "people.json").open("w") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        file.write(",".join(image_text(image_id) for image_id in ids))
        file.write('], "annotations": [')
        for i, (kind, owner, person) in enumerate(zip(kinds, owners, chosen, strict=True)):
            start = f'{{"id": {900_100_000_000 + i},"image_id": {owner},"category_id": 1,'
            file.write(("," if i else "") + start + people[person][kind])
        category = {"id": 1, "name": "person", "keypoints": COCO17.joint_names}
        file.write(f'], "categories": [{json.dumps(category)}]}}')
    size = (folder / "people.json").stat().st_size / 1e6
    print(f"{size:.0f} MB, {images} images, {count} annotations")


def image_text(image_id: int) -> str:
    """An entry of `images` with all keys of COCO."""
    name = f"{image_id:012d}.jpg"
    entry = {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2017/{name}",
        "height": 480,
        "width": 640,
        "date_captured": "2013-11-14 16:28:13",
        "flickr_url": f"http://farm9.staticflickr.com/8186/{image_id:010d}_572d3cb5af_z.jpg",
        "id": int(image_id),
    }
    return json.dumps(entry, separators=SEPARATORS)


def drawn_people(folder: Path) -> list[tuple[str, str, str]]:
    """The end of an annotation for each drawn person: unlabelled, labelled, as a crowd."""
    write_coco(folder, "train", SCENES, seed=0, size_wh=(640, 480))
    content = json.loads((folder / "annotations" / "person_keypoints_train.json").read_text())
    people = []
    for person in content["annotations"]:
        polygons = [simplified(polygon) for polygon in person["segmentation"]]
        keypoints = np.round(person["keypoints"]).astype(int).tolist()
        people.append(
            (
                annotation_end(person, polygons, [0] * len(keypoints)),
                annotation_end(person, polygons, keypoints),
                annotation_end(person, run_lengths(polygons), [0] * len(keypoints)),
            )
        )
    return people


def annotation_end(person: dict, segmentation: list | dict, keypoints: list[int]) -> str:
    entry = {
        "bbox": [round(value + 0.37, 2) for value in person["bbox"]],
        "area": person["area"] + 0.1234,
        "iscrowd": int(isinstance(segmentation, dict)),
        "num_keypoints": sum(visibility > 0 for visibility in keypoints[2::3]),
        "keypoints": keypoints,
        "segmentation": segmentation,
    }
    return json.dumps(entry, separators=SEPARATORS)[1:]


def simplified(polygon: list[float]) -> list[float]:
    """A polygon with as many corners as those of COCO, rounded to 0.01 pixels."""
    corners = np.reshape(polygon, (-1, 2))
    count = min(len(corners), CORNERS)
    kept = corners[np.linspace(0, len(corners) - 1, count).astype(int)]
    return (kept + np.random.default_rng(0).uniform(0, 0.5, kept.shape)).round(2).ravel().tolist()


def run_lengths(polygons: list[list[float]]) -> dict:
    """COCO's uncompressed run-length encoding, as used for crowds."""
    mask = np.zeros((480, 640), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.reshape(polygon, (-1, 2)).astype(np.int32)], 1)
    flat = mask.T.ravel()
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    return {"size": [480, 640], "counts": [0, *counts] if flat[0] else counts}


def measure_in_process(arguments: list[str]) -> dict:
    command = [sys.executable, __file__, "--measure", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(dataset: str, paddle: str, folder: str, workers: str | int) -> dict:
    """One row of the table, measured in this process."""
    if paddle == "with":
        import ppose.experiment  # noqa: F401
    from ppose.data import coco
    from ppose.data.multi_person import CocoMultiPerson

    coco.read_image = lambda path, size_wh: BLANK
    kind = {"CocoDataset": coco.CocoDataset, "CocoMultiPerson": CocoMultiPerson}[dataset]
    imports = own_memory("VmRSS")
    started = time.perf_counter()
    source = kind(f"{folder}/train", f"{folder}/people.json", COCO17)
    seconds = time.perf_counter() - started
    return {
        "data set": dataset,
        "Paddle": paddle,
        "samples": len(source),
        "seconds": seconds,
        "imports": imports,
        "peak": own_memory("VmHWM"),
        "kept": own_memory("VmRSS"),
        "idle": max(in_workers(source, 0, int(workers))),
        "a worker": max(in_workers(source, len(source), int(workers))),
    }


BLANK = np.zeros((1, 1, 3), np.uint8)


def own_memory(field: str) -> float:
    """MB of this process. Unlike `ru_maxrss`, it does not start at the value of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1.024e-3 for line in lines if line.startswith(field))


def in_workers(source, samples: int, workers: int) -> list[float]:
    """Private memory of each worker in MB, after it has read the first `samples`."""

    def work(task: int) -> list[dict]:
        for i in range(samples):
            source[i]
        return [{"memory": private_memory()}]

    with closing(Workers(work, workers, 0, lambda index: None)) as pool:
        return [float(batch["memory"][0]) for batch in pool.batches(range(workers))]


def private_memory() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1.024e-3 for line in lines if line.startswith("Private_"))


if __name__ == "__main__":
    main()
