"""Writes the boxes of people that a detector finds in images, as one JSON file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppose.commands import arguments
from ppose.utils.errors import PposeError

EXAMPLES = """\
  ppose detect --det_model_dir=picodet_s_320_lcnet_pedestrian --image_dir=photos
  ppose detect --det_model_dir=picodet_s_320_lcnet_pedestrian --image_dir=coco/val2017 \\
      --anno_path=coco/annotations/person_keypoints_val2017.json --output=boxes.json \\
      --det_threshold=0.05

The file is a JSON list of
{"file_name": "photo.jpg", "category_id": 1, "bbox": [x, y, width, height], "score": 0.9},
which --bbox_file of `ppose infer` takes. With --anno_path each entry has the image_id of that
annotation file too, and val_dataset.bbox_file takes it: `ppose eval -o val_dataset.bbox_file=…`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose detect`."""
    parser.add_argument("--image_dir", required=True, help="an image, a folder or a pattern")
    parser.add_argument("--output", default="boxes.json", help="default: %(default)s")
    parser.add_argument(
        "--anno_path", help="COCO annotations; their images alone are searched, under their ids"
    )
    arguments.add_detector(parser)
    parser.add_argument("--device", choices=arguments.DEVICES, default="cpu", help="default: cpu")
    parser.add_argument(
        "--threads", type=int, help="of the CPU; default: OMP_NUM_THREADS, or all cores"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="images per run; default: 8")


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Detects and writes."""
    arguments.refuse_empty(parser, args, "image_dir", "output", "anno_path", "det_model_dir")
    if args.det_model_dir is None:
        parser.error("--det_model_dir is required")
    if args.det_threshold is not None and not 0 <= args.det_threshold <= 1:
        parser.error("--det_threshold is from 0 to 1")
    for name in ("batch_size", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} starts at 1")

    from ppose.data.images import list_images
    from ppose.deploy.detection.detector import load_detector
    from ppose.utils.files import check_writable, write_json
    from ppose.utils.interrupt import sigterm_as_interrupt
    from ppose.utils.progress import progress

    files = list_images(args.image_dir)
    ids = _image_ids(Path(args.anno_path)) if args.anno_path else None
    if ids is not None:
        files = [file for file in files if file.name in ids]
        if not files:
            raise PposeError(f"{args.anno_path} has none of the images of {args.image_dir}")
    check_writable(args.output)
    detector = load_detector(
        args.det_model_dir,
        device=args.device,
        threads=args.threads,
        min_score=args.det_threshold,
        batch_size=args.batch_size,
    )
    entries: list[dict[str, Any]] = []
    searched = 0
    with sigterm_as_interrupt(), progress(len(files), "detect", "image") as bar:
        for start in range(0, len(files), args.batch_size):
            batch = files[start : start + args.batch_size]
            read = list(_read(batch))
            searched += len(read)
            found = detector([image for _, image in read])
            for (file, _), boxes in zip(read, found, strict=True):
                about: dict[str, Any] = {"file_name": file.name}
                about |= {} if ids is None else {"image_id": ids[file.name]}
                entries += [
                    about | {"category_id": 1, "bbox": row[:4], "score": row[4]}
                    for row in boxes.astype(float).round(4).tolist()
                ]
            bar.update(len(batch))
    if not searched:
        raise PposeError("no image could be read")
    write_json(args.output, entries)
    print(f"{len(entries)} people in {searched} images ({detector.name}): {args.output}")


def _read(files: list[Path]) -> Iterator[tuple[Path, Any]]:
    """The images that can be read; the others are named."""
    from ppose.data.images import ImageError, read_image

    for file in files:
        try:
            yield file, read_image(file)
        except ImageError as error:
            print(f"left out: {error}")


def _image_ids(path: Path) -> dict[str, int]:
    """File name → image id of an annotation file."""
    from ppose.data.coco_json import read_json

    content = read_json(path, "anno_path")
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise PposeError(f"{path}: expected COCO annotations with a list of images")
    return {
        Path(str(image["file_name"])).name: image["id"]
        for image in images
        if isinstance(image, dict) and "file_name" in image and isinstance(image.get("id"), int)
    }
