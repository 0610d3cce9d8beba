"""Size and decoding cost of image files, read before they are decoded."""

import io
import struct

import numpy as np
import pytest
from image_files import jpeg_with_scans, png_file, zeros
from PIL import Image

from ppose.data.image_header import (
    DamagedImageError,
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
    checked,
    read_header,
)
from ppose.data.images import decode_image, read_image


def encoded(kind, size_wh=(37, 21), mode="RGB", **options):
    content = io.BytesIO()
    Image.new(mode, size_wh).save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"comment": b"\xff\xc0" * 20}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": False}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
def test_headers_tell_the_size(kind, options):
    data = encoded(kind, **options)
    header = read_header(data)
    assert (header.format, header.width, header.height) == (kind, 37, 21)
    assert decode_image(data).shape == (21, 37, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_too_many_pixels(kind):
    with pytest.raises(
        ImageTooLargeError, match=f"a {kind} of 37x21 pixels, 777 pixels; at most 7"
    ):
        read_header(encoded(kind), 776)
    assert read_header(encoded(kind), 777)


@pytest.mark.parametrize("kind", ["GIF", "JPEG2000", "AVIF", "PPM", "ICO", "SGI"])
def test_other_formats_are_not_decoded(kind):
    with pytest.raises(ImageFormatError, match="not an image in a known format"):
        decode_image(encoded(kind))


def test_progressive_jpegs_with_too_many_scans_are_not_decoded():
    assert decode_image(jpeg_with_scans(50)).shape == (48, 64, 3)
    with pytest.raises(ImageTooLargeError, match="more than 100 scans"):
        decode_image(jpeg_with_scans(4000))
    # As many pixels as 20 times the limit.
    with pytest.raises(ImageTooLargeError, match="a JPEG of 64x48 pixels with more than 40 scans"):
        decode_image(jpeg_with_scans(50), max_pixels=2 * 64 * 48)


def test_scans_are_counted_in_baseline_jpegs_and_behind_hidden_markers():
    data = encoded("JPEG")
    scan = data[data.rindex(b"\xff\xda") : -2]
    for between in (b"", b"\xff\xd0", b"\xff\x01", b"\xff\xfe\0\x04\xff\xd9", b"garbage\xff\xff"):
        with pytest.raises(ImageTooLargeError, match="scans"):
            decode_image(data[:-2] + (between + scan) * 200 + b"\xff\xd9")


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC9, 0xCA, 0xCF])
def test_rare_jpegs_are_not_decoded(marker):
    data = encoded("JPEG").replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
    with pytest.raises(DamagedImageError, match="lossless, hierarchical or arithmetic"):
        decode_image(data)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt"])
def test_metadata_of_png_files_is_not_inflated(kind):
    between = b"x\0\1\0\0\0" if kind == b"iTXt" else b"x\0\0"
    pixels = (b"IDAT", zeros(1)[:2000])
    bomb = png_file((4, 4), [(kind, between + zeros(7))] * 50 + [pixels])
    header, data = checked(bomb)
    assert (header.width, header.height) == (4, 4)
    assert data == png_file((4, 4), [pixels])


def test_orientation_and_palette_of_a_png_are_kept():
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    image.save(content, "PNG", exif=exif, icc_profile=bytes(200))
    wanted = np.rot90(np.array(image.convert("RGB")), -1)
    np.testing.assert_array_equal(decode_image(content.getvalue()), wanted)


def test_more_compressed_data_than_pixels_is_not_inflated():
    with pytest.raises(DamagedImageError, match="more compressed data than its pixels"):
        decode_image(png_file((1, 1), [(b"IDAT", zeros(2000))]))
    # The same in many chunks, behind pixels of the right size.
    data = zeros(600)
    chunks = [(b"IDAT", data[at : at + 999]) for at in range(0, len(data), 999)]
    with pytest.raises(DamagedImageError, match="more compressed data"):
        decode_image(png_file((2000, 2000), chunks))


def test_large_png_files_are_counted_and_read():
    image = np.random.default_rng(0).integers(0, 256, (700, 800, 3), np.uint8)
    for options in ({}, {"compress_level": 0}):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG", **options)
        assert len(content.getvalue()) > 1_000_000
        np.testing.assert_array_equal(decode_image(content.getvalue()), image)


def test_sizes_that_contradict_the_pixels():
    data = bytearray(encoded("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"))
    assert data[12:16] == b"VP8X"
    data[24] += 1
    with pytest.raises(ImageError):
        decode_image(bytes(data))


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({256: 9, 257: 9, 277: 65535, 258: 16}, "bits per pixel"),
        ({256: 9, 257: 9, 322: 60000, 323: 60000}, "in tiles of"),
        ({257: 9}, "it is a TIFF of 0x9"),
    ],
)
def test_absurd_tiff_files(tags, words):
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    with pytest.raises(DamagedImageError, match=words):
        decode_image(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4))


@pytest.mark.parametrize("name", ["a\ud800.jpg", "a\0.jpg"])
def test_names_that_no_file_has(tmp_path, name):
    with pytest.raises(ImageError, match="not the name of a file") as caught:
        read_image(tmp_path / name)
    assert str(caught.value).isprintable()
