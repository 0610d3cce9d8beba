"""Scores of 0 name their causes, and scores say what areas they rest on."""

from dataclasses import replace

import numpy as np
import pytest
from metrics.test_coco_metric import dataset, predictions, scored

from ppose.metrics.coco_metric import CocoMetric
from ppose.structures.skeleton import COCO17, Skeleton

TINY = Skeleton("tiny", [replace(joint, sigma=1e-4) for joint in COCO17.joints], [])


def moved(poses, change):
    return [replace(one, keypoints=change(one.keypoints).astype(np.float32)) for one in poses]


def elsewhere(poses):
    return [replace(one, image_id=one.image_id + 3) for one in poses]


def in_one_place(keypoints):
    return keypoints * 0 + [5000, 5000, 0.9]


CAUSES = {
    "no poses were found": lambda poses: [],
    "none of the 3 images with poses has annotated people": elsewhere,
    "all joints of 9 of 9 poses are at one place": lambda p: moved(p, in_one_place),
    "within 2 pixels of 0, 0": lambda p: moved(p, lambda k: k / 900),
    "x and y are exchanged": lambda p: moved(p, lambda k: k[..., [1, 0, 2]]),
    "left and right are exchanged": lambda p: moved(p, lambda k: k[:, COCO17.mirror_index]),
    "all 9 poses score 0": lambda p: [
        replace(one, scores=one.scores * 0, keypoints=one.keypoints + 999) for one in p
    ],
    "do not overlap those of the annotated people": lambda p: [
        replace(one, boxes_xywh=one.boxes_xywh + 5000, keypoints=one.keypoints + 5000) for one in p
    ],
}


@pytest.mark.parametrize(("cause", "change"), CAUSES.items(), ids=CAUSES)
def test_a_score_of_zero_names_its_cause(cause, change):
    truth = dataset(images=3)
    for image in range(3, 6):
        truth["images"].append({"id": image, "width": 900, "height": 300})
    poses = [one for one in predictions(truth) if len(one)]
    scores = scored(truth, change(poses))
    assert scores.are_zero
    assert cause in scores.table()
    assert any(cause in note for note in scores.to_dict()["notes"])


def test_tiny_sigmas_are_named():
    truth = dataset(TINY)
    table = scored(truth, predictions(truth, TINY, jitter=3)).table()
    assert "sigmas of 17 of 17 joints of skeleton 'tiny' are below 0.01 (nose: 0.0001" in table


def test_people_who_do_not_count_are_named():
    truth = dataset()
    poses = predictions(truth)
    for number, person in enumerate(truth["annotations"]):
        person |= {"iscrowd": 1} if number % 2 else {"num_keypoints": 0, "keypoints": [0] * 51}
    assert "of 18 annotations 9 are crowds, and 9 have no labelled joint" in (
        scored(truth, poses).table()
    )


def test_good_scores_have_no_notes():
    truth = dataset()
    for person in truth["annotations"]:
        person["area"] *= 0.5
    assert scored(truth, predictions(truth)).notes == ()


@pytest.mark.parametrize(
    ("area", "note"),
    [
        (lambda a: a, "18 of 18 people are those of the boxes"),
        (lambda a: 9 * a, "are larger than the boxes"),
        (lambda a: a**0.5, "are below 5% of the boxes"),
        (lambda a: 1e11, "which COCO ignores"),
    ],
)
def test_areas_that_are_none(area, note):
    truth = dataset()
    for person in truth["annotations"]:
        person["area"] = area(person["area"])
    assert note in scored(truth, predictions(truth, jitter=3)).table()


def test_estimated_areas_are_counted():
    truth = dataset()
    for person in truth["annotations"][:4]:
        person |= {"area": 0.53 * person["area"], "area_estimated": True}
    scores = scored(truth, predictions(truth))
    assert scores.to_dict()["estimated_areas"] == 4
    assert "areas of 4 of 18 people are not annotated and were estimated as 0.53" in scores.table()


def test_saved_results_keep_categories():
    truth = dataset(images=2)
    truth["categories"].append(truth["categories"][0] | {"id": 7, "name": "ape"})
    truth["annotations"][0]["category_id"] = 7
    metric = CocoMetric()
    metric.reset([1, 7])
    for number, one in enumerate(predictions(truth)):
        categories = np.array([7, 1, 1]) if number == 0 else None
        metric.update(replace(one, category_ids=categories))
    assert metric.compute(truth).ap == 1
    assert [r["category_id"] for r in metric.results()] == [7, 1, 1, 1, 1, 1]
