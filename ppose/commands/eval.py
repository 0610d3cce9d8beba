"""Scores weights or an exported network on a config's val_dataset: COCO keypoint AP and AR."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppose.commands import arguments
from ppose.utils.files import check_writable, file_hash, write_json

if TYPE_CHECKING:
    from ppose.experiment import Experiment
    from ppose.inference.estimator import PoseEstimator
    from ppose.inference.pose_model import PoseModel
    from ppose.metrics.coco_metric import CocoScores

EXAMPLES = """\
  ppose eval -c quickstart
  ppose eval -c hrnet_w32_256x192 -o weights=PATH_OR_URL --json scores.json
  ppose eval -c tinypose_256x192 -o weights=tinypose.pdparams \\
      val_dataset.bbox_file=boxes.json val_dataset.min_box_score=0.5 flip_test=true
  ppose eval -c tinypose_256x192 -o weights=tinypose.pdparams --det_model_dir=picodet

  ppose eval -c tinypose_256x192 --backend onnxruntime \\
      --model_dir=output/inference/tinypose_256x192 --det_model_dir=picodet

Weights: the config's `weights`, else the best of the run in its output_dir. With --model_dir
an exported network is scored in their place, as it is deployed: its crop, decoder and flip test are
those of the bundle, and only the val_dataset is the config's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `ppose eval`."""
    arguments.add_config(parser)
    parser.add_argument("--json", metavar="FILE", help="write the scores here")
    parser.add_argument(
        "--results", metavar="FILE", help="write all poses here, in COCO's results format"
    )
    arguments.add_detector(parser, without="the boxes are those of the data")
    exported = parser.add_argument_group("exported networks")
    exported.add_argument("--model_dir", help="folder that `ppose export` wrote")
    arguments.add_machine(exported)


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Scores."""
    if args.model_dir is None:
        arguments.check_without_bundle(parser, args)
    arguments.refuse_empty(parser, args, "model_dir")
    chosen = arguments.chosen(parser, args)

    from ppose.experiment import Experiment

    experiment = Experiment.from_file(args.config, args.override)
    if args.det_model_dir and experiment.config["val_dataset"].get("bbox_file"):
        parser.error("give --det_model_dir or val_dataset.bbox_file, not both")
    detector = {name: chosen[name] for name in ("det_model_dir", "det_threshold")}
    if args.det_model_dir is None:
        detector["det_threshold"] = None
    if args.model_dir is None:
        evaluate_weights(
            experiment, args.json, args.results, arguments.detector_of(parser, args), detector
        )
        return

    from ppose.deploy.pipeline import load_pipeline

    about = {"model_dir": args.model_dir, **chosen, **detector}
    del about["threads"]
    evaluate_pipeline(
        experiment,
        lambda: load_pipeline(args.model_dir, **arguments.for_pipeline(chosen)),
        about,
        scores_file=args.json,
        results_file=args.results,
    )


def evaluate_weights(
    experiment: Experiment,
    scores_file: str | None = None,
    results_file: str | None = None,
    add_detector: Callable[[PoseEstimator], PoseModel] = lambda estimator: estimator,
    detector: dict[str, Any] | None = None,
) -> CocoScores:
    """Scores the experiment's weights on its `val_dataset` and prints the table.

    Of several processes the first one prints and writes.

    Args:
        experiment: see `Experiment.chosen_weights` for which weights it takes.
        scores_file: JSON of the scores and of what decides them: weights, boxes, flip test.
        results_file: all poses in COCO's results format.
        add_detector: puts a detector before the estimator, if there is one.
        detector: what it is, for the scores' file.
    """
    is_main = _started(experiment, scores_file, results_file)
    weights = experiment.chosen_weights()
    if is_main:
        print(f"weights: {weights}", flush=True)
        best = experiment.best_weights
        if best.is_file() and best != Path(weights):
            print(f"(this config's own run is in {best}: -o weights={best})")
    about = {
        "weights": str(weights),
        "weights_sha256": file_hash(Path(weights)) if Path(weights).is_file() else None,
        "flip_test": experiment.flip_test,
        "crop": experiment.config["crop"],
        **(detector or {}),
    }
    scored = add_detector(experiment.loaded_estimator(weights))
    return _scored(experiment, scored, about, scores_file, results_file)


def evaluate_pipeline(
    experiment: Experiment,
    make_finder: Callable[[], PoseModel],
    about: dict[str, Any],
    scores_file: str | None = None,
    results_file: str | None = None,
) -> CocoScores:
    """Scores an exported network on the `val_dataset` of an experiment; see `evaluate_weights`.

    Args:
        make_finder: makes what is scored, after a look at where to write.
        about: what decides the scores, for the scores' file.
    """
    _started(experiment, scores_file, results_file)
    return _scored(experiment, make_finder(), about, scores_file, results_file)


def _started(experiment: Experiment, *files: str | None) -> bool:
    """Whether this is the process that prints and writes."""
    import paddle

    from ppose.utils import distributed

    distributed.init()
    if paddle.distributed.get_rank():
        return False
    for target in filter(None, files):
        check_writable(target)
    print(f"val: {experiment.val_dataset.summary()}")
    return True


def _scored(
    experiment: Experiment,
    scored: PoseModel,
    about: dict[str, Any],
    scores_file: str | None,
    results_file: str | None,
) -> CocoScores:
    import paddle

    from ppose.data.coco_json import is_drawn
    from ppose.evaluation import evaluate
    from ppose.utils.log import log

    if scored.caution and not is_drawn(experiment.config["val_dataset"]["anno_path"]):
        log.info(scored.caution)
    scores = evaluate(scored, experiment.val_dataset, experiment.metric)
    if paddle.distributed.get_rank():
        return scores
    print(scores.table())
    with ExitStack() as stack:  # each is written, also where there is no room for the other
        if results_file:
            stack.callback(experiment.metric.save_results, results_file)
        if scores_file:
            own = {
                "config": experiment.name,
                "min_box_score": experiment.val_dataset.min_box_score,
            }
            stack.callback(write_json, scores_file, own | about | scores.to_dict())
    return scores
