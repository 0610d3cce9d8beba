"""The command line: one module per subcommand, each with `add_arguments` and `run`.

A module is imported when its subcommand is called, so that `ppose --help` takes no time.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from io import TextIOWrapper
from types import ModuleType
from typing import Any, NoReturn

from ppose.utils.errors import PposeError
from ppose.utils.printable import printable
from ppose.version import __version__

COMMANDS = {
    "infer": "find people in images, with a config or an exported network",
    "video": "find and track people in a video, a stream or a camera",
    "detect": "write the boxes of people that a detector finds",
    "train": "train the network of a config",
    "eval": "score weights or an exported network",
    "export": "export for Paddle Inference, ONNX Runtime and OpenVINO",
    "serve": "serve poses over HTTP, with a page to try it",
    "quantize": "quantize trained weights to int8 without training",
    "compress": "distil, quantize, export and measure: one report",
    "average": "average the weights of several checkpoints",
    "convert": "convert PyTorch weights",
    "config": "check a config and print it with its bases resolved",
    "synthetic": "draw a data set of synthetic people",
    "completion": "print a script for tab completion",
}
_EPILOG = """\
ppose COMMAND --help has the options and examples of a command.

-c takes a YAML file, or the name of a config that ships, such as quickstart:
  ppose infer -c quickstart --infer_img photo.jpg

exit codes: 0 done, 1 an error, 2 wrong usage, 130 stopped by Ctrl-C, 143 by SIGTERM"""


def main(argv: list[str] | None = None) -> NoReturn:
    """The program `ppose`."""
    argv = sys.argv[1:] if argv is None else argv
    # Only the named subcommand is imported.
    named = argv[0] if argv and argv[0] in COMMANDS else None
    sys.exit(call(_parsed(program([named] if named else []), argv)))


def script(command: str | ModuleType) -> NoReturn:
    """A subcommand as a program of its own, as the scripts in tools/ and deploy/ run it.

    Args:
        command: name of a subcommand, or a module of the same form.
    """
    module = _module(command) if isinstance(command, str) else command
    parser = _filled(argparse.ArgumentParser(**_texts(module)), module)
    sys.exit(call(_parsed(parser, sys.argv[1:])))


def program(names: list[str] | None = None) -> argparse.ArgumentParser:
    """The parser of `ppose`, with the arguments of some subcommands only; None for all."""
    parser = argparse.ArgumentParser(
        prog="ppose",
        description="Human pose estimation on PaddlePaddle.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=18
        ),
    )
    parser.add_argument("--version", action="version", version=f"ppose {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if names is None or name in names:
            module = _module(name)
            _filled(commands.add_parser(name, help=summary, **_texts(module)), module)
        else:
            commands.add_parser(name, help=summary)
    return parser


def call(args: argparse.Namespace) -> int:
    """Runs what the arguments ask for; the exit code.

    Errors about what was given are printed without a traceback; a traceback means a bug.
    """
    import cv2

    cv2.setNumThreads(0)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a file name may hold what cannot be encoded
            stream.reconfigure(errors="backslashreplace")
    try:
        return args.run(args, args.parser) or 0
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except (PposeError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "ppose"):
            raise
        print(
            f"error: this needs the package {package}, which is not installed: "
            "pip install 'ppose[train]'",
            file=sys.stderr,
        )
        return 1


def _parsed(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The arguments; for an unknown option that is a key of the config, how it is set."""
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}{_key_hint(args, unknown)}")
    return args


def _key_hint(args: argparse.Namespace, unknown: list[str]) -> str:
    option, equals, value = unknown[0].partition("=")
    if not (option.startswith("--") and getattr(args, "config", None) and "override" in args):
        return ""
    from ppose.config import load_config, places

    try:
        found = places(option[2:], load_config(args.config))
    except (PposeError, OSError):
        return ""
    value = value if equals else "".join(unknown[1:2]) or "VALUE"
    return f"; a key of the config is set with -o {found[0]}={value}" if found else ""


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"ppose.commands.{name}")


def _texts(module: ModuleType) -> dict[str, Any]:
    return {
        "description": module.__doc__,
        "epilog": f"examples:\n{module.EXAMPLES}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def _filled(parser: argparse.ArgumentParser, module: ModuleType) -> argparse.ArgumentParser:
    """The parser with the arguments of a subcommand, and what runs it."""
    module.add_arguments(parser)
    parser.set_defaults(run=module.run, parser=parser)
    return parser
