"""Prints a config as it is after _base_, -o and ${references}; exits with 1 if it is wrong."""

from __future__ import annotations

import argparse

from ppose.commands.arguments import add_config

EXAMPLES = """\
  ppose config -c hrnet_w32_256x192
  ppose config -c hrnet_w32_256x192 -o model.backbone.width=48"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose config`."""
    add_config(parser)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Prints the config."""
    from ppose.config import dump_config
    from ppose.experiment import Experiment

    print(dump_config(Experiment.from_file(args.config, args.override).config), end="")
