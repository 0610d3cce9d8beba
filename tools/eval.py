"""Scores weights or an exported network on a config's val_dataset: COCO keypoint AP and AR."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppose.cli import parser, run

EXAMPLES = """\
  python tools/eval.py -c configs/quickstart.yml
  python tools/eval.py -c configs/hrnet_w32_256x192.yml -o weights=PATH_OR_URL --json scores.json
  python tools/eval.py -c configs/tinypose_256x192.yml -o weights=tinypose.pdparams \\
      val_dataset.bbox_file=boxes.json val_dataset.min_box_score=0.5 flip_test=true

  python tools/eval.py -c configs/tinypose_256x192.yml --backend onnxruntime \\
      --model_dir=output/inference/tinypose_256x192 --det_model_dir=picodet

Weights: the config's `weights`, else the best of the run in its output_dir. With --model_dir
an exported network is scored in their place, as it is deployed: its crop, decoder and flip test are
those of the bundle, and only the val_dataset is the config's."""


def main() -> None:
    from ppose.deploy import options

    arguments = parser(__doc__, EXAMPLES)
    arguments.add_argument("--json", metavar="FILE", help="write the scores here")
    arguments.add_argument(
        "--results", metavar="FILE", help="write all poses here, in COCO's results format"
    )
    exported = arguments.add_argument_group("exported networks")
    exported.add_argument("--model_dir", help="folder that tools/export.py wrote")
    options.add_detector(exported, without="the boxes are those of the data")
    options.add_machine(exported)
    args = arguments.parse_args()
    if args.model_dir is None and (useless := options.given(args)):
        arguments.error(f"{', '.join(useless)}: only with --model_dir")
    if args.model_dir == "":
        arguments.error("--model_dir is empty")
    chosen = options.chosen(arguments, args)

    from ppose.engine.evaluate import evaluate_finder, evaluate_weights
    from ppose.experiment import Experiment

    experiment = Experiment.from_file(args.config, args.override)
    if args.model_dir is None:
        evaluate_weights(experiment, scores_file=args.json, results_file=args.results)
        return

    from ppose.deploy.finder import PoseFinder, load_finder

    def finder() -> PoseFinder:
        return load_finder(args.model_dir, **options.for_finder(chosen))

    about = {"model_dir": args.model_dir, **chosen}
    del about["threads"]
    if args.det_model_dir is None:
        about["det_threshold"] = None
    evaluate_finder(experiment, finder, about, scores_file=args.json, results_file=args.results)


if __name__ == "__main__":
    run(main)
