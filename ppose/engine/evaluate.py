"""Scores an estimator on a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import paddle

from ppose.api import best_of_run, chosen_weights, load_chosen
from ppose.data.coco import CocoDataset
from ppose.data.images import ImageError
from ppose.data.problems import DataError
from ppose.deploy.bundle import file_hash
from ppose.engine import parallel
from ppose.estimator import Request
from ppose.experiment import Experiment
from ppose.files import check_writable, write_json
from ppose.log import log
from ppose.metrics.coco import CocoMetric, CocoScores
from ppose.progress import progress
from ppose.structures import Poses


class Scored(Protocol):
    """What can be scored: a `PoseEstimator`, or one with a detector.

    Attributes:
        uses_boxes: whether pictures come with the boxes of people.
    """

    @property
    def uses_boxes(self) -> bool: ...

    def run(
        self, requests: Iterable[Request], failed: list[ImageError] | None = None
    ) -> Iterator[Poses]:
        """See `PoseEstimator.run`."""


def evaluate(
    estimator: Scored, dataset: CocoDataset, metric: CocoMetric, *, quiet: bool = False
) -> CocoScores:
    """COCO keypoint scores of an estimator.

    Under `paddle.distributed.launch` each process takes its share of the pictures and every
    process gets the scores of all, which are those that one process finds. The metric keeps the
    poses, for `metric.save_results`.

    Args:
        estimator: what is scored.
        dataset: pictures, boxes and ground truth.
        metric: is emptied first.
        quiet: no progress bar.

    Raises:
        DataError: not one picture could be read.
    """
    metric.reset(dataset.category_id)
    rank, devices = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    everything = list(requests_of(dataset, estimator.uses_boxes))
    requests = everything[rank::devices]
    failed: list[ImageError] = []
    found: list[Poses] = []
    bar = progress(total=len(requests), unit="image", label="evaluate", quiet=quiet or rank > 0)
    with bar:
        for poses in estimator.run(requests, failed):
            found.append(poses)
            bar.update(len(found) + len(failed) - bar.n)
    for error in parallel.gathered([str(error) for error in failed]):
        if rank == 0:
            log.info(f"left out: {error}")
    places = {request.image_id: i for i, request in enumerate(everything)}
    found = sorted(parallel.gathered(found), key=lambda poses: places[poses.image_id])
    if everything and not found:
        raise DataError("not one picture of val_dataset could be read")
    for poses in found:
        metric.update(poses)
    unread = {r.image_id for r in everything} - {poses.image_id for poses in found}
    scores = metric.compute(_without(dataset.ground_truth(), unread))
    return replace(scores, left_out=len(unread))


def evaluate_weights(
    experiment: Experiment, scores_file: str | None = None, results_file: str | None = None
) -> CocoScores:
    """Scores the experiment's weights on its `val_dataset` and prints the table.

    Of several processes the first one prints and writes.

    Args:
        experiment: see `load_chosen` for which weights it takes.
        scores_file: JSON of the scores and of what decides them: weights, boxes, flip test.
        results_file: all poses in COCO's results format.
    """
    is_main = _started(experiment, scores_file, results_file)
    weights = chosen_weights(experiment)
    if is_main:
        print(f"weights: {weights}", flush=True)
        best = best_of_run(experiment)
        if best.is_file() and best != Path(weights):
            print(f"(this config's own run is in {best}: -o weights={best})")
    about = {
        "weights": str(weights),
        "weights_sha256": file_hash(Path(weights)) if Path(weights).is_file() else None,
        "flip_test": experiment.flip_test,
        "crop": experiment.config["crop"],
    }
    return _scored(experiment, load_chosen(experiment, weights), about, scores_file, results_file)


def evaluate_finder(
    experiment: Experiment,
    make_finder: Callable[[], Scored],
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
    parallel.start()
    if paddle.distributed.get_rank():
        return False
    for target in filter(None, files):
        check_writable(target)
    print(f"val: {experiment.val_dataset.summary()}")
    return True


def _scored(
    experiment: Experiment,
    scored: Scored,
    about: dict[str, Any],
    scores_file: str | None,
    results_file: str | None,
) -> CocoScores:
    scores = evaluate(scored, experiment.val_dataset, experiment.metric)
    if paddle.distributed.get_rank():
        return scores
    print(scores.table())
    if scores_file:
        own = {
            "config": experiment.name,
            "min_box_score": experiment.val_dataset.min_box_score,
        }
        write_json(scores_file, own | about | scores.to_dict())
    if results_file:
        experiment.metric.save_results(results_file)
    return scores


def requests_of(dataset: CocoDataset, with_boxes: bool = True) -> Iterator[Request]:
    """One request for each usable picture: with boxes for those that have any, or for all."""
    for record, people in dataset.by_image():
        if not with_boxes:
            yield Request(image=record.path, image_id=record.image_id, size_wh=record.size_wh)
        elif len(people):
            yield Request(
                image=record.path,
                boxes_xywh=dataset.boxes_xywh[people],
                box_scores=dataset.box_scores[people],
                box_source=dataset.box_source,
                image_id=record.image_id,
                size_wh=record.size_wh,
            )


def _without(ground_truth: dict[str, Any], image_ids: set[int | None]) -> dict[str, Any]:
    """Pictures that could not be read count neither as misses nor as hits."""
    return ground_truth | {
        "images": [i for i in ground_truth["images"] if i["id"] not in image_ids],
        "annotations": [a for a in ground_truth["annotations"] if a["image_id"] not in image_ids],
    }
