"""A valid COCO file is read unchanged; an invalid one loses only the invalid entries."""

import contextlib
import copy
import io
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppose.config import ConfigError, build
from ppose.data.coco import CocoDataset, DataError
from ppose.data.images import ImageError
from ppose.data.problems import Problems
from ppose.structures.skeleton import COCO17, Joint, Skeleton

FIVE = Skeleton("five", [Joint(name, 0.05) for name in ("head", "hand", "hip", "knee", "foot")], [])
SIZE = (64, 48)
IMAGES = (139, 285, 632)  # the last one has no people
LABELS = [10, 11, 2, 20, 21, 1, 0, 0, 0, 30, 31, 2, 40, 41, 2]


def person(annotation_id, image_id, **changes):
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [4.0, 5.0, 41.0, 31.0],
        "area": 700.0,
        "iscrowd": 0,
        "num_keypoints": 4,
        "keypoints": list(LABELS),
        "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
    } | changes


def whole_file():
    """Three usable people in two of three images; a crowd and an unlabelled person."""
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i:012d}.png", "width": SIZE[0], "height": SIZE[1]}
            for i in IMAGES
        ],
        "annotations": [
            person(1, 285),
            person(2, 139, keypoints=[v + 1 if v > 2 else v for v in LABELS]),
            person(3, 285, bbox=[0.0, 0.0, 20.0, 20.0]),
            person(4, 139, iscrowd=1, segmentation={"size": [48, 64], "counts": [1, 2, 3]}),
            person(5, 285, keypoints=[0] * 15, num_keypoints=0),
        ],
        "categories": [
            {"id": 1, "name": "person", "keypoints": list(FIVE.joint_names), "skeleton": [[1, 2]]},
            {"id": 18, "name": "dog"},
        ],
    }


USED = {1, 2, 3}


@pytest.fixture
def folder(tmp_path):
    return filled(tmp_path)


def filled(folder):
    (folder / "images").mkdir(exist_ok=True)
    for i in IMAGES:
        image = np.full((SIZE[1], SIZE[0], 3), i % 256, np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i:012d}.png"), image)
    return folder


def load(folder, data=None, boxes=None, skeleton=FIVE, min_box_score=0.0, categories=None):
    path = folder / "keypoints.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data or whole_file()))
    bbox_file = None
    if boxes is not None:
        bbox_file = folder / "detections.json"
        bbox_file.write_text(json.dumps(boxes))
        bbox_file = str(bbox_file)
    return CocoDataset(
        str(folder / "images"), str(path), skeleton, bbox_file, min_box_score, categories
    )


def test_people_are_sorted_by_image(folder):
    dataset = load(folder)
    assert [record.image_id for record in dataset.images] == list(IMAGES)
    assert dataset.person_ids.tolist() == [2, 1, 3]
    assert dataset.image_index.tolist() == [0, 1, 1]
    assert dataset.keypoints[1].ravel().tolist() == LABELS
    assert dataset.areas.tolist() == [700, 700, 700]
    assert dataset.box_scores.tolist() == [1, 1, 1]
    assert dataset.box_source == "ground truth"
    assert not len(dataset.problems)
    assert dataset.summary() == "people: 3 on 2 of 3 images"
    kinds = {k: getattr(dataset, k).dtype for k in ("image_index", "boxes_xywh", "box_scores")}
    assert kinds == {"image_index": np.int32, "boxes_xywh": np.float32, "box_scores": np.float32}
    assert (dataset.keypoints.dtype, dataset.person_ids.dtype) == (np.float32, np.int64)


