"""COCO metric: pycocotools, values computed by hand, and errors."""

import contextlib
import copy
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppose.metrics.coco_metric import CocoMetric, MetricError
from ppose.structures import Poses
from ppose.structures.skeleton import COCO17, Joint, Skeleton

FIVE = Skeleton("five", [Joint(n, 0.1) for n in ("head", "hip", "knee", "foot", "tail")], [])
NAMES = ["AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL"]


def annotation(number, image_id, keypoints, area=None, **rest):
    x, y = keypoints[:, 0], keypoints[:, 1]
    width, height = float(np.ptp(x)), float(np.ptp(y))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
        "area": area or width * height,
        "bbox": [float(x.min()), float(y.min()), width, height],
        "iscrowd": 0,
    } | rest


def dataset(skeleton=COCO17, images=6, people=3, seed=0):
    """Ground truth with medium and large people; ids start at 0."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image_id in range(images):
        for person in range(people):
            size = rng.choice([60, 200])
            keypoints = np.zeros((len(skeleton), 3))
            keypoints[:, :2] = rng.uniform(0, size, (len(skeleton), 2)).round(2)
            keypoints[:, 0] += 300 * person
            keypoints[:, 2] = rng.integers(1, 3, len(skeleton))
            annotations.append(annotation(len(annotations), image_id, keypoints))
    names = list(skeleton.joint_names)
    return {
        "images": [{"id": i, "width": 900, "height": 300} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}],
    }


def predictions(truth, skeleton=COCO17, jitter=0.0, seed=1, source="ground truth"):
    rng = np.random.default_rng(seed)
    found = []
    for image in truth["images"]:
        people = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        keypoints = np.array([a["keypoints"] for a in people], np.float32)
        keypoints = keypoints.reshape(len(people), len(skeleton), 3)
        keypoints[..., :2] += jitter * rng.normal(size=(len(people), len(skeleton), 2))
        keypoints[..., 2] = 0.9
        found.append(
            Poses(
                keypoints=keypoints.round(2),
                scores=rng.uniform(0.1, 1, len(people)).astype(np.float32),
                boxes_xywh=np.array([a["bbox"] for a in people], np.float32).reshape(-1, 4),
                box_source=source,
                skeleton=skeleton,
                image_id=image["id"],
            )
        )
    return found


def scored(truth, poses):
    metric = CocoMetric()
    for one in poses:
        metric.update(one)
    return metric.compute(truth)


def official(truth, results, sigmas):
    """Scores of a direct call of pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth) | {"info": {}}
        for a in coco.dataset["annotations"]:
            a["id"] += 1
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("skeleton", [COCO17, FIVE], ids=lambda s: s.name)
def test_perfect_poses_score_one(skeleton):
    truth = dataset(skeleton)
    scores = scored(truth, predictions(truth, skeleton))
    assert scores.numbers() == dict.fromkeys(NAMES, 1.0)
    assert (scores.images, scores.people, scores.detections) == (6, 18, 18)


@pytest.mark.parametrize("skeleton", [COCO17, FIVE], ids=lambda s: s.name)
def test_equals_pycocotools(skeleton):
    truth = dataset(skeleton, images=10)
    poses = predictions(truth, skeleton, jitter=8)
    results = [
        {
            "image_id": one.image_id,
            "category_id": 1,
            "keypoints": [round(float(v), 2) for v in person.keypoints.ravel()],
            "score": float(person.scores[0]),
        }
        for one in poses
        for person in one
    ]
    expected = official(truth, results, skeleton.sigmas)
    assert 0.1 < expected[0] < 0.9
    assert list(scored(truth, poses).numbers().values()) == pytest.approx(expected, abs=1e-12)


def test_jitter_lowers_ap():
    truth = dataset(images=20)
    found = [scored(truth, predictions(truth, jitter=j)).ap for j in (0, 2, 5, 10, 20)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1 and found[-1] < 0.2


def test_ap_computed_by_hand():
    """One person with an OKS of 0.72 passes 5 of the 10 thresholds."""
    keypoints = np.full((5, 3), 2.0)
    keypoints[:, 1] = [10, 30, 50, 70, 90]
    area = 120.0**2
    truth = dataset(FIVE, images=1, people=0)
    truth["annotations"] = [annotation(1, 0, keypoints, area)]
    shift = math.sqrt(-math.log(0.72) * 2 * area * 0.2**2)
    moved = keypoints + [shift, 0, 0]
    poses = replace(predictions(truth, FIVE)[0], keypoints=moved[None].astype(np.float32))
    scores = scored(truth, [poses])
    assert scores.ap == pytest.approx(0.5)
    assert (scores.ap50, scores.ap75, scores.ar) == pytest.approx((1, 0, 0.5))
    assert math.isnan(scores.apm) and scores.apl == pytest.approx(0.5)


def test_an_image_that_was_not_added_has_no_detections():
    truth = dataset(images=4)
    assert scored(truth, predictions(truth)[:3]).ar == pytest.approx(0.75)


def test_false_positives_in_an_image_without_people_lower_precision():
    truth = dataset(images=4)
    poses = predictions(truth)
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] != 0]
    scores = scored(truth, poses)
    assert scores.ar == 1 and scores.ap < 1
    assert scores.people == 9


