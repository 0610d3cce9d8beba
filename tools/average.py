"""Averages the weights of several checkpoints of one network into one file."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import run

EXAMPLES = """\
examples:
  python tools/average.py epoch_50.safetensors epoch_51.safetensors epoch_52.safetensors \\
      --output mean.safetensors
  python tools/average.py a.pdparams b.pdparams --output mean.safetensors \\
      -c configs/quickstart.yml --norm_batches 100

A mean of weights needs batch-norm statistics of its own: with a config they are measured on its
training data; without one they are averaged too, which is worse. Training states
(checkpoints/step-….safetensors) are taken as well; their optimizer is left out."""


def main() -> None:
    arguments = ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter
    )
    arguments.add_argument("checkpoints", nargs="+", help="weight files, at least two")
    arguments.add_argument("--output", required=True, help="a .safetensors file to write")
    arguments.add_argument("-c", "--config", help="measure batch-norm statistics anew for this")
    arguments.add_argument(
        "-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE"
    )
    arguments.add_argument(
        "--norm_batches", type=int, default=100, help="training batches for that; default 100"
    )
    args = arguments.parse_args()
    if args.norm_batches < 1:
        arguments.error("--norm_batches starts at 1")
    if args.override and not args.config:
        arguments.error("-o needs a config: -c")

    from ppose.engine.average import write_average
    from ppose.experiment import Experiment

    experiment = Experiment.from_file(args.config, args.override) if args.config else None
    write_average(args.checkpoints, args.output, experiment, args.norm_batches)


if __name__ == "__main__":
    run(main)