def test_a_sample_is_one_person_with_the_image(folder):
    dataset = load(folder)
    sample = dataset[1]
    assert sample.image.shape == (48, 64, 3)
    assert (sample.image == 285 % 256).all()
    assert sample.keypoints.shape == (1, 5, 3)
    assert sample.keypoints.ravel().tolist() == LABELS
    assert sample.meta["image_id"] == 285
    assert sample.meta["person_id"] == 1
    assert sample.meta["path"] == folder / "images" / "000000000285.png"
    assert sample.meta["box_score"] == 1.0
    sample.keypoints[:] = -1
    sample.box_xywh[:] = -1
    assert dataset.keypoints.min() >= 0
    assert dataset.boxes_xywh.min() >= 0


def test_by_image_yields_every_image_once(folder):
    found = {record.image_id: people.tolist() for record, people in load(folder).by_image()}
    assert found == {139: [0], 285: [1, 2], 632: []}


@pytest.mark.parametrize(
    ("annotated", "clipped"),
    [
        ([4, 5, 41, 31], [4, 5, 40, 30]),
        ([-10, -4, 30, 20], [0, 0, 29, 19]),
        ([50.5, 40, 100, 100], [50.5, 40, 12.5, 7]),
        ([60, 40, 2, 2], [60, 40, 1, 1]),
    ],
)
def test_boxes_are_clipped_to_the_image_as_published(folder, annotated, clipped):
    data = whole_file()
    data["annotations"] = [person(1, 139, bbox=annotated)]
    np.testing.assert_allclose(load(folder, data).boxes_xywh, [clipped])


def test_the_ground_truth_equals_the_file(folder):
    data = whole_file()
    data["annotations"][0]["bbox"] = [-3.0, 5.0, 500.0, 31.0]
    data["annotations"].append(person(6, 139, category_id=18))
    truth = load(folder, data).ground_truth()
    assert truth["images"] == data["images"]
    assert {a["id"]: a for a in truth["annotations"]} == {
        a["id"]: {k: v for k, v in a.items() if k != "segmentation"}
        for a in data["annotations"]
        if a["category_id"] == 1
    }
    assert truth["categories"][0]["keypoints"] == list(FIVE.joint_names)


