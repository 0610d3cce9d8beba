"""Draws a data set of synthetic people, with exact keypoints, boxes and masks in COCO's format."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ppose.synthetic.scene import Difficulty

if TYPE_CHECKING:
    from ppose.synthetic import Recipe

EXAMPLES = """\
  ppose synthetic --output dataset/synthetic
  ppose synthetic --output dataset/hard --difficulty hard --size 640x480
  ppose synthetic --output dataset/tiny --train 200 --val 50 --seed 7

writes:
  OUTPUT/train/000000.jpg …   OUTPUT/annotations/person_keypoints_train.json
  OUTPUT/val/000000.jpg …     OUTPUT/annotations/person_keypoints_val.json

The same options give the same bytes, with any number of workers. A split with its JSON file is
complete: it is kept if the options are the same, and never overwritten if they differ."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose synthetic`."""
    add = parser.add_argument
    add("--output", type=Path, default=Path("dataset/synthetic"), help="folder (%(default)s)")
    add("--train", type=int, default=2000, help="images to train on; 0: none (%(default)s)")
    add("--val", type=int, default=200, help="images to evaluate on; 0: none (%(default)s)")
    add("--seed", type=int, default=0, help="other numbers give other images (%(default)s)")
    add("--size", type=_size, default=(320, 240), metavar="WxH", help="of each image (320x240)")
    add(
        "--difficulty",
        choices=get_args(Difficulty),
        default="normal",
        help="how crowded, hidden, cut off and blurred people are; group: as easy, but with two to "
        "four people (%(default)s)",
    )
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    add("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Draws what is not complete yet."""
    from ppose.synthetic import Recipe
    from ppose.synthetic.dataset import is_complete
    from ppose.utils.errors import PposeError

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
    except ValueError as error:
        raise PposeError(str(error)) from None


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT like 320x240, found '{text}'")
    return int(width), int(height)


def _write(recipe: Recipe, output: Path, workers: int, quiet: bool) -> None:
    from ppose.synthetic import write_coco
    from ppose.utils.interrupt import StopRequest
    from ppose.utils.progress import progress

    with StopRequest() as stop, progress(recipe.count, recipe.split, "image", quiet) as bar:

        def on_image() -> None:
            bar.update()
            # Between two images: an exception inside the pool of processes may block it.
            if stop.requested:
                raise KeyboardInterrupt(stop.number)

        write_coco(
            output,
            recipe.split,
            recipe.count,
            recipe.seed,
            recipe.size_wh,
            recipe.difficulty,
            workers=workers,
            on_image=on_image,
        )
