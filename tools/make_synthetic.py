"""Draws the synthetic data set: people with exact keypoints, boxes and masks, in COCO's format."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.data.synthetic import Recipe, write_coco
from ppose.data.synthetic.coco import is_complete
from ppose.data.synthetic.scene import SETTINGS
from ppose.progress import progress

_EXAMPLES = """\
examples:
  python tools/make_synthetic.py --output dataset/synthetic
  python tools/make_synthetic.py --output dataset/hard --difficulty hard --size 640x480
  python tools/make_synthetic.py --output dataset/tiny --train 200 --val 50 --seed 7

writes:
  OUTPUT/train/000000.jpg …   OUTPUT/annotations/person_keypoints_train.json
  OUTPUT/val/000000.jpg …     OUTPUT/annotations/person_keypoints_val.json

The same options give the same bytes, with any number of workers. A split with its JSON file is
complete: it is left as it is if the options are the same, and never overwritten if they differ.
"""


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT like 320x240, found '{text}'")
    return int(width), int(height)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("dataset/synthetic"), help="folder (%(default)s)")
    add("--train", type=int, default=2000, help="images to train on; 0: none (%(default)s)")
    add("--val", type=int, default=200, help="images to evaluate on; 0: none (%(default)s)")
    add("--seed", type=int, default=0, help="other numbers give other pictures (%(default)s)")
    add("--size", type=_size, default=(320, 240), metavar="WxH", help="of each image (320x240)")
    add(
        "--difficulty",
        choices=list(SETTINGS),
        default="normal",
        help="how crowded, hidden, cut off and blurred people are; group: as easy, but with two to "
        "four people (%(default)s)",
    )
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _arguments().parse_args(argv)
    try:
        recipes = [
            Recipe(split, count, args.seed, args.size, args.difficulty)
            for split, count in (("train", args.train), ("val", args.val))
            if count != 0
        ]
        if not recipes:
            raise ValueError("--train and --val are both 0: nothing to draw")
        # Both are checked before either is drawn.
        complete = [is_complete(args.output, recipe) for recipe in recipes]
        for recipe, done in zip(recipes, complete, strict=True):
            place = args.output / recipe.split
            if done:
                print(f"{place}: complete already, {recipe.count} images; nothing to do")
                continue
            _write(recipe, args.output, args.workers, args.quiet)
            print(f"{place}: {recipe.count} images")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the unfinished split was removed", file=sys.stderr)
        return 130
    return 0


def _write(recipe: Recipe, output: Path, workers: int, quiet: bool) -> None:
    with progress(recipe.count, recipe.split, "images", quiet) as bar:
        write_coco(
            output,
            recipe.split,
            recipe.count,
            recipe.seed,
            recipe.size_wh,
            recipe.difficulty,
            workers=workers,
            on_image=bar.update,
        )


if __name__ == "__main__":
    sys.exit(main())