def test_pycocotools_scores_the_ground_truth(folder):
    dataset = load(folder)
    results = [
        {
            "image_id": dataset.images[dataset.image_index[i]].image_id,
            "category_id": int(dataset.category_ids[i]),
            "keypoints": dataset.keypoints[i].ravel().astype(float).tolist(),
            "score": 0.9,
        }
        for i in range(len(dataset))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset.ground_truth()
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = FIVE.sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_coco17_from_a_config(folder):
    data = whole_file()
    data["categories"][0]["keypoints"] = list(COCO17.joint_names)
    for annotation in data["annotations"]:
        annotation["keypoints"] = [5, 6, 2] * 17
    (folder / "a.json").write_text(json.dumps(data))
    node = {
        "type": "CocoDataset",
        "image_dir": str(folder / "images"),
        "anno_path": str(folder / "a.json"),
        "skeleton": "coco17",
    }
    assert build(node, CocoDataset, "val_dataset").keypoints.shape == (4, 17, 3)
    with pytest.raises(ConfigError, match=r"^val_dataset: anno_path: file .*b\.json does not"):
        build(node | {"anno_path": str(folder / "b.json")}, CocoDataset, "val_dataset")


def test_images_in_subfolders(folder):
    (folder / "images" / "a" / "b").mkdir(parents=True)
    (folder / "images" / "000000000139.png").rename(folder / "images" / "a" / "b" / "x.png")
    data = whole_file()
    data["images"][0]["file_name"] = "a/b/x.png"
    dataset = load(folder, data)
    assert dataset[0].meta["path"] == folder / "images" / "a" / "b" / "x.png"
    assert dataset.ground_truth()["images"][0]["file_name"] == "a/b/x.png"


def in_annotation(**changes):
    def damage(folder, data):
        data["annotations"][0].update(changes)

    return damage


def without(key):
    def damage(folder, data):
        del data["annotations"][0][key]

    return damage


def in_image(**changes):
    def damage(folder, data):
        data["images"][0].update(changes)

    return damage


def added(name, *entries):
    def damage(folder, data):
        data[name] += entries

    return damage


def missing_image(folder, data):
    (folder / "images" / "000000000139.png").unlink()


def empty_image(folder, data):
    (folder / "images" / "000000000139.png").write_bytes(b"")


def folder_for_image(folder, data):
    missing_image(folder, data)
    (folder / "images" / "000000000139.png").mkdir()


def unreadable_image_without_size(folder, data):
    del data["images"][0]["width"]
    (folder / "images" / "000000000139.png").write_bytes(b"not an image")


def image_without_size(folder, data):
    del data["images"][0]["width"]


def joint(index, value):
    def damage(folder, data):
        data["annotations"][0]["keypoints"][index] = value

    return damage


def no_joint_names(folder, data):
    del data["categories"][0]["keypoints"]


def no_categories(folder, data):
    del data["categories"]
    for annotation in data["annotations"]:
        annotation["category_id"] = 7


def duplicate(folder, data):
    data["annotations"].append(copy.deepcopy(data["annotations"][0]))


NAN, INF = float("nan"), float("inf")
LOST_WITH_IMAGE = {2}

PROBLEMS = [
    (missing_image, "skipped", "missing image", LOST_WITH_IMAGE),
    (missing_image, "skipped", "annotation of a skipped image", LOST_WITH_IMAGE),
    (folder_for_image, "skipped", "missing image", LOST_WITH_IMAGE),
    (empty_image, "skipped", "empty image file", LOST_WITH_IMAGE),
    (unreadable_image_without_size, "skipped", "unreadable image", LOST_WITH_IMAGE),
    (image_without_size, "repaired", "image without width or height, read from the file", set()),
    (in_image(width=0), "repaired", "image without width or height, read from the file", set()),
    (in_image(height=NAN), "repaired", "image without width or height, read from the file", set()),
    (in_image(file_name=None), "skipped", "image without file_name", LOST_WITH_IMAGE),
    (in_image(file_name="a\0b/x.png"), "skipped", "missing image", LOST_WITH_IMAGE),
    (
        in_image(file_name="../keypoints.json"),
        "skipped",
        "file_name outside image_dir",
        {2},
    ),
    (in_image(file_name="/etc/hostname"), "skipped", "file_name outside image_dir", {2}),
    (in_image(id="139"), "skipped", "image without an integer id", LOST_WITH_IMAGE),
    (in_image(id="139"), "skipped", "annotation of an unknown image", LOST_WITH_IMAGE),
    (
        added("images", {"id": 139, "file_name": "000000000285.png"}),
        "skipped",
        "duplicate image id",
        set(),
    ),
    (added("images", None, 3), "skipped", "image that is not an object", set()),
    (in_annotation(bbox=[4, 5, 0, 30]), "skipped", "box without area inside its image", {1}),
    (in_annotation(bbox=[4, 5, 30, -2]), "skipped", "box without area inside its image", {1}),
    (in_annotation(bbox=[70, 5, 30, 30]), "skipped", "box without area inside its image", {1}),
    (in_annotation(bbox=[4, NAN, 30, 30]), "skipped", "box that is not four finite numbers", {1}),
    (in_annotation(bbox=[4, 5, INF, 30]), "skipped", "box that is not four finite numbers", {1}),
    (in_annotation(bbox=[4, 5, 30]), "skipped", "box that is not four finite numbers", {1}),
    (in_annotation(bbox=["4", 5, 30, 30]), "skipped", "box that is not four finite numbers", {1}),
    (
        in_annotation(bbox=[4, 5, 30, 10**400]),
        "skipped",
        "box that is not four finite numbers",
        {1},
    ),
    (without("bbox"), "skipped", "box that is not four finite numbers", {1}),
    (in_annotation(area=0), "repaired", "no area above 0, estimated as 0.53 of the box", set()),
    (without("area"), "repaired", "no area above 0, estimated as 0.53 of the box", set()),
    (in_annotation(keypoints=LABELS[:-1]), "skipped", "keypoints of the wrong length", {1}),
    (in_annotation(keypoints=[]), "skipped", "keypoints of the wrong length", {1}),
    (in_annotation(keypoints="none"), "skipped", "keypoints of the wrong length", {1}),
    (in_annotation(keypoints=[LABELS[:3]] * 5), "skipped", "keypoints of the wrong length", {1}),
    (without("keypoints"), "repaired", "no keypoints, treated as unlabelled", {1}),
    (joint(0, NAN), "repaired", "keypoint that is not finite, treated as unlabelled", set()),
    (joint(4, None), "repaired", "keypoint that is not finite, treated as unlabelled", set()),
    (joint(5, INF), "repaired", "keypoint that is not finite, treated as unlabelled", set()),
    (joint(2, 3), "repaired", "visibility other than 0, 1 or 2, rounded up and clipped", set()),
    (joint(2, -1), "repaired", "visibility other than 0, 1 or 2, rounded up and clipped", set()),
    (joint(2, 0.3), "repaired", "visibility other than 0, 1 or 2, rounded up and clipped", set()),
    (joint(0, 64.5), "kept", "labelled keypoint outside its image", set()),
    (joint(1, -0.5), "kept", "labelled keypoint outside its image", set()),
    (in_annotation(category_id=3), "skipped", "unknown category", {1}),
    (without("category_id"), "repaired", "no category_id, but matching joints", set()),
    (no_joint_names, "repaired", "no category lists its keypoints, using the skeleton's", set()),
    (no_categories, "repaired", "no category lists its keypoints, using the skeleton's", set()),
    (in_annotation(image_id=999), "skipped", "annotation of an unknown image", {1}),
    (without("image_id"), "skipped", "annotation of an unknown image", {1}),
    (in_annotation(image_id=[285]), "skipped", "annotation of an unknown image", {1}),
    (added("annotations", None, "a"), "skipped", "annotation that is not an object", set()),
    (duplicate, "skipped", "duplicate annotation", set()),
    (
        added("annotations", person(77, 285)),
        "kept",
        "same box and keypoints as another annotation",
        set(),
    ),
    (
        in_annotation(bbox=[4, 5, 80, 31]),
        "kept",
        "box with a tenth or more outside its image",
        set(),
    ),
    (
        in_annotation(keypoints=[0, 0, 2] * 2 + LABELS[6:]),
        "kept",
        "several labelled keypoints at 0, 0",
        set(),
    ),
    (
        in_annotation(keypoints=[1, 1, 0] * 5),
        "kept",
        "keypoints that all have visibility 0, so unlabelled",
        {1},
    ),
]


@pytest.mark.parametrize(
    ("damage", "action", "kind", "lost"), PROBLEMS, ids=[kind for _, _, kind, _ in PROBLEMS]
)
def test_a_problem_is_reported_and_affects_no_other_entry(folder, damage, action, kind, lost):
    data = whole_file()
    damage(folder, data)
    dataset = load(folder, data)
    assert dataset.problems[kind].action == action
    assert f"{action}: {kind}: " in dataset.summary()
    assert set(dataset.person_ids.tolist()) - {77} == USED - lost
    assert np.isfinite(dataset.keypoints).all()
    assert set(np.unique(dataset.keypoints[..., 2])) <= {0, 1, 2}
    assert dataset.areas.min() > 0
    ids = [a["id"] for a in dataset.ground_truth()["annotations"]]
    assert len(set(ids)) == len(ids)
    assert all(len(dataset[i].image) == SIZE[1] for i in range(len(dataset)))


def test_problems_name_location_and_value(folder):
    data = whole_file()
    data["annotations"][0]["bbox"] = [4, 5, 0, 30]
    missing_image(folder, data)
    assert load(folder, data).summary().splitlines() == [
        "people: 1 on 1 of 2 images",
        "  skipped: missing image: 1 (000000000139.png, image 139)",
        "  skipped: annotation of a skipped image: 2 (image 139, annotation 2; "
        "image 139, annotation 4)",
        "  skipped: box without area inside its image: 1 (000000000285.png, image 285, "
        "annotation 1: bbox [4.0, 5.0, 0.0, 30.0])",
    ]


def test_a_repaired_joint_is_unlabelled_and_the_others_are_kept(folder):
    data = whole_file()
    data["annotations"][0]["keypoints"][3] = None
    joints = load(folder, data).keypoints[1]
    assert joints.tolist() == [[10, 11, 2], [0, 0, 0], [0, 0, 0], [30, 31, 2], [40, 41, 2]]


def test_visibility_above_zero_is_labelled(folder):
    data = whole_file()
    data["annotations"][0]["keypoints"][2::3] = [0.3, 1.5, -1, 7, 2]
    assert load(folder, data).keypoints[1, :, 2].tolist() == [1, 2, 0, 2, 2]


def test_people_with_the_same_id_are_all_used(folder):
    data = whole_file()
    for annotation in data["annotations"]:
        annotation["id"] = 1
    dataset = load(folder, data)
    assert len(dataset) == len(set(dataset.person_ids.tolist())) == 3
    assert dataset.problems["annotation id missing or already used, replaced"].count == 4


@pytest.mark.parametrize("wrong", [None, "1", 1.5, NAN, 2**63 - 1, 10**30])
def test_invalid_ids_are_replaced(folder, wrong):
    data = whole_file()
    data["annotations"][0]["id"] = wrong
    assert sorted(load(folder, data).person_ids.tolist()) == [2, 3, 6]


def test_a_person_without_a_usable_box_stays_in_the_ground_truth(folder):
    data = whole_file()
    data["annotations"][0]["bbox"] = [4, 5, 0, 30]
    dataset = load(folder, data)
    assert 1 not in dataset.person_ids
    assert 1 in {a["id"] for a in dataset.ground_truth()["annotations"]}


def species():
    """People 1 and 3, an ape 2 with the same joints, and a dog 6 with others."""
    data = whole_file()
    data["categories"].insert(0, {"id": 2, "name": "ape", "keypoints": list(FIVE.joint_names)})
    data["annotations"][1]["category_id"] = 2
    data["annotations"].append(person(6, 285, category_id=18, keypoints=[1, 1, 2] * 9))
    return data


DOG = "category with other joints, or not one of `categories`"


@pytest.mark.parametrize(
    ("wanted", "used", "dropped"),
    [
        (None, {1: 1, 2: 2, 3: 1}, 1),
        (["ape"], {2: 2}, 5),
        ([1], {1: 1, 3: 1}, 2),
        (["person", 2], {1: 1, 2: 2, 3: 1}, 1),
    ],
)
def test_categories_with_the_joints_are_pooled(folder, wanted, used, dropped):
    dataset = load(folder, species(), categories=wanted)
    found = dict(zip(dataset.person_ids.tolist(), dataset.category_ids.tolist(), strict=True))
    assert found == used
    assert dataset.problems[DOG].count == dropped
    several = len(set(used.values())) > 1
    assert ("by category: person 2, ape 1" in dataset.summary()) == several
    truth = dataset.ground_truth()
    assert {a["id"]: a["category_id"] for a in truth["annotations"]}.items() >= used.items()
    assert {c["id"] for c in truth["categories"]} == set(used.values())


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["aep"], "categories: there is no 'aep'; did you mean 'ape'"),
        ([7], "categories: there is no 7; known: ape, person, dog, 2, 1, 18"),
        ("all", r"category 18 \('dog'\) has 2 joints, skeleton 'five' has 5; only annotated: a, b"),
        (["dog"], r"category 18 \('dog'\) has 2 joints"),
    ],
)
def test_categories_that_cannot_be_used(folder, wanted, message):
    data = species()
    data["categories"][-1]["keypoints"] = ["a", "b"]
    with pytest.raises(DataError, match=message):
        load(folder, data, categories=wanted)


