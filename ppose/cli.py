"""What command lines share: arguments, errors, exit codes."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Any, Protocol

import cv2

from ppose.errors import PposeError

_MIN_BOX_SCORE = 0.3


class Group(Protocol):
    """A parser, or a group of its options."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """As of `argparse.ArgumentParser`."""


def parser(description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with `-c` and `-o`."""
    made = argparse.ArgumentParser(
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-c", "--config", required=True, help="YAML config, e.g. configs/X.yml")
    made.add_argument(
        "-o",
        "--override",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="set config keys; dots reach into nodes and lists: -o epochs=1 optimizer.lr=1e-3",
    )
    return made


def add_boxes(group: Group) -> None:
    """Adds --box, --bbox_file and --min_box_score."""
    group.add_argument(
        "--box",
        nargs=4,
        type=float,
        action="append",
        metavar=("X", "Y", "W", "H"),
        help="a person in the picture; give it once for each",
    )
    group.add_argument("--bbox_file", help="boxes of people in several pictures, JSON")
    group.add_argument(
        "--min_box_score",
        type=float,
        help=f"leave out boxes of the file below; default {_MIN_BOX_SCORE}",
    )


def boxes_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_boxes` say, as arguments of `ppose.infer.infer`; the parser's error
    for what makes no sense."""
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
        help="joints below this score are not drawn; the JSON holds all. Default 0.3",
    )


def run(main: Callable[[], int | None]) -> None:
    """Runs a tool and exits: 0 done, 1 an error, 130 stopped by Ctrl-C, 143 by SIGTERM.

    Errors about what was given are printed without a trace; a trace means a bug.
    """
    cv2.setNumThreads(0)
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        sys.exit(128 + (stop.args[0] if stop.args else signal.SIGINT))
    except (PposeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
