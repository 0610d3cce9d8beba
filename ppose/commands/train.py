"""Trains the network of a config."""

from __future__ import annotations

import argparse

from ppose.commands.arguments import add_config

EXAMPLES = """\
  ppose train -c quickstart
  ppose train -c hrnet_w32_256x192 --resume
  ppose train -c lite_hrnet_30_256x192_coco --distill_config=hrnet_w32_256x192_teacher
  ppose train -c lite_hrnet_30_256x192_coco_pact
  ppose train -c tinypose_256x192 -o pretrain_weights=tinypose.pdparams epochs=5 optimizer.lr=1e-4
  python -m paddle.distributed.launch --gpus 0,1 tools/train.py -c configs/hrnet_w32_256x192.yml
    (without GPUs: --nproc_per_node 2 in place of --gpus 0,1, which Paddle then answers with
    "ValueError: substring not found")

The run's folder (output_dir) gets
  config.yml, run.json          what was run: config, command, versions, commit
  train.log, metrics.jsonl      what was printed; losses and scores as JSON lines
  vdl                           curves and images for VisualDL: make board
  checkpoints                   the newest states, for --resume
  best.safetensors, last.safetensors   weights of the best AP, and of the last step"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose train`."""
    add_config(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint, to the same result",
    )
    parser.add_argument(
        "--distill_config",
        metavar="YAML",
        help="config of a trained network to learn from, whose `distill:` says what; "
        "-o teacher.weights=… sets its weights",
    )


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Trains."""
    from ppose.experiment import Experiment
    from ppose.training.setup import train

    train(Experiment.from_file(args.config, args.override, args.distill_config), args.resume)
