"""Options that the command lines which run exported networks share."""

from __future__ import annotations

import argparse
from typing import Any

from ppose.cli import Group
from ppose.deploy.session import BACKENDS, DEVICES, PRECISIONS

# Parsers have None in their place, so that it shows what was given.
_DEFAULTS = {
    "det_model_dir": None,
    "det_threshold": 0.5,
    "backend": "auto",
    "device": "cpu",
    "precision": "fp32",
    "threads": None,
}


def add_detector(group: Group, without: str = "a picture is one person who fills it") -> None:
    """Adds --det_model_dir and --det_threshold, and says what is so without a detector."""
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
        "the network of poses alone: for a detector it is always auto",
    )
    group.add_argument("--device", choices=DEVICES, help="for a detector too; default: cpu")
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="fp16 needs a device that computes in it; int8 an int8 network, which always runs "
        "so; default: fp32. Of the network of poses alone: a detector runs in fp32",
    )
    group.add_argument(
        "--threads",
        type=int,
        help="of the CPU, for a detector too; default: OMP_NUM_THREADS, or all cores",
    )


def given(args: argparse.Namespace) -> list[str]:
    """Those of these options that the command line has, as it writes them."""
    return [f"--{name}" for name in _DEFAULTS if getattr(args, name) is not None]


def chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """Option → value, with the defaults; the parser's error for what makes no sense."""
    if args.threads is not None and args.threads < 1:
        parser.error("--threads starts at 1")
    if args.det_model_dir == "":
        parser.error("--det_model_dir is empty")
    if args.det_threshold is not None:
        if args.det_model_dir is None:
            parser.error("--det_threshold goes with --det_model_dir")
        if not 0 <= args.det_threshold <= 1:
            parser.error("--det_threshold is from 0 to 1")
    values = {name: getattr(args, name) for name in _DEFAULTS}
    return {n: _DEFAULTS[n] if value is None else value for n, value in values.items()}


def for_finder(values: dict[str, Any]) -> dict[str, Any]:
    """What `chosen` gives, as arguments of `ppose.deploy.finder.load_finder`."""
    arguments = dict(values)
    arguments["min_box_score"] = arguments.pop("det_threshold")
    return arguments
