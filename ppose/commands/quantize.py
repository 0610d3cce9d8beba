"""Quantizes trained weights to int8 without training, and says what that costs."""

from __future__ import annotations

import argparse

from ppose.commands.arguments import add_config

EXAMPLES = """\
  ppose quantize -c tinypose_256x192 -o weights=PATH_OR_URL
  ppose quantize -c lite_hrnet_30_256x192_coco_pact -o weights=PATH_OR_URL \\
      quantize.calibration=max --sensitivity
  ppose eval -c tinypose_256x192 -o quantize={} weights=output/tinypose_256x192/ptq.safetensors

Scales come from batches of train_dataset; quantize of the config says how. The run's folder gets
ptq.safetensors and ptq.json. Where that loses too much, train it: see the configs *_pact."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose quantize`."""
    add_config(parser)
    parser.add_argument(
        "--sensitivity",
        action="store_true",
        help="score the network with each block alone quantized, and propose what to exclude",
    )
    parser.add_argument(
        "--depth",
        type=int,
        default=3,
        help="parts of a layer's name that make a block; default: 3, e.g. backbone.stage0.0",
    )
    parser.add_argument(
        "--allowed",
        type=float,
        default=0.05,
        help="squared error of the maps that the proposal may make, as a share; default: 0.05",
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Quantizes and measures."""
    if args.depth < 1:
        parser.error("--depth starts at 1")

    from ppose.experiment import Experiment
    from ppose.training.post_training import measure_quantization

    experiment = Experiment.from_file(args.config, args.override)
    blocks = args.depth if args.sensitivity else None
    measure_quantization(experiment, by_block=blocks, allowed=args.allowed)
