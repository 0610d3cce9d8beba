"""Scores an estimator on a data set."""

from __future__ import annotations

from collections.abc import Iterator

import paddle

from ppose.api import chosen_weights, load_chosen
from ppose.data.coco import CocoDataset
from ppose.data.images import ImageError
from ppose.engine.predict import PoseEstimator, Request
from ppose.experiment import Experiment
from ppose.files import write_json
from ppose.metrics.coco import CocoMetric, CocoScores
from ppose.progress import progress
from ppose.structures import Poses


def evaluate(
    estimator: PoseEstimator, dataset: CocoDataset, metric: CocoMetric, *, quiet: bool = False
) -> CocoScores:
    """COCO keypoint scores of an estimator.

    Under `paddle.distributed` each process takes its share of the pictures and every process
    gets the scores of all. The metric keeps the poses, for `metric.save_results`.

    Args:
        estimator: what is scored.
        dataset: pictures, boxes and ground truth.
        metric: is emptied first.
        quiet: no progress bar.

    Raises:
        ImageError: not one picture could be read.
    """
    metric.reset(dataset.category_id)
    rank, world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    requests = list(requests_of(dataset))[rank::world]
    failed: list[ImageError] = []
    found: list[Poses] = []
    bar = progress(total=len(requests), unit="image", label="evaluate", quiet=quiet or rank > 0)
    with bar:
        for poses in estimator.run(requests, failed):
            found.append(poses)
            bar.update(len(found) + len(failed) - bar.n)
    if failed and not found:
        raise failed[0]
    for poses in _gathered(found, world):
        metric.update(poses)
    ground_truth = dataset.ground_truth()
    for error in failed:
        print(f"left out: {error}")
    return metric.compute(ground_truth)


def evaluate_weights(
    experiment: Experiment, scores_file: str | None = None, results_file: str | None = None
) -> CocoScores:
    """Scores the experiment's weights on its `val_dataset` and prints the table.

    Args:
        experiment: see `load_chosen` for which weights it takes.
        scores_file: JSON of the scores, with weights, boxes and config's name.
        results_file: all poses in COCO's results format.
    """
    print(f"val: {experiment.val_dataset.summary()}")
    weights = str(chosen_weights(experiment))
    print(f"weights: {weights}", flush=True)
    estimator = load_chosen(experiment, weights)
    scores = evaluate(estimator, experiment.val_dataset, experiment.metric)
    print(scores.table())
    if scores_file:
        about = {"config": experiment.name, "weights": weights}
        write_json(scores_file, about | scores.to_dict())
    if results_file:
        experiment.metric.save_results(results_file)
    return scores


def requests_of(dataset: CocoDataset) -> Iterator[Request]:
    """One request for each usable picture with boxes."""
    for record, people in dataset.by_image():
        if len(people):
            yield Request(
                image=record.path,
                boxes_xywh=dataset.boxes_xywh[people],
                box_scores=dataset.box_scores[people],
                box_source=dataset.box_source,
                image_id=record.image_id,
                size_wh=record.size_wh,
            )


def _gathered(found: list[Poses], world: int) -> list[Poses]:
    if world == 1:
        return found
    shares: list[list[Poses]] = []
    paddle.distributed.all_gather_object(shares, found)
    return [poses for share in shares for poses in share]
