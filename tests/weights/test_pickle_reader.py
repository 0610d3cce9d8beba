"""Pickles that are made to crash, to take all memory or to never end."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hostile_memory import read_apart
from hypothesis import given, settings
from hypothesis import strategies as st

from ppose.utils.errors import PposeError
from ppose.utils.printable import bounded
from ppose.weights.pickle_reader import MAX_OPCODES, PickleReader
from ppose.weights.weight_file import WeightsError, read_arrays

NAME = b"X\x01\0\0\0a"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"


def text_of(length: int) -> bytes:
    return b"X" + length.to_bytes(4, "little") + b"a" * length


def shared_arrays(count: int, length: int) -> bytes:
    """Arrays that all have the same bytes of the file as their content."""
    size = length.to_bytes(4, "little")
    state = b"(K\x01J" + size + b"\x85cnumpy\ndtype\nX\x02\0\0\0u1\x85R\x89B" + size
    opcodes = b"}(" + state + b"x" * length + b"tq\x000" + RECONSTRUCT + b"q\x010"
    array = b"h\x01cnumpy\nndarray\nK\0\x85C\x01b\x87Rh\0b"
    return opcodes + b"".join(b"X\x05\0\0\0%05d" % i + array for i in range(count)) + b"u."


HOSTILE = {
    "nested key": (b"})" + b"\x85" * 400_000 + b"K\x01s.", "has a tuple as a key"),
    "nested value": (b"}" + NAME + b")" + b"\x85" * 400_000 + b"s.", "is a tuple"),
    "nested lists": (b"}" + NAME + b"]" * 200_000 + b"a" * 199_999 + b"s.", "is a list"),
    "shared key": (
        b"})" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(50)) + b"K\x01s.",
        "has a tuple as a key",
    ),
    "a text 800 times": (
        b"}(" + text_of(1_000_000) + b"q\0" + b"h\0" * 800 + b"tK\x01s.",
        "has a tuple as a key",
    ),
    "a long name": (b"}" + text_of(1_000_000) + b"K\x01s.", "is a int, expected an array"),
    "wide text": (b"}" + b"X\0\x09\x3d\0" + b"a" * 3_999_996 + "😀".encode() + b"K\x01s.", "text"),
    "huge integer": (
        b"}\x8b" + (500_000).to_bytes(4, "little") + b"\x7f" * 500_000 + b"K\x01s.",
        "an integer of 500000 bytes",
    ),
    "arrays of one content": (shared_arrays(3000, 1_000_000), "arrays of more than its"),
    "a list as a key": (b"}]K\x01s.", "has a list as a key, expected text"),
    "endless": (b"N0" * MAX_OPCODES, f"more than {MAX_OPCODES} opcodes"),
    "dicts": (b"}q\0" * 5_000_000, "opcodes"),
    "large length": (b"\x8e" + (1 << 40).to_bytes(8, "little") + b"abc.", "ends too early"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_end_in_one_line(tmp_path, name):
    opcodes, message = HOSTILE[name]
    path = tmp_path / "a.pdparams"
    path.write_bytes(b"\x80\x04" + opcodes)
    found, memory = read_apart("ppose.weights.weight_file", "read_arrays", path)
    assert message in found
    assert "\n" not in found
    assert len(found) < 2100
    assert memory < 2 * path.stat().st_size + 100e6


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**300), 2**300) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200)
@given(plain, st.integers(2, 5))
def test_plain_content_is_read_as_pickle_reads_it(tmp_path_factory, content, protocol):
    path = tmp_path_factory.getbasetemp() / "plain.pkl"
    # Bytes of protocol 2 are a call.
    path.write_bytes(pickle.dumps(content, max(protocol, 3)))
    with path.open("rb") as file:
        assert PickleReader(file, lambda *_: None).read() == content


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_opcodes_are_read_or_refused(tmp_path_factory, opcodes):
    path = tmp_path_factory.getbasetemp() / "any.pdparams"
    path.write_bytes(b"\x80\x02" + opcodes)
    with pytest.raises(WeightsError):
        read_arrays(path)


def test_a_large_file_needs_its_size_twice(tmp_path):
    path = tmp_path / "a.pdparams"
    arrays = {str(i): np.ones((256, 1024, 16), np.float32) for i in range(6)}
    path.write_bytes(pickle.dumps(arrays, 4))
    found, memory = read_apart("ppose.weights.weight_file", "read_arrays", path)
    assert found == "fine"
    assert memory < 2 * path.stat().st_size + 100e6


def test_what_an_error_repeats_can_do_no_harm():
    error = str(PposeError("a \x1b[31mred\x07 name\nand \u202eline é 人: " + "x" * 1_000_000))
    assert error.startswith("a \\x1b[31mred\\x07 name\nand \\u202eline é 人: xxx")
    assert len(error) <= 2000
    assert len(bounded("\x1b" * 5000)) <= 2000
