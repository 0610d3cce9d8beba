"""Reading in pieces gives what `json.loads` gives for the whole text, errors and places too."""

import io
import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ppose.data import json_text
from ppose.data.json_text import JsonText

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


def walked(text, piece, plain=None):
    """The document, its outermost object and the lists in it entry by entry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_PIECE", piece)
        reader = JsonText(io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8-sig"))

        def value():
            return list(reader.elements(plain)) if reader.peek() == "[" else reader.value()

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
    piece=st.integers(1, 40),
    cut=st.integers(0, 400),
    other=st.text('{}[],:"\\x\n1-. ', max_size=2),
    drop=st.integers(0, 2),
)
@example({"a": [1e39]}, None, 9, 400, "", 0)
@example([1, 2, 3], None, 2, 400, "", 0)
@example([12345], None, 3, 400, "", 0)
def test_whole_and_damaged_texts(value, indent, piece, cut, other, drop):
    text = json.dumps(value, indent=indent, ensure_ascii=piece % 2 == 0)
    text = text[:cut] + other + text[cut + drop :]
    expected = outcome(lambda: json.loads(text))
    if "Illegal trailing comma" in expected[0]:  # Python 3.13 and later
        return
    assert outcome(lambda: walked(text, piece)) == expected


@given(st.lists(st.one_of(VALUES, st.fixed_dictionaries({"x": SCALARS | VALUES})), max_size=6))
@example([{"x": 2**53 + 1}])
def test_what_the_fast_decoder_refuses_comes_as_it_is(entries):
    text = json.dumps(entries)
    for piece in (3, 1000):
        found = walked(text, piece, POINT)
        assert len(found) == len(entries)
        for one, entry in zip(found, entries, strict=True):
            if isinstance(one, Point):
                assert float(entry["x"]) == one.x
            else:
                assert repr(one) == repr(json.loads(json.dumps(entry)))


@pytest.mark.parametrize("entry", ['{"x": 1, "y": {"z": 2}}', '{"x": 1, "y": "}"}', '{"x": 1}'])
def test_inner_braces_do_not_end_an_object(entry):
    found = walked(f"[{entry}, {entry}]", 1000, POINT)
    expected = json.loads(entry)
    is_plain = set(expected) == {"x"}
    assert found == [Point(1.0) if is_plain else expected] * 2


def test_the_fast_decoder_is_used():
    assert walked('[{"x": 1}, {"x": 2}, {"x": NaN}]', 1000, POINT)[:2] == [Point(1.0), Point(2.0)]


@pytest.mark.parametrize("before", [0, 3, 20_000, 3_000_000])
def test_the_byte_that_is_no_text(before):
    content = b'["' + b"a" * before + b'\xff"]'
    with pytest.raises(UnicodeDecodeError) as error:
        JsonText(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig")).value()
    assert error.value.start == before + 2
