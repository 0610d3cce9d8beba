"""Writes a trained network as a bundle that runs without the code that trained it."""

from __future__ import annotations

import argparse

from ppose.commands.arguments import add_config
from ppose.utils.shipped import shipped

EXAMPLES = """\
  ppose export -c quickstart
  ppose export -c tinypose_256x192 -o weights=tinypose.pdparams \\
      --output_dir=output/inference/tinypose_256x192 --check=photos
  ppose export -c tinypose_256x192_pact -o weights=int8.safetensors
  ppose export -c imhn_quickstart -o flip_test=false --peaks --format onnx

The folder gets
  model.pdmodel, model.pdiparams   for Paddle Inference
  model.onnx                       for ONNX Runtime and OpenVINO
  pose.yml                         skeleton, codec, crop, weights, training, measured scores
Images go in as uint8 RGB, (N, H, W, 3). A quantized config becomes an int8 network.

Every installed backend runs the bundle next to the network itself first, and a table shows how far
joints move. Above the tolerance nothing is written, and the exit code is 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose export`."""
    add_config(parser)
    parser.add_argument("--output_dir", help="default: output/inference/NAME")
    parser.add_argument(
        "--format", default="paddle,onnx", help="paddle, onnx, or both: the default, paddle,onnx"
    )
    parser.add_argument(
        "--peaks",
        action="store_true",
        help="find the peaks in the network, so that little leaves a GPU; not for flip test or "
        "several scales",
    )
    parser.add_argument("--batch", type=int, help="a fixed batch size; default: any")
    parser.add_argument(
        "--check",
        metavar="IMAGES",
        help="an image, folder or pattern to compare backends on; default: the test images",
    )
    parser.add_argument(
        "--bbox_file", help="boxes of people in these images, JSON; without, each is one person"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="PIXELS",
        help="pixels of the network's input that a joint may move: 0.05 at most by default, 1 on "
        "average in int8; scores may then differ by any amount",
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Exports and compares."""
    formats = args.format.split(",")
    if not set(formats) <= {"paddle", "onnx"}:
        parser.error(f"--format: expected paddle, onnx or paddle,onnx, found {args.format}")
    if args.batch is not None and args.batch < 1:
        parser.error("--batch starts at 1")
    if args.bbox_file and not args.check:
        parser.error("--bbox_file goes with --check")

    from ppose.experiment import Experiment
    from ppose.export.checked_export import export_checked

    test_images = shipped("dataset/test_image")
    export_checked(
        Experiment.from_file(args.config, args.override),
        args.output_dir,
        formats=formats,
        peaks=args.peaks,
        batch=args.batch,
        pictures=args.check or test_images,
        bbox_file=args.bbox_file if args.check else test_images / "boxes.json",
        tolerance=args.tolerance,
    )
