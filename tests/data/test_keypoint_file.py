"""The fast and the lenient parser give the same result, for any chunk size."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppose.data import coco_json
from ppose.data.coco_json import NO_ID
from ppose.data.keypoint_file import read_keypoint_file
from ppose.data.multi_person import CocoMultiPerson
from ppose.data.problems import DataError, Problems
from ppose.structures.skeleton import Joint, Skeleton

THREE = Skeleton("three", [Joint(name, 0.05) for name in ("head", "hand", "foot")], [])
NUMBERS = st.one_of(st.integers(-5, 90), st.floats(-5, 90), st.sampled_from([1e39, -0.0, 10**400]))
IDS = st.integers(0, 6)
POLYGONS = st.lists(st.lists(NUMBERS, max_size=9), max_size=3)
RUNS = st.fixed_dictionaries(
    {
        "size": st.sampled_from([[48, 64], [64, 48], [48.0, 64], [2**40, 2**40], 3]),
        "counts": st.sampled_from([[3072], [1000, 2072], [5], "0P`1", "PP", 7]),
    }
)
PEOPLE = st.fixed_dictionaries(
    {
        "id": IDS,
        "image_id": st.integers(1, 3),
        "category_id": st.integers(1, 2),
        "bbox": st.lists(NUMBERS, min_size=4, max_size=4) | st.lists(NUMBERS, max_size=5),
        "keypoints": st.lists(NUMBERS | st.integers(0, 2), min_size=9, max_size=9)
        | st.sampled_from([[0] * 9, [9, 9, 2] * 3, [9] * 8]),
    },
    optional={
        "area": NUMBERS,
        "iscrowd": st.integers(-1, 1),
        "segmentation": POLYGONS | RUNS | st.none(),
        "note": st.sampled_from(["}", "ä", {"a": [1]}]),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("images")
    for i in (1, 2):
        (made / f"{i}.jpg").write_bytes(b"not opened")
    return made


def document(people):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in (1, 2)]
    category = {"id": 1, "name": "person", "keypoints": list(THREE.joint_names)}
    good = {
        "id": 50,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1, 2, 30, 40],
        "area": 90.5,
        "keypoints": [5, 6, 2, 7, 8, 1, 0, 0, 0],
    }
    return {"images": images, "annotations": [*people, good], "categories": [category]}


def described(folder, data):
    path = folder / "people.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with np.errstate(over="ignore"):
        dataset = CocoMultiPerson(str(folder), str(path), THREE, min_joints=1, min_area=0)
    columns = ("image_index", "boxes_xywh", "keypoints", "areas", "person_ids")
    segmentations = dataset._annotations.segmentations
    shapes = [
        ([p.tolist() for p in s.polygons], s.runs, s.labelled, s.crowd)
        for s in (segmentations[i] for i in range(len(segmentations)))
    ]
    return repr(
        (
            [getattr(dataset, name).tolist() for name in columns],
            list(dataset.images),
            shapes,
            dataset.ground_truth(),
            dataset.summary(),
        )
    )


@settings(max_examples=150, deadline=None)
@given(people=st.lists(PEOPLE, max_size=5), chunk=st.integers(1, 200), late=st.booleans())
def test_fast_and_lenient_parsing_agree(folder, people, chunk, late):
    data = document(people)
    expected = described(folder, data)
    # NaN is not JSON, so the fast decoder rejects every entry.
    for entry in [*data["images"], *data["annotations"]]:
        entry["rejected"] = float("nan")
    assert described(folder, data) == expected
    if late:
        data = dict(reversed(data.items()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_json, "_CHUNK_SIZE", chunk)
        assert described(folder, data) == expected


def rows_of(folder, people, segmentations=False):
    path = folder / "rows.json"
    path.write_text(json.dumps(document(people)))
    return read_keypoint_file(path, folder, 3, Problems(), segmentations=segmentations).annotations


def test_the_columns(folder):
    people = [
        {"id": "a", "keypoints": [1, 2, 2] * 3},
        {"id": 3, "keypoints": [0] * 9},
        {"id": 4, "keypoints": [1]},
    ]
    rows = rows_of(folder, people)
    assert rows.ids.tolist() == [NO_ID, 3, 4, 50]
    assert rows.image_ids.tolist() == [NO_ID, NO_ID, NO_ID, 1]
    assert rows.joint_counts.tolist() == [0, 0, 0, 3]  # entries without image_id are not people
    assert rows.keypoint_index.tolist() == [-1, -1, -1, 0]
    assert rows.keypoints.tolist() == [[[5, 6, 2], [7, 8, 1], [0, 0, 0]]]
    assert rows.boxes[3].tolist() == [1, 2, 30, 40]
    assert np.isnan(rows.boxes[:3]).all()
    assert rows.areas[3] == 90.5
    assert rows.segmentations is None


def test_entries_for_messages(folder):
    people = [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 0}]
    rows = rows_of(folder, [people[0] | {"keypoints": [1, 2, 2] * 3}])
    assert rows.entry(0)["area"] == 0
    assert rows.entry(1) == {"id": 50, "image_id": 1, "category_id": 1}


def test_the_last_of_duplicate_keys_is_used(folder):
    path = folder / "duplicate.json"
    text = json.dumps(document([]))
    path.write_text(text[:-1] + ', "annotations": [{"id": 1, "keypoints": [1, 2]}]}')
    rows = read_keypoint_file(path, folder, 3, Problems()).annotations
    assert rows.ids.tolist() == [1]


def test_a_missing_folder_is_an_error_before_people_are_read(folder):
    path = folder / "people.json"
    path.write_text(json.dumps(document([])))
    with pytest.raises(DataError, match="image_dir: folder .* does not exist"):
        read_keypoint_file(path, Path(folder / "none"), 3, Problems())
