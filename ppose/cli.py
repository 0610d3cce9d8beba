"""What the command lines of `tools/` share: arguments, errors, exit codes."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

import cv2

from ppose.errors import PposeError


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