def test_categories_without_joint_names_are_pooled_if_their_annotations_fit(folder):
    data = species()
    for category in data["categories"]:
        category.pop("keypoints", None)
    dataset = load(folder, data)
    assert dataset.categories == {1: "person", 2: "ape"}


def test_an_image_damaged_after_loading_is_named(folder):
    dataset = load(folder)
    path = folder / "images" / "000000000285.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImageError, match=r"000000000285\.png: damaged or truncated"):
        dataset[1]


def test_a_resized_image_is_named(folder):
    cv2.imwrite(str(folder / "images" / "000000000285.png"), np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(ImageError, match=r"000000000285\.png: is 32x24, but annotated as 64x48"):
        load(folder)[1]


@pytest.mark.parametrize("orientation", [3, 6])
def test_rotated_images_match_their_annotations(folder, orientation):
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[5:10, 5:10] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(folder / "images" / "000000000285.png", exif=exif)
    image = load(folder)[1].image
    rows, columns = np.nonzero(image[..., 0])
    upside_down = orientation == 3  # same size either way, so EXIF is applied
    assert (rows.min(), columns.min()) == ((38, 54) if upside_down else (5, 5))


# Boxes of a detector.


def box(image_id=285, **changes):
    return {
        "image_id": image_id,
        "category_id": 1,
        "bbox": [-5.0, 1.5, 90.0, 20.0],
        "score": 0.5,
    } | (changes)


def test_detected_boxes_are_used_unchanged(folder):
    dataset = load(folder, boxes=[box(285), box(139, score=0.9)])
    assert dataset.boxes_xywh.tolist() == [[-5, 1.5, 90, 20]] * 2
    np.testing.assert_allclose(dataset.box_scores, [0.9, 0.5])
    assert dataset.image_index.tolist() == [0, 1]
    assert not dataset.keypoints.any()
    assert dataset.keypoints.shape == (2, 5, 3)
    assert dataset.person_ids.tolist() == [-1, -1]
    assert dataset.areas.tolist() == [1800, 1800]
    assert dataset.box_source == "detections.json"
    assert dataset.summary().splitlines() == [
        "boxes of detections.json: 2 on 2 of 3 images",
        "  kept: box with a tenth or more outside its image: 2 (000000000139.png, image 139: bbox "
        "[-5.0, 1.5, 90.0, 20.0]; 000000000285.png, image 285: bbox [-5.0, 1.5, 90.0, 20.0])",
    ]
    assert dataset[1].meta["box_score"] == 0.5
    assert {a["id"] for a in dataset.ground_truth()["annotations"]} == {1, 2, 3, 4, 5}


def test_the_score_threshold_is_inclusive(folder):
    boxes = [box(score=s) for s in (0.1, 0.5, 0.25, 0.75)]
    assert load(folder, boxes=boxes, min_box_score=0.5).box_scores.tolist() == [0.5, 0.75]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (box(999), "box of an unknown image"),
        (box("285"), "box of an unknown image"),
        (box(139), "box of a skipped image"),
        (box(bbox=[1, 1, 0, 9]), "box without area, or not finite"),
        (box(bbox=[1, 1, NAN, 9]), "box without area, or not finite"),
        (box(bbox=None), "box without area, or not finite"),
        (box(score=None), "box without a score"),
        (box(score=NAN), "box without a score"),
        (box(category_id="person"), "box with an invalid category_id"),
        (7, "box that is not an object"),
        (box(category_id=18), None),
    ],
)
def test_invalid_detected_boxes_are_skipped(folder, wrong, kind):
    missing_image(folder, None)
    dataset = load(folder, boxes=[box(), wrong])
    assert len(dataset) == 1
    assert kind is None or dataset.problems[kind].count == 1


