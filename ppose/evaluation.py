"""Evaluation of an estimator on a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import paddle

from ppose.data.coco import CocoDataset
from ppose.data.images import ImageError
from ppose.data.problems import DataError
from ppose.inference.pose_model import PoseModel
from ppose.inference.request import Request
from ppose.metrics.coco_metric import CocoMetric, CocoScores
from ppose.structures import Poses
from ppose.utils import distributed
from ppose.utils.log import log
from ppose.utils.progress import progress

_FEWEST_CELLS = 16  # on a side of the heat maps; published networks have 24 or more


def evaluate(
    estimator: PoseModel, dataset: CocoDataset, metric: CocoMetric, *, quiet: bool = False
) -> CocoScores:
    """COCO keypoint scores of an estimator.

    Under `paddle.distributed.launch`, each process evaluates a share of the images, and all
    processes return the scores over all images, equal to those of a single process. The metric
    keeps the poses, for `metric.save_results`.

    Args:
        estimator: the model to evaluate.
        dataset: images, boxes and ground truth.
        metric: reset before use.
        quiet: no progress bar.

    Raises:
        DataError: none of the images could be read.
    """
    metric.reset(tuple(dataset.categories))
    rank, devices = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
    all_requests = list(build_requests(dataset, estimator.uses_boxes))
    requests = all_requests[rank::devices]
    failed: list[ImageError] = []
    found: list[Poses] = []
    bar = progress(total=len(requests), unit="image", label="evaluate", quiet=quiet or rank > 0)
    with bar:
        for poses in estimator.run(requests, failed):
            found.append(poses)
            bar.update(len(found) + len(failed) - bar.n)
    for error in distributed.all_gather([str(error) for error in failed]):
        if rank == 0:
            log.info(f"left out: {error}")
    order = {request.image_id: i for i, request in enumerate(all_requests)}
    found = sorted(distributed.all_gather(found), key=lambda poses: order[poses.image_id])
    if all_requests and not found:
        raise DataError("none of the images of val_dataset could be read")
    for poses in found:
        metric.update(poses)
    unread = {r.image_id for r in all_requests} - {poses.image_id for poses in found}
    scores = metric.compute(_exclude_images(dataset.ground_truth(), unread))
    if scores.are_zero:
        scores = replace(scores, notes=(*scores.notes, *_input_notes(estimator)))
    return replace(scores, left_out=len(unread))


def _input_notes(estimator: PoseModel) -> list[str]:
    """Whether the input of a top-down network may be the cause of scores of 0."""
    size_wh = getattr(estimator.crop, "size_wh", None)
    stride = estimator.codec.stride
    if size_wh is None or min(size_wh) // stride >= _FEWEST_CELLS:
        return []
    width, height = size_wh
    return [
        f"the input is {width}x{height}, so the heat maps have {width // stride}x"
        f"{height // stride} cells; networks for people have 24x32 or more (input_size)"
    ]


def build_requests(dataset: CocoDataset, with_boxes: bool = True) -> Iterator[Request]:
    """One request per usable image; with boxes, only for images that have any."""
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
                category_ids=dataset.category_ids[people],
            )


def _exclude_images(ground_truth: dict[str, Any], image_ids: set[int | None]) -> dict[str, Any]:
    """The ground truth without images that could not be read, which are not evaluated."""
    return ground_truth | {
        "images": [i for i in ground_truth["images"] if i["id"] not in image_ids],
        "annotations": [a for a in ground_truth["annotations"] if a["image_id"] not in image_ids],
    }
