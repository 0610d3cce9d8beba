"""Writes a trained network as a bundle that runs without the code that trained it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import parser, run

TEST_IMAGES = Path(__file__).resolve().parents[1] / "dataset" / "test_image"
EXAMPLES = """\
  python tools/export.py -c configs/quickstart.yml
  python tools/export.py -c configs/tinypose_256x192.yml -o weights=tinypose.pdparams \\
      --output_dir=output/inference/tinypose_256x192 --check=photos
  python tools/export.py -c configs/tinypose_256x192_pact.yml -o weights=int8.safetensors
  python tools/export.py -c configs/imhn_quickstart.yml -o flip_test=false --peaks --format onnx

The folder gets
  model.pdmodel, model.pdiparams   for Paddle Inference
  model.onnx                       for ONNX Runtime and OpenVINO
  pose.yml                         skeleton, codec, crop, weights, training, measured scores
Pictures go in as uint8 RGB, (N, H, W, 3). A quantized config becomes an int8 network.

Every installed backend runs the bundle beside the network itself first, and a table shows how far
joints move. Above the tolerance nothing is written, and the exit code is 1."""


def main() -> None:
    arguments = parser(__doc__, EXAMPLES)
    arguments.add_argument("--output_dir", help="default: output/inference/NAME")
    arguments.add_argument(
        "--format", default="paddle,onnx", help="paddle, onnx, or both: the default, paddle,onnx"
    )
    arguments.add_argument(
        "--peaks",
        action="store_true",
        help="find the peaks in the network, so that little leaves a GPU; not for flip test or "
        "several scales",
    )
    arguments.add_argument("--batch", type=int, help="a fixed batch size; default: any")
    arguments.add_argument(
        "--check",
        metavar="PICTURES",
        help="a picture, folder or pattern to compare backends on; default: the test images",
    )
    arguments.add_argument(
        "--bbox_file", help="boxes of people in these pictures, JSON; without, each is one person"
    )
    arguments.add_argument(
        "--tolerance",
        type=float,
        metavar="PIXELS",
        help="pixels of the network's input that a joint may move: 0.05 at most by default, 1 on "
        "average in int8; scores may then differ as they like",
    )
    args = arguments.parse_args()
    formats = args.format.split(",")
    if not set(formats) <= {"paddle", "onnx"}:
        arguments.error(f"--format: expected paddle, onnx or paddle,onnx, found {args.format}")
    if args.batch is not None and args.batch < 1:
        arguments.error("--batch starts at 1")
    if args.bbox_file and not args.check:
        arguments.error("--bbox_file goes with --check")

    from ppose.experiment import Experiment
    from ppose.export.command import export

    export(
        Experiment.from_file(args.config, args.override),
        args.output_dir,
        formats=formats,
        peaks=args.peaks,
        batch=args.batch,
        pictures=args.check or TEST_IMAGES,
        bbox_file=args.bbox_file if args.check else TEST_IMAGES / "boxes.json",
        tolerance=args.tolerance,
    )


if __name__ == "__main__":
    run(main)
