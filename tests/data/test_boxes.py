"""Box files of both forms; wrong entries are named."""

import json
from pathlib import Path

import pytest

from ppose.data.boxes import BoxFile
from ppose.errors import PposeError


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "boxes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_pictures_are_found_by_name_and_by_id(write):
    table = BoxFile(
        write(
            [
                {"file_name": "a.jpg", "bbox": [1, 2, 3, 4]},
                {"image_id": 139, "bbox": [5, 6, 7, 8], "score": 0.5, "category_id": 1},
                {"image_id": 139, "bbox": [0, 0, 1, 1], "score": 0.1},
                {"image_id": 139, "bbox": [0, 0, 1, 1], "score": 0.9, "category_id": 3},
            ]
        ),
        min_score=0.3,
    )
    assert table.of(Path("x/a.jpg")).tolist() == [[1, 2, 3, 4, 1]]
    assert table.of(Path("000000000139.jpg")).tolist() == [[5, 6, 7, 8, 0.5]]
    assert table.of(Path("b.jpg")).shape == (0, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ({"a": 1}, "expected a list"),
        ([3], "entry 0: expected an object"),
        ([{"bbox": [1, 2, 3, 4]}], "entry 0: needs a file_name or an image_id"),
        ([{"file_name": "a", "bbox": [1, 2, 3]}], "entry 0: bbox has to be"),
        ([{"file_name": "a", "bbox": [1, 2, "x", 4]}], "bbox has to be"),
        ('[{"file_name": "a", "bbox": [1, 2, NaN, 4]}]', "bbox has to be"),
        ([{"file_name": "a", "bbox": [1, 2, 3, 4], "score": "high"}], "score has to be a number"),
    ],
)
def test_faults_are_named(write, content, message):
    with pytest.raises(PposeError, match=message):
        BoxFile(write(content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no box file .*boxes.json"):
        BoxFile(tmp_path / "boxes.json")
