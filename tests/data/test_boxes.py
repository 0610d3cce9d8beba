"""Box files with file names or image ids; errors name the entry."""

import json
from pathlib import Path

import pytest

from ppose.data.boxes import BoxFile
from ppose.utils.errors import PposeError


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "boxes.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_boxes_are_found_by_file_name_and_by_id(write):
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


def test_an_image_in_the_working_directory_has_no_duplicate_boxes(write):
    table = BoxFile(write([{"file_name": "a.jpg", "bbox": [1, 2, 3, 4]}]))
    assert table.of(Path("a.jpg")).tolist() == [[1, 2, 3, 4, 1]]


def test_boxes_are_found_by_path(write):
    table = BoxFile(write([{"file_name": "x/a.jpg", "bbox": [1, 2, 3, 4]}]))
    assert len(table.of(Path("x/a.jpg"))) == 1
    assert len(table.of(Path("y/a.jpg"))) == 0


def test_a_name_of_non_decimal_digits_is_not_an_id(write):
    table = BoxFile(write([{"image_id": 2, "bbox": [1, 2, 3, 4]}]))
    assert len(table.of(Path("².jpg"))) == 0


def test_invalid_boxes_are_counted_and_skipped(write):
    usable, other = [1, 2, 3, 4], {"category_id": 3}
    entries = [
        {"bbox": usable},
        {"bbox": [1, 2, 0, 4]},
        {"bbox": [1, 2, 3, -4], "score": 0.9},
        {"bbox": [1, 2, 1e-99, 4]},
        {"bbox": usable, "score": 87},
        {"bbox": usable, "score": -0.1},
        {"bbox": [1, 2, 0, 4]} | other,
        {"bbox": usable, "score": 87} | other,
    ]
    table = BoxFile(write([{"file_name": "a.jpg"} | entry for entry in entries]), min_score=0.3)
    assert table.of(Path("a.jpg")).tolist() == [[*usable, 1]]
    assert str(table.problems).splitlines() == [
        "skipped: box without a width or height: 3 (entry 1: bbox [1, 2, 0, 4]; "
        "entry 2: bbox [1, 2, 3, -4]; entry 3: bbox [1, 2, 1e-99, 4])",
        "skipped: box score outside 0..1: 2 (entry 4: score 87; entry 5: score -0.1)",
        "skipped: box of another category than people: 2 (entry 6: 3; entry 7: 3)",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ({"a": 1}, "has no boxes; expected a list"),
        ([3], "entry 0: expected an object"),
        ([{"bbox": [1, 2, 3, 4]}], "entry 0: needs a file_name or an image_id"),
        ([{"file_name": "a", "bbox": [1, 2, 3]}], "entry 0: bbox has to be"),
        ([{"file_name": "a", "bbox": [1, 2, "x", 4]}], "bbox has to be"),
        ('[{"file_name": "a", "bbox": [1, 2, NaN, 4]}]', "bbox has to be"),
        ([{"file_name": "a", "bbox": [1, 2, 1e99, 4]}], "bbox has to be"),
        ([{"file_name": "a", "bbox": [1, 2, 10**400, 4]}], "bbox has to be"),
        ([{"file_name": "a", "bbox": [1, 2, 3, 4], "score": "high"}], "score has to be a number"),
    ],
)
def test_errors_name_the_entry(write, content, message):
    with pytest.raises(PposeError, match=message):
        BoxFile(write(content))


def test_a_missing_file_suggests_the_closest_name(write):
    path = write([])
    with pytest.raises(
        PposeError, match=r"file .*boxs\.json does not exist: .*did you mean 'boxes\.json'"
    ):
        BoxFile(path.with_name("boxs.json"))
