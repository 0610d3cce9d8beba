"""Quantizes trained weights to int8 without training, and says what that costs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import parser, run

EXAMPLES = """\
  python tools/quantize.py -c configs/tinypose_256x192.yml -o weights=PATH_OR_URL
  python tools/quantize.py -c configs/lite_hrnet_30_256x192_coco_pact.yml -o weights=PATH_OR_URL \\
      quantize.calibration=max --sensitivity
  python tools/eval.py -c configs/tinypose_256x192.yml -o quantize={} \\
      weights=output/tinypose_256x192/ptq.safetensors

Scales come from batches of train_dataset; quantize of the config says how. The run's folder gets
ptq.safetensors and ptq.json. Where that loses too much, train it: see configs/*_pact.yml."""


def main() -> None:
    arguments = parser(__doc__, EXAMPLES)
    arguments.add_argument(
        "--sensitivity",
        action="store_true",
        help="score the network with each block alone quantized, and propose what to exclude",
    )
    arguments.add_argument(
        "--depth",
        type=int,
        default=3,
        help="parts of a layer's name that make a block; default 3, e.g. backbone.stage0.0",
    )
    arguments.add_argument(
        "--allowed",
        type=float,
        default=0.05,
        help="squared error of the maps that the proposal may make, as a share; default 0.05",
    )
    args = arguments.parse_args()
    if args.depth < 1:
        arguments.error("--depth starts at 1")

    from ppose.experiment import Experiment
    from ppose.slim.post_training import measure_quantization

    experiment = Experiment.from_file(args.config, args.override)
    blocks = args.depth if args.sensitivity else None
    measure_quantization(experiment, by_block=blocks, allowed=args.allowed)


if __name__ == "__main__":
    run(main)