def test_scores_are_clipped_to_0_1(folder):
    dataset = load(folder, boxes=[box(score=1.5), box()])
    assert dataset.box_scores.tolist() == [1.0, 0.5]
    assert "entry 0: score 1.5" in str(dataset.problems)


def test_a_test_set_has_no_annotations(folder):
    data = whole_file()
    del data["annotations"], data["categories"]
    dataset = load(folder, data, boxes=[box()])
    assert len(dataset) == 1
    assert dataset.ground_truth()["annotations"] == []
    with pytest.raises(DataError, match="has no annotations, like the files of COCO's test sets"):
        load(folder, data)


# Errors before training starts.


def changed(**changes):
    return whole_file() | changes


def joint_names(*names):
    return changed(categories=[{"id": 1, "name": "person", "keypoints": list(names)}])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "anno_path: .*keypoints.json is empty"),
        ('{"images": [\n  {"id": 1},', "is not valid JSON: .* in line 2, column 13"),
        ("[" * 100_000, "cannot be read as JSON"),
        (
            json.dumps([box()]),
            "is a list; expected a keypoint file.*detection results as bbox_file",
        ),
        ("3", "has no list of images"),
        ('{"images": 3}', "has no list of images"),
        (json.dumps(changed(annotations={"a": 1})), "annotations in .* are not a list"),
        (
            json.dumps(changed(annotations=[{"image_id": 139, "bbox": [1, 2, 3, 4]}])),
            "has boxes and segmentations, as in instances_.* but no keypoints",
        ),
        (json.dumps(changed(annotations=[{"caption": "a"}])), "has captions but no keypoints"),
        (
            joint_names("head", "hand", "hip", "foot", "knee"),
            "different order at 3: 'foot', not 'knee', 4: 'knee', not 'foot'",
        ),
        (
            joint_names("head", "hand", "hip", "knee", "toe", "tail"),
            r"category 1 \('person'\) has 6 joints, skeleton 'five' has 5; "
            "only annotated: toe, tail; only in the skeleton: foot",
        ),
        (joint_names(1, 2), r"keypoints must be joint names, found \[1, 2\]"),
        (
            changed(annotations=[person(1, 139, keypoints=[1, 1, 1] * 17)]),
            r"keypoints.json: the annotations have 17 joints, but skeleton 'five' has 5",
        ),
        (changed(annotations=[]), "no person with a box and a labelled joint"),
        (changed(images=[]), "no usable image in .*\n.*annotation of an unknown image: 5"),
        (
            changed(annotations=[person(1, 139, bbox=[0, 0, 0, 0])]),
            "no person with a box.*\n.*box without area inside its image: 1 .0*139.png, image 139",
        ),
    ],
)
def test_invalid_files_are_errors(folder, data, message):
    with pytest.raises(DataError, match=message):
        load(folder, data)


