"""Image records are created from columns; ids are looked up in one call."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ppose.data.image_table import ImageRecord, ImageRecords, ImageTable

FOLDER = Path("images")
NAMES = ["a.jpg", "sub/ä.jpg", "\udcff.jpg"]


@pytest.fixture
def records():
    made = ImageRecords(FOLDER)
    for i, name in enumerate(NAMES):
        made.append(10**11 - i, name, (640 + i, 480))
    return made


def test_records_are_a_sequence(records):
    expected = [ImageRecord(10**11 - i, FOLDER / n, (640 + i, 480)) for i, n in enumerate(NAMES)]
    assert isinstance(records, Sequence)
    assert list(records) == expected
    assert len(records) == 3
    assert records[-1] == records[np.int32(2)] == expected[2]
    assert records[1:] == expected[1:]
    assert expected[1] in records
    assert records.sizes_wh.tolist() == [[640, 480], [641, 480], [642, 480]]
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            records[wrong]
    with pytest.raises(TypeError):
        records["0"]


def test_ids_are_looked_up(records):
    table = ImageTable(records, {10**11: 0, 10**11 - 1: 1, 10**11 - 2: 2, 5: -1})
    asked = [10**11 - 2, 5, 7, 10**11, -(2**62), 2**62 - 1]
    assert table.index_of(asked).tolist() == [2, -1, -2, 0, -2, -2]
    assert table.index_of(np.array(asked)).tolist() == [2, -1, -2, 0, -2, -2]
    assert table.index_of(["5", None, 5.0]).tolist() == [-2, -2, -1]
    assert ImageTable(ImageRecords(FOLDER), {}).index_of([5]).tolist() == [-2]


def test_entries_are_described(records):
    table = ImageTable(records, {10**11: 0, 5: -1})
    assert table.describe({"image_id": 10**11, "id": 3}) == (
        "a.jpg, image 100000000000, annotation 3"
    )
    assert table.describe({"image_id": 5}) == "image 5"
    assert table.describe({}) == "image None"
