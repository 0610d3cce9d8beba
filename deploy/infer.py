"""Finds poses in pictures or a video with an exported network; needs nothing that trains."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import add_boxes, add_draw_threshold, boxes_of, run

EXAMPLES = """\
examples:
  python deploy/infer.py --model_dir=output/inference/tinypose_256x192 --image_file=people.jpg \\
      --det_model_dir=picodet_s_320_lcnet_pedestrian
  python deploy/infer.py --model_dir=output/inference/imhn_quickstart --image_dir=photos
  python deploy/infer.py --model_dir=output/inference/imhn_quickstart --video_file=dance.mp4
  python deploy/infer.py --model_dir=output/inference/imhn_quickstart --camera_id=0
  python deploy/infer.py --model_dir=output/inference/quickstart --image_file=photo.jpg \\
      --box 10 20 100 250 --box 130 15 90 240 --backend onnxruntime
  python deploy/infer.py --model_dir=output/inference/quickstart --image_dir=photos \\
      --bbox_file=boxes.json

tools/export.py writes what --model_dir takes. Bottom-up networks (imhn_*) find people by
themselves. Top-down ones need a detector or boxes: without any a picture is taken as one person
who fills it."""


def main() -> int:
    from ppose.deploy import options

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_dir", required=True, help="folder of an exported network")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image_file", help="a picture")
    source.add_argument("--image_dir", help="a folder of pictures, or a pattern")
    source.add_argument("--video_file", help="a video, or the address of a stream")
    source.add_argument("--camera_id", type=int, help="a camera, 0 for the first")
    people = parser.add_argument_group("people")
    options.add_detector(people)
    add_boxes(people)
    machine = parser.add_argument_group("machine")
    options.add_machine(machine)
    machine.add_argument(
        "--batch_size", type=int, default=8, help="inputs for a run of a network; default: 8"
    )
    video = parser.add_argument_group("video")
    video.add_argument(
        "--no_tracking", action="store_true", help="give nobody a track_id, and smooth nothing"
    )
    video.add_argument(
        "--no_smoothing", action="store_true", help="leave keypoints as they are found"
    )
    video.add_argument("--no_video", action="store_true", help="write the JSON lines only")
    video.add_argument(
        "--show",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show a window, which q or Esc ends; default: for cameras",
    )
    result = parser.add_argument_group("result")
    result.add_argument("--output_dir", help="default: output/deploy/, and the name of the bundle")
    add_draw_threshold(result)
    args = parser.parse_args()
    for name in ("model_dir", "image_file", "image_dir", "video_file", "output_dir"):
        if getattr(args, name) == "":
            parser.error(f"--{name} is empty")
    if args.batch_size < 1:
        parser.error("--batch_size starts at 1")
    chosen = options.for_finder(options.chosen(parser, args))
    boxes = boxes_of(parser, args)
    if args.box and not args.image_file:
        parser.error("--box goes with --image_file")
    if args.bbox_file and not (args.image_file or args.image_dir):
        parser.error("--bbox_file goes with pictures")
    if (args.box or args.bbox_file) and args.det_model_dir:
        parser.error("give boxes or a detector, not both")

    output_dir = args.output_dir or Path("output", "deploy", Path(args.model_dir).resolve().name)

    from ppose.deploy.finder import PoseFinder, load_finder

    def finder() -> PoseFinder:
        return load_finder(args.model_dir, batch_size=args.batch_size, **chosen)

    pictures = args.image_dir if args.image_file is None else args.image_file
    if pictures is not None:
        from ppose.infer import infer

        infer(
            finder,
            pictures,
            output_dir,
            min_joint_score=args.draw_threshold,
            **boxes,
        )
        return 0

    from ppose.deploy.smoothing import OneEuroSmoother
    from ppose.deploy.tracking import Tracker
    from ppose.deploy.video import run_video

    find = finder()
    found = run_video(
        args.camera_id if args.video_file is None else args.video_file,
        find,
        output_dir=output_dir,
        tracker=None if args.no_tracking else Tracker(),
        smoother=None if args.no_tracking or args.no_smoothing else OneEuroSmoother(),
        batch_size=args.batch_size,
        draw_threshold=args.draw_threshold,
        save_video=not args.no_video,
        show=args.camera_id is not None if args.show is None else args.show,
        stages=find.stages,
    )
    print(found.table())
    return 0 if found.signal is None else 128 + found.signal


if __name__ == "__main__":
    run(main)
