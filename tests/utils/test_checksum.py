"""Checksums of files, given or read from a file name."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppose.utils.checksum import Checksum, mismatch


@pytest.mark.parametrize("name", ["hrnet-20230101.pdparams", "a-1a2b3c.bin", "hrnet_w32.pdparams"])
def test_names_without_a_digest(name):
    assert Checksum.in_name(name) is None


@given(st.binary(max_size=300), st.sampled_from(["md5", "sha256"]), st.integers(8, 32))
def test_digest_prefixes(tmp_path_factory, content, algorithm, digits):
    path = tmp_path_factory.getbasetemp() / "content"
    path.write_bytes(content)
    digest = hashlib.new(algorithm, content).hexdigest()
    assert Checksum(algorithm, digest[:digits]).of(path) == digest[:digits]


@pytest.mark.parametrize("digest", ["", "1234567", "g" * 8, "0" * 65])
def test_malformed_digests(digest):
    with pytest.raises(ValueError, match="8 to 64"):
        Checksum("sha256", digest)


def test_mismatch_reports_the_first_difference(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    assert mismatch(path, None, None) is None
    assert mismatch(path, 7, Checksum("sha256", digest.upper())) is None
    assert mismatch(path, 8, None) == "it has 7 bytes, expected 8"
    message = f"its sha256 begins with {digest[:8]}, expected 00000000"
    assert mismatch(path, 7, Checksum("sha256", "0" * 8)) == message
