"""Finds, tracks and draws people in a video, a stream or a camera, with an exported network."""

from __future__ import annotations

import argparse

from ppose.commands import arguments

EXAMPLES = """\
  ppose video --model_dir=output/inference/imhn_quickstart --video_file=dance.mp4
  ppose video --model_dir=output/inference/imhn_quickstart --camera_id=0
  ppose video --model_dir=output/inference/tinypose_256x192 --video_file=dance.mp4 \\
      --det_model_dir=picodet_s_320_lcnet_pedestrian --no_smoothing

The folder gets NAME.mp4 with people drawn, NAME.jsonl with a line per frame, and NAME.json about
both. `ppose export` writes what --model_dir takes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose video`."""
    parser.add_argument("--model_dir", required=True, help="folder of an exported network")
    add_source(parser.add_mutually_exclusive_group(required=True))
    arguments.add_detector(parser.add_argument_group("people"))
    machine = parser.add_argument_group("machine")
    arguments.add_machine(machine)
    machine.add_argument("--batch_size", type=int, help="inputs per run of a network; default: 8")
    add_video(parser.add_argument_group("video"))
    result = parser.add_argument_group("result")
    result.add_argument("--output_dir", help="default: output/deploy/ and the bundle's name")
    arguments.add_draw_threshold(result)


def add_source(group: arguments.Group) -> None:
    """Adds --video_file and --camera_id."""
    group.add_argument("--video_file", help="a video, or the address of a stream")
    group.add_argument("--camera_id", type=int, help="a camera, 0 for the first")


def add_video(group: arguments.Group) -> None:
    """Adds the options of tracking, smoothing and output."""
    group.add_argument(
        "--no_tracking", action="store_true", help="give nobody a track_id, and smooth nothing"
    )
    group.add_argument(
        "--no_smoothing", action="store_true", help="leave keypoints as they are found"
    )
    group.add_argument("--no_video", action="store_true", help="write the JSON lines only")
    group.add_argument(
        "--show",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show a window, which q or Esc ends; default: for cameras",
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Runs to the end of the video; the exit code."""
    arguments.refuse_empty(parser, args, "model_dir", "video_file", "output_dir")
    load = arguments.pipeline_of(args, parser)

    from ppose.deploy.video.run_video import run_video
    from ppose.deploy.video.smoothing import OneEuroSmoother
    from ppose.deploy.video.tracking import Tracker

    pipeline = load()
    if pipeline.caution:
        print(pipeline.caution)
    found = run_video(
        args.camera_id if args.video_file is None else args.video_file,
        pipeline,
        output_dir=args.output_dir or arguments.deploy_folder(args.model_dir),
        tracker=None if args.no_tracking else Tracker(),
        smoother=None if args.no_tracking or args.no_smoothing else OneEuroSmoother(),
        batch_size=8 if args.batch_size is None else args.batch_size,
        draw_threshold=args.draw_threshold,
        save_video=not args.no_video,
        show=args.camera_id is not None if args.show is None else args.show,
        timer=pipeline.timer,
    )
    print(found.table())
    return 0 if found.signal is None else 128 + found.signal
