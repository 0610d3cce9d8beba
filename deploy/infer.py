"""Finds poses in images or a video with an exported network; needs nothing that trains."""

from __future__ import annotations

import argparse
import sys

from ppose.commands import arguments, infer, script, video

EXAMPLES = """\
  python deploy/infer.py --model_dir=output/inference/tinypose_256x192 --image_file=people.jpg \\
      --det_model_dir=picodet_s_320_lcnet_pedestrian
  python deploy/infer.py --model_dir=output/inference/imhn_quickstart --image_dir=photos
  python deploy/infer.py --model_dir=output/inference/imhn_quickstart --video_file=dance.mp4
  python deploy/infer.py --model_dir=output/inference/imhn_quickstart --camera_id=0
  python deploy/infer.py --model_dir=output/inference/quickstart --image_file=photo.jpg \\
      --box 10 20 100 250 --box 130 15 90 240 --backend onnxruntime
  python deploy/infer.py --model_dir=output/inference/quickstart --image_dir=photos \\
      --bbox_file=boxes.json

The same as `ppose infer --model_dir` and `ppose video`, with PaddleDetection's names of options.
Bottom-up networks (imhn_*) find people by themselves. Top-down ones need a detector or boxes:
without either an image is taken as one person who fills it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `deploy/infer.py`."""
    parser.add_argument("--model_dir", required=True, help="folder of an exported network")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image_file", help="an image")
    source.add_argument("--image_dir", help="a folder of images, or a pattern")
    video.add_source(source)
    people = parser.add_argument_group("people")
    arguments.add_detector(people)
    arguments.add_boxes(people)
    machine = parser.add_argument_group("machine")
    arguments.add_machine(machine)
    machine.add_argument("--batch_size", type=int, help="inputs per run of a network; default: 8")
    video.add_video(parser.add_argument_group("video"))
    result = parser.add_argument_group("result")
    result.add_argument("--output_dir", help="default: output/deploy/ and the bundle's name")
    arguments.add_draw_threshold(result)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Runs on images or on a video; the exit code."""
    names = ("model_dir", "image_file", "image_dir", "video_file", "output_dir")
    arguments.refuse_empty(parser, args, *names)
    if args.box and not args.image_file:
        parser.error("--box goes with --image_file")
    images = args.image_dir if args.image_file is None else args.image_file
    if images is not None:
        infer.infer_with_bundle(args, parser, images)
        return 0
    arguments.boxes_of(parser, args)
    if args.bbox_file:
        parser.error("--bbox_file goes with images")
    return video.run(args, parser)


if __name__ == "__main__":
    script(sys.modules[__name__])
