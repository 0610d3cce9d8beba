"""Multi-person samples: all people of the image, the main person first, and masks."""

import json

import cv2
import numpy as np
import pytest

from ppose.data.coco import CocoDataset
from ppose.data.crops import CentreCrop, ImageFit
from ppose.data.multi_person import CocoMultiPerson
from ppose.data.problems import DataError
from ppose.data.transforms import Warp, apply_transforms
from ppose.structures.skeleton import COCO17


def polygon(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def person(number, x, y, width=60, height=100, joints=17, **changes):
    keypoints = np.zeros((17, 3))
    keypoints[:joints] = [x + width / 2, y + height / 2, 2]
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
        "num_keypoints": joints,
        "keypoints": keypoints.ravel().tolist(),
        "segmentation": polygon(x, y, width, height),
    } | changes


def written(folder, annotations, images=1):
    for i in range(1, images + 1):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((240, 320, 3), 90, np.uint8))
    names = [
        {"id": i, "file_name": f"{i}.png", "width": 320, "height": 240}
        for i in range(1, images + 1)
    ]
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.joint_names)}
    content = {"images": names, "annotations": annotations, "categories": [category]}
    path = folder / "people.json"
    path.write_text(json.dumps(content))
    return {"image_dir": str(folder), "anno_path": str(path), "skeleton": COCO17}


ROW = [person(1, 10, 20), person(2, 100, 20), person(3, 200, 20, joints=3)]


def test_every_sample_has_all_people_with_the_main_person_first(tmp_path):
    dataset = CocoMultiPerson(**written(tmp_path, ROW))
    assert dataset.person_ids.tolist() == [1, 2]
    middles = [sample.keypoints[:, 0, 0].tolist() for sample in (dataset[0], dataset[1])]
    assert middles == [[40, 130, 230], [130, 40, 230]]
    assert "2 from 1 images with 3 people" in dataset.summary()


def test_one_sample_per_image(tmp_path):
    people = [*ROW, person(4, 10, 20, image_id=3)]
    dataset = CocoMultiPerson(**written(tmp_path, people, images=3), per_image=True)
    assert [len(dataset[i].keypoints) for i in range(len(dataset))] == [3, 1]


@pytest.mark.parametrize(
    ("criteria", "main_persons"),
    [
        ({}, [1, 2]),
        ({"min_joints": 1}, [1, 2, 3]),
        ({"min_joints": 18}, None),
        ({"min_area": 6001.0}, None),
        ({"spacing": 0.95}, [1]),
        ({"spacing": 0.95, "min_joints": 1}, [1, 3]),
    ],
)
def test_criteria_of_main_persons(tmp_path, criteria, main_persons):
    files = written(tmp_path, ROW)
    if main_persons is None:
        with pytest.raises(DataError, match="none of 3 labelled people has at least min_joints"):
            CocoMultiPerson(**files, **criteria)
    else:
        assert CocoMultiPerson(**files, **criteria).person_ids.tolist() == main_persons


def test_the_known_mask_excludes_unlabelled_people_and_crowds(tmp_path):
    annotations = [
        person(1, 20, 20),
        person(2, 110, 20, joints=0),
        person(3, 20, 60, width=260, height=60, joints=0, iscrowd=1),
        person(4, 240, 130, joints=4),
    ]
    dataset = CocoMultiPerson(**written(tmp_path, annotations))
    assert len(dataset) == 1
    assert len(dataset[0].keypoints) == 2, "the crowd and the unlabelled person have no joints"
    sample = apply_transforms(dataset[0], [ImageFit((320, 240)), Warp()], np.random.default_rng(0))
    spots = {  # x, y → is there a person, are all joints known
        (50, 40): (True, True),
        (50, 90): (True, True),
        (140, 40): (True, False),
        (140, 90): (True, False),
        (260, 90): (True, False),
        (260, 180): (True, True),
        (10, 10): (False, True),
    }
    for (x, y), expected in spots.items():
        found = sample.people_mask[y, x] > 0, sample.known_mask[y, x] > 0
        assert found == expected, (x, y)


def test_crowds_as_run_lengths(tmp_path):
    counts = [240 * 100, 240 * 20, 240 * 200]
    crowd = person(
        2, 100, 0, 20, 240, joints=0, iscrowd=1, segmentation={"size": [240, 320], "counts": counts}
    )
    dataset = CocoMultiPerson(**written(tmp_path, [person(1, 10, 20), crowd]))
    assert "no usable segmentation" not in dataset.summary()
    sample = apply_transforms(dataset[0], [ImageFit((320, 240)), Warp()], np.random.default_rng(0))
    assert (sample.known_mask[:, 100:120] == 0).all()
    assert (sample.known_mask[:, 121:] == 255).all()


def test_the_box_replaces_a_missing_segmentation(tmp_path):
    annotation = person(1, 10, 20)
    del annotation["segmentation"]
    dataset = CocoMultiPerson(**written(tmp_path, [annotation]))
    assert "no usable segmentation, using the box" in dataset.summary()
    assert len(dataset[0].segmentations[0].polygons) == 1


def test_image_masks_and_joints_are_transformed_together(tmp_path):
    dataset = CocoMultiPerson(**written(tmp_path, ROW))
    sample = apply_transforms(
        dataset[1], [CentreCrop((128, 96), person_height=0.6), Warp()], np.random.default_rng(0)
    )
    assert sample.image.shape[:2] == sample.people_mask.shape == sample.known_mask.shape
    x, y = sample.keypoints[0, 0, :2]
    assert (x, y) == pytest.approx((63.5, 47.5), abs=0.5)
    rows = np.flatnonzero(sample.people_mask[:, 63])
    assert len(rows) == pytest.approx(0.6 * 96, abs=2)


def test_the_ground_truth_equals_that_of_the_single_person_dataset(tmp_path):
    files = written(tmp_path, ROW)
    assert CocoMultiPerson(**files).ground_truth() == CocoDataset(**files).ground_truth()


@pytest.mark.parametrize("wrong", [{"min_joints": -1}, {"min_area": -1.0}, {"spacing": -0.1}])
def test_wrong_arguments(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CocoMultiPerson(**written(tmp_path, ROW), **wrong)
