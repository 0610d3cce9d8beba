"""Scores weights on the val_dataset of a config: COCO keypoint AP and AR."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import parser, run

EXAMPLES = """\
  python tools/eval.py -c configs/quickstart.yml
  python tools/eval.py -c configs/hrnet_w32_256x192.yml -o weights=PATH_OR_URL --json scores.json
  python tools/eval.py -c configs/tinypose_256x192.yml -o weights=tinypose.pdparams \\
      val_dataset.bbox_file=boxes.json val_dataset.min_box_score=0.5 flip_test=true

Weights: the config's `weights`, else the best of the run in its output_dir."""


def main() -> None:
    arguments = parser(__doc__, EXAMPLES)
    arguments.add_argument("--json", metavar="FILE", help="write the scores here")
    arguments.add_argument(
        "--results", metavar="FILE", help="write all poses here, in COCO's results format"
    )
    args = arguments.parse_args()

    from ppose.engine.evaluate import evaluate_weights
    from ppose.experiment import Experiment

    experiment = Experiment.from_file(args.config, args.override)
    evaluate_weights(experiment, scores_file=args.json, results_file=args.results)


if __name__ == "__main__":
    run(main)