def test_missing_areas_are_estimated_and_marked(folder):
    data = whole_file()
    del data["annotations"][0]["area"]
    dataset = load(folder, data)
    assert dataset.areas.tolist() == pytest.approx([700, 0.53 * 41 * 31, 700])
    marked = [a["id"] for a in dataset.ground_truth()["annotations"] if "area_estimated" in a]
    assert marked == [1]


@pytest.mark.parametrize("boxes", [False, True], ids=["annotations", "bbox_file"])
def test_corners_in_place_of_widths_are_an_error(folder, boxes):
    data, found = whole_file(), None
    if boxes:
        found = [box(bbox=[30.0, 20.0, 60.0, 46.0])] * 3
    else:
        data["annotations"] = [
            person(
                i, 285, bbox=[30, 20, 62, 46], keypoints=[31, 21, 2, 61, 45, 2, 40, 30, 2, *[0] * 6]
            )
            for i in range(1, 4)
        ]
    with pytest.raises(DataError, match=r"\.json: boxes .*are they x1 y1 x2 y2\?"):
        load(folder, data, boxes=found)


def test_a_binary_file_is_an_error(folder):
    (folder / "a.json").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(DataError, match=r"a\.json is not a text file .*unpack it"):
        CocoDataset(str(folder / "images"), str(folder / "a.json"), FIVE)


