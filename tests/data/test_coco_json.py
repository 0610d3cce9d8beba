"""Streaming gives the same values, errors and error positions as `json.loads`."""

import io
import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ppose.data import coco_json
from ppose.data.coco_json import JsonStream

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from([1e39, -1.5e-7, 10**400]),
    st.text(max_size=6),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)


class Point(msgspec.Struct):
    x: float


POINT = msgspec.json.Decoder(Point)


def streamed(text, chunk, fast_decoder=None):
    """The document; the outermost object and the lists in it are read as a stream."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_json, "_CHUNK_SIZE", chunk)
        reader = JsonStream(io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8-sig"))

        def value():
            return list(reader.elements(fast_decoder)) if reader.peek() == "[" else reader.value()

        is_object = reader.peek() == "{"
        found = {key: value() for key in reader.members()} if is_object else value()
        reader.finish()
        return found


def outcome(read):
    try:
        return repr(read())
    except json.JSONDecodeError as error:
        return error.msg, error.lineno, error.colno


@given(
    value=VALUES,
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(1, 40),
    cut=st.integers(0, 400),
    other=st.text('{}[],:"\\x\n1-. ', max_size=2),
    drop=st.integers(0, 2),
)
@example({"a": [1e39]}, None, 9, 400, "", 0)
@example([1, 2, 3], None, 2, 400, "", 0)
@example([12345], None, 3, 400, "", 0)
def test_streaming_valid_and_damaged_texts(value, indent, chunk, cut, other, drop):
    text = json.dumps(value, indent=indent, ensure_ascii=chunk % 2 == 0)
    text = text[:cut] + other + text[cut + drop :]
    expected = outcome(lambda: json.loads(text))
    if "Illegal trailing comma" in expected[0]:  # Python 3.13 and later
        return
    assert outcome(lambda: streamed(text, chunk)) == expected


@given(st.lists(st.one_of(VALUES, st.fixed_dictionaries({"x": SCALARS | VALUES})), max_size=6))
@example([{"x": 2**53 + 1}])
def test_objects_that_the_fast_decoder_rejects_are_unchanged(entries):
    text = json.dumps(entries)
    for chunk in (3, 1000):
        found = streamed(text, chunk, POINT.decode)
        assert len(found) == len(entries)
        for one, entry in zip(found, entries, strict=True):
            if isinstance(one, Point):
                assert float(entry["x"]) == one.x
            else:
                assert repr(one) == repr(json.loads(json.dumps(entry)))


@pytest.mark.parametrize("entry", ['{"x": 1, "y": {"z": 2}}', '{"x": 1, "y": "}"}', '{"x": 1}'])
def test_inner_braces_do_not_end_an_object(entry):
    found = streamed(f"[{entry}, {entry}]", 1000, POINT.decode)
    expected = json.loads(entry)
    is_point = set(expected) == {"x"}
    assert found == [Point(1.0) if is_point else expected] * 2


def test_the_fast_decoder_is_used():
    assert streamed('[{"x": 1}, {"x": 2}, {"x": NaN}]', 1000, POINT.decode)[:2] == [
        Point(1.0),
        Point(2.0),
    ]


@pytest.mark.parametrize("before", [0, 3, 20_000, 3_000_000])
def test_a_decoding_error_has_the_offset_in_the_file(before):
    content = b'["' + b"a" * before + b'\xff"]'
    with pytest.raises(UnicodeDecodeError) as error:
        JsonStream(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig")).value()
    assert error.value.start == before + 2
