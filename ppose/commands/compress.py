"""Distils, quantizes, exports and measures a network: one report of what each step gains."""

from __future__ import annotations

import argparse

from ppose.commands.arguments import add_config

EXAMPLES = """\
  ppose compress -c compress/quickstart
  ppose compress -c compress/lite_hrnet_30 -o threads=4 \\
      student.weights=PATH_OR_URL teacher.weights=PATH_OR_URL quantized.epochs=5

The config names three others: a teacher's, a student's, and the student's with `quantize`. Their
keys are set as teacher.KEY, student.KEY and quantized.KEY. Six networks are made: float teacher,
float student, distilled, PTQ (calibrated only), PACT (trained in int8), and distilled + PACT.
What was trained before is not trained again, and a run that was stopped continues.

The folder (output_dir) gets report.md, report.json, report.png, and for each network its run and
its exported model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose compress`."""
    add_config(parser)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Makes and measures all networks."""
    from ppose.commands.study import compress

    compress(args.config, args.override)
