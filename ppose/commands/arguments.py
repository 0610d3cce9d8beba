"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ppose.deploy.backends.settings import BACKENDS, DEVICES, PRECISIONS

if TYPE_CHECKING:
    from ppose.deploy.pipeline import PosePipeline
    from ppose.inference.estimator import PoseEstimator
    from ppose.inference.pose_model import PoseModel

_MIN_BOX_SCORE = 0.3
# Parsers have None in their place, so that it shows what was given.
_DEPLOY_DEFAULTS = {
    "det_model_dir": None,
    "det_threshold": 0.5,
    "backend": "auto",
    "device": "cpu",
    "precision": "fp32",
    "threads": None,
}


class Group(Protocol):
    """A parser, or a group of its arguments."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """As of `argparse.ArgumentParser`."""


def add_config(group: Group, required: bool = True, use: str = "") -> None:
    """Adds -c and -o.

    Args:
        required: of -c.
        use: what the config is for, if that needs words.
    """
    group.add_argument(
        "-c",
        "--config",
        required=required,
        help=f"{use}YAML config, or the name of one that ships, such as quickstart",
    )
    group.add_argument(
        "-o",
        "--override",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="set config keys; dots reach into nodes and lists: -o epochs=1 optimizer.lr=1e-3",
    )


def add_boxes(group: Group) -> None:
    """Adds --box, --bbox_file and --min_box_score."""
    group.add_argument(
        "--box",
        nargs=4,
        type=float,
        action="append",
        metavar=("X", "Y", "W", "H"),
        help="box of a person in the image; repeat it for each person",
    )
    group.add_argument("--bbox_file", help="boxes of people in several images, JSON")
    group.add_argument(
        "--min_box_score",
        type=float,
        help=f"omit boxes of the file that score less; default: {_MIN_BOX_SCORE}",
    )


def boxes_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_boxes` as arguments of `infer`; the parser's error for what makes
    no sense."""
    if args.bbox_file == "":
        parser.error("--bbox_file is empty")
    if args.box and args.bbox_file:
        parser.error("give --box or --bbox_file, not both")
    least = args.min_box_score
    if least is not None and not args.bbox_file:
        parser.error("--min_box_score goes with --bbox_file")
    if least is not None and not 0 <= least <= 1:
        parser.error("--min_box_score is from 0 to 1")
    return {
        "boxes": args.box,
        "bbox_file": args.bbox_file,
        "min_box_score": _MIN_BOX_SCORE if least is None else least,
    }


def add_draw_threshold(group: Group) -> None:
    """Adds --draw_threshold."""
    group.add_argument(
        "--draw_threshold",
        type=float,
        default=0.3,
        help="joints that score less are not drawn; the JSON holds all. Default: 0.3",
    )


def add_detector(group: Group, without: str = "an image is one person who fills it") -> None:
    """Adds --det_model_dir and --det_threshold, and says what applies without a detector."""
    group.add_argument(
        "--det_model_dir",
        help="a detector, for top-down networks: folder that PaddleDetection exported, or an ONNX "
        f"or OpenVINO model; without one {without}",
    )
    group.add_argument(
        "--det_threshold",
        type=float,
        help="people whose boxes score less are left out; default: 0.5",
    )


def add_machine(group: Group) -> None:
    """Adds --backend, --device, --precision and --threads."""
    group.add_argument(
        "--backend",
        choices=("auto", *BACKENDS),
        help="auto, the default, measures at first use which is fastest here and remembers it. Of "
        "the pose network only: for a detector it is always auto",
    )
    group.add_argument("--device", choices=DEVICES, help="for a detector too; default: cpu")
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="fp16 needs a device that computes in it; int8 an int8 network, which always runs "
        "so; default: fp32. Of the pose network only: a detector runs in fp32",
    )
    group.add_argument(
        "--threads",
        type=int,
        help="of the CPU, for a detector too; default: OMP_NUM_THREADS, or all cores",
    )


def given(args: argparse.Namespace) -> list[str]:
    """The options of `add_detector` and `add_machine` that were given, as they are written."""
    return [f"--{name}" for name in _DEPLOY_DEFAULTS if getattr(args, name) is not None]


def check_without_bundle(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """The parser's error for options of exported networks, where a config's network runs: a
    detector and its device and threads alone go with that."""
    of_detector = {"--det_model_dir", "--det_threshold"}
    if args.det_model_dir is not None:
        of_detector |= {"--device", "--threads"}
    useless = [option for option in given(args) if option not in of_detector]
    useless += ["--batch_size"] * (getattr(args, "batch_size", None) is not None)
    if useless:
        parser.error(f"{', '.join(useless)}: only with --model_dir")


def chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """Option → value of `add_detector` and `add_machine`, with the defaults; the parser's error for
    what makes no sense."""
    if args.threads is not None and args.threads < 1:
        parser.error("--threads starts at 1")
    if args.det_model_dir == "":
        parser.error("--det_model_dir is empty")
    if args.det_threshold is not None:
        if args.det_model_dir is None:
            parser.error("--det_threshold goes with --det_model_dir")
        if not 0 <= args.det_threshold <= 1:
            parser.error("--det_threshold is from 0 to 1")
    values = {name: getattr(args, name) for name in _DEPLOY_DEFAULTS}
    return {n: _DEPLOY_DEFAULTS[n] if value is None else value for n, value in values.items()}


def for_pipeline(values: dict[str, Any]) -> dict[str, Any]:
    """What `chosen` gives, as arguments of `ppose.deploy.pipeline.load_pipeline`."""
    arguments = dict(values)
    arguments["min_box_score"] = arguments.pop("det_threshold")
    return arguments


def detector_of(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> Callable[[PoseEstimator], PoseModel]:
    """Puts the detector that the options name, if any, before an estimator."""
    values = chosen(parser, args)

    def add(estimator: PoseEstimator) -> PoseModel:
        if args.det_model_dir is None:
            return estimator
        from ppose.deploy.detection.detector import load_detector
        from ppose.deploy.pipeline import PosePipeline, check_takes_boxes

        check_takes_boxes(estimator)
        detector = load_detector(
            args.det_model_dir,
            device=values["device"],
            threads=values["threads"],
            min_score=values["det_threshold"],
            batch_size=estimator.batch_size,
        )
        return PosePipeline(estimator, detector)

    return add


def pipeline_of(
    args: argparse.Namespace, parser: argparse.ArgumentParser
) -> Callable[[], PosePipeline]:
    """Loads the exported network and the detector that the options name; the parser's error for
    options that make no sense."""
    batch_size = 8 if args.batch_size is None else args.batch_size
    if batch_size < 1:
        parser.error("--batch_size starts at 1")
    settings = for_pipeline(chosen(parser, args))

    def load() -> PosePipeline:
        from ppose.deploy.pipeline import load_pipeline

        return load_pipeline(args.model_dir, batch_size=batch_size, **settings)

    return load


def deploy_folder(model_dir: str) -> Path:
    """Where results of an exported network go by default."""
    return Path("output", "deploy", Path(model_dir).resolve().name)


def refuse_empty(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """The parser's error for an option that is given as an empty text."""
    for name in names:
        if getattr(args, name) == "":
            parser.error(f"--{name} is empty")