def test_crowds_and_people_without_joints_do_not_count():
    truth = dataset(images=2)
    crowd, unlabelled = truth["annotations"][0], truth["annotations"][1]
    crowd["iscrowd"] = 1
    unlabelled.update(keypoints=[0] * 51, num_keypoints=0)
    scores = scored(truth, predictions(truth)[1:])
    assert scores.people == 4
    assert scores.ar == pytest.approx(3 / 4)


@pytest.mark.parametrize("poses", [[], [Poses.empty(COCO17, image_id=2)]], ids=["no", "empty"])
def test_no_detections_score_zero(poses):
    scores = scored(dataset(), poses)
    assert set(scores.numbers().values()) == {0.0}
    assert scores.detections == 0


def test_no_annotated_people_give_nan():
    truth = dataset(people=0)
    found = predictions(dataset())
    scores = scored(truth, found)
    assert all(math.isnan(v) for v in scores.numbers().values())
    assert "n/a" in scores.table() and "no people are annotated" in scores.table()
    assert scores.to_dict()["AP"] is None
    json.dumps(scores.to_dict(), allow_nan=False)


def test_ground_truth_and_stdout_are_not_changed(capsys):
    truth = dataset()
    before = copy.deepcopy(truth)
    scored(truth, predictions(truth))
    assert truth == before
    assert capsys.readouterr().out == ""


def test_table_and_dict_have_scores_and_boxes():
    truth = dataset()
    for person in truth["annotations"]:
        person["area"] *= 0.5
    scores = scored(truth, predictions(truth, jitter=6, source="detector.json"))
    head, values, about = scores.table().splitlines()
    assert head.split() == NAMES
    assert values.split()[0] == f"{100 * scores.ap:.1f}"
    assert about == "boxes: detector.json; 6 images, 18 people annotated, 18 poses"
    assert scores.to_dict() == scores.numbers() | {
        "images": 6,
        "people": 18,
        "detections": 18,
        "box_source": "detector.json",
        "left_out": 0,
        "estimated_areas": 0,
        "notes": (),
    }


def test_saved_results_have_the_same_scores(tmp_path):
    truth = dataset()
    metric = CocoMetric()
    for one in predictions(truth, jitter=6.123456):
        metric.update(replace(one, keypoints=one.keypoints + np.float32(0.123456)))
    path = tmp_path / "new" / "results.json"
    metric.save_results(path)
    saved = json.loads(path.read_text())
    assert saved[0].keys() == {"image_id", "category_id", "keypoints", "score"}
    assert len(saved) == 18 and {len(r["keypoints"]) for r in saved} == {51}
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    assert list(metric.compute(truth).numbers().values()) == list(
        official(truth, saved, COCO17.sigmas)
    )


def test_reset_removes_all_poses():
    truth = dataset()
    metric = CocoMetric()
    for source in ("a.json", "b.json"):
        metric.reset()
        for one in predictions(truth, source=source):
            metric.update(one)
        assert metric.compute(truth).box_source == source
    metric.reset()
    assert metric.results() == []


def test_people_of_another_category():
    truth = dataset()
    poses = predictions(truth)
    truth["categories"].append({"id": 5, "name": "horse"})
    truth["annotations"].append(truth["annotations"][0] | {"id": 99, "category_id": 5})
    truth["annotations"][-1]["keypoints"] = [0, 0, 0]
    assert scored(truth, poses).ap == 1
    metric = CocoMetric()
    metric.reset([3])
    with pytest.raises(MetricError, match=r"no category 3; they have 1 \(person\), 5 \(horse\)"):
        metric.compute(truth)


def changed(poses, **fields):
    return [poses[0], replace(poses[1], **fields)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"box_source": "b.json"},
            "image 1: boxes from 'b.json', but earlier boxes from 'ground truth'",
        ),
        ({"image_id": 0}, "image 0: poses were added before"),
        ({"image_id": None}, "no image_id"),
        ({"image_id": 12345}, "lack 1 of 2 images with poses, e.g. image_id 12345"),
        ({"scores": np.full(3, np.nan, np.float32)}, "image 1: .* NaN"),
        ({"keypoints": np.full((3, 17, 3), np.inf, np.float32)}, "image 1: .* infinity"),
        (
            {"skeleton": FIVE, "keypoints": np.zeros((3, 5, 3), np.float32)},
            r"poses with Skeleton\('five'.* earlier poses with Skeleton\('coco17'",
        ),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_invalid_poses_are_errors(fields, message):
    truth = dataset()
    with pytest.raises(MetricError, match=message):
        scored(truth, changed(predictions(truth), **fields))


def test_empty_poses_may_have_another_box_source():
    truth = dataset()
    poses = [
        *predictions(truth, source="a.json")[:2],
        Poses.empty(COCO17, image_id=2, box_source="b"),
    ]
    assert scored(truth, poses).box_source == "a.json"


def test_annotations_of_another_skeleton_are_an_error():
    truth = dataset(FIVE)
    with pytest.raises(MetricError, match="'coco17' has 17 joints, but annotation 0 has 5"):
        scored(truth, predictions(dataset(COCO17)))


def test_joints_in_a_different_order_are_an_error():
    truth = dataset(FIVE)
    truth["categories"][0]["keypoints"].reverse()
    with pytest.raises(MetricError, match=r"different order; annotated: tail, foot"):
        scored(truth, predictions(truth, FIVE))
