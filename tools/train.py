"""Trains the network of a config."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import parser, run

EXAMPLES = """\
  python tools/train.py -c configs/quickstart.yml
  python tools/train.py -c configs/hrnet_w32_256x192.yml --resume
  python tools/train.py -c configs/lite_hrnet_30_256x192_coco.yml \
      --distill_config=configs/hrnet_w32_256x192_teacher.yml
  python tools/train.py -c configs/lite_hrnet_30_256x192_coco_pact.yml
  python tools/train.py -c configs/tinypose_256x192.yml -o pretrain_weights=tinypose.pdparams \\
      epochs=5 optimizer.lr=1e-4
  python -m paddle.distributed.launch --gpus 0,1 tools/train.py -c configs/hrnet_w32_256x192.yml

The run's folder (output_dir) gets
  config.yml, run.json          what was run: config, command, versions, commit
  train.log, metrics.jsonl      what was printed; losses and scores as JSON lines
  vdl                           curves and pictures: make board
  checkpoints                   the newest states, for --resume
  best.safetensors, last.safetensors   weights of the best AP, and of the last step"""


def main() -> None:
    arguments = parser(__doc__, EXAMPLES)
    arguments.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint, to the same result"
    )
    arguments.add_argument(
        "--distill_config",
        metavar="YAML",
        help="config of a trained network to learn from, whose `distill:` says what; "
        "-o teacher.weights=… sets its weights",
    )
    args = arguments.parse_args()

    from ppose.engine.trainer import train
    from ppose.experiment import Experiment

    experiment = Experiment.from_file(args.config, args.override, args.distill_config)
    train(experiment, resume=args.resume)


if __name__ == "__main__":
    run(main)