def test_a_byte_order_mark_is_skipped(folder):
    (folder / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(whole_file()).encode())
    assert len(CocoDataset(str(folder / "images"), str(folder / "a.json"), FIVE)) == 3


def test_missing_paths_are_errors(folder):
    load(folder)
    annotations, images = str(folder / "keypoints.json"), str(folder / "images")
    with pytest.raises(DataError, match=r"anno_path: .*did you mean 'keypoints\.json'"):
        CocoDataset(images, str(folder / "keypoint.json"), FIVE)
    with pytest.raises(
        DataError, match="image_dir: folder .* does not exist: .*did you mean 'images'"
    ):
        CocoDataset(str(folder / "image"), annotations, FIVE)
    with pytest.raises(DataError, match=r"bbox_file: file .*boxes\.json does not exist"):
        CocoDataset(images, annotations, FIVE, str(folder / "boxes.json"))


def test_no_usable_box_is_an_error(folder):
    with pytest.raises(DataError, match=r"category 1.* score of at least 0\.9"):
        load(folder, boxes=[box()], min_box_score=0.9)
    with pytest.raises(DataError, match=r"detections\.json has no boxes; expected a list of"):
        load(folder, boxes={"boxes": []})


# Properties.

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.none(), st.floats(), st.integers(-9, 99)), max_size=16),
    st.dictionaries(st.sampled_from(["id", "bbox"]), st.none(), max_size=1),
)
KEYS = ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "num_keypoints", "keypoints"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("coco"))


