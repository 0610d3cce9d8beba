"""Checks a config, and prints it as it is after _base_, -o and ${references}.

Everything that it names is built, apart from the data sets; exits with 1 if anything is wrong."""

from __future__ import annotations

import argparse
import sys

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

    experiment = Experiment.from_file(args.config, args.override)
    experiment.check_training()
    for line in experiment.without_effect():
        print(line, file=sys.stderr)
    print(dump_config(experiment.config), end="")