@settings(max_examples=150, deadline=None)
@given(
    junk=st.lists(
        st.one_of(JUNK, st.dictionaries(st.sampled_from(KEYS), JUNK, min_size=1)), max_size=6
    ),
    positions=st.lists(st.integers(0, 5), min_size=6, max_size=6),
)
def test_valid_annotations_are_kept_next_to_invalid_ones(shared, junk, positions):
    data = whole_file()
    for entry, position in zip(junk, positions, strict=False):
        damaged = person(100 + position, 139) | entry if isinstance(entry, dict) else entry
        data["annotations"].insert(position, damaged)
    dataset = load(shared, data)
    good = load(shared)
    for i, person_id in enumerate(good.person_ids):
        same = next(
            j
            for j in range(len(dataset))
            if np.array_equal(dataset.keypoints[j], good.keypoints[i])
            and np.array_equal(dataset.boxes_xywh[j], good.boxes_xywh[i])
            and dataset.image_index[j] == good.image_index[i]
        )
        assert person_id in dataset.person_ids or "annotation id" in str(dataset.problems)
        assert dataset.areas[same] == good.areas[i]
    assert np.isfinite(dataset.keypoints).all()
    assert (dataset.boxes_xywh[:, 2:] > 0).all()
    json.dumps(dataset.ground_truth(), allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(junk=st.lists(st.one_of(JUNK, st.fixed_dictionaries({"id": JUNK, "file_name": JUNK}))))
def test_valid_images_are_kept_next_to_invalid_ones(shared, junk):
    data = whole_file()
    data["images"] += junk
    assert len(load(shared, data)) == 3


def test_problems_are_counted_with_a_few_examples():
    problems = Problems()
    problems.add("skipped", "a", [], str)
    assert not len(problems)
    problems.add("skipped", "a", [1, 2], str)
    problems.add("skipped", "a", range(3, 1_000_000), str)
    problems.add("repaired", "b", ["x"], str)
    assert problems.counts() == {"a": 999_999, "b": 1}
    assert str(problems) == "skipped: a: 999999 (1; 2; 3; …)\nrepaired: b: 1 (x)"
