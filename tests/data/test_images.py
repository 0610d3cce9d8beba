"""All image formats become the same RGB pixels, and errors name the file."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ppose.data.images import ImageError, list_images, nearest_path, read_image

WIDTH, HEIGHT = 24, 16


def colours():
    """(16, 24, 3) smooth colours; no two corners alike."""
    corners = np.array([[[250, 20, 30], [20, 240, 40]], [[30, 40, 230], [200, 210, 10]]], np.uint8)
    return cv2.resize(corners, (WIDTH, HEIGHT))


def encoded(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("JPEG", 12)])
def test_red_is_the_first_channel_in_every_format(tmp_path, kind, tolerance):
    path = tmp_path / "a.img"
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    path.write_bytes(encoded(Image.fromarray(colours()), kind, **options))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - colours()).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(colours()).convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.array(image.convert("RGB")))


def test_alpha_is_dropped_not_blended(tmp_path):
    rgba = np.dstack([colours(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colours())


def test_cmyk_jpeg(tmp_path):
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - colours()).max() < 16


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_keep_their_range(tmp_path, channels, extension):
    deep = np.dstack(
        [colours().astype(np.uint16) * 257, np.full((HEIGHT, WIDTH), 65535, np.uint16)]
    )
    stored = deep[..., :1] if channels == 1 else deep[..., [2, 1, 0, 3][:channels]]
    cv2.imwrite(str(tmp_path / f"a{extension}"), stored)
    wanted = colours()[..., [0, 0, 0]] if channels == 1 else colours()
    image = read_image(tmp_path / f"a{extension}")
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_is_applied(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(colours()), kind, exif=exif)
    (tmp_path / "a").write_bytes(content)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    image = read_image(tmp_path / "a", upright.size)
    assert np.abs(image.astype(int) - np.array(upright)).max() <= 12
    np.testing.assert_array_equal(read_image(tmp_path / "a"), image)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_orientation_is_ignored_if_annotations_match_the_stored_pixels(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colours()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", (WIDTH, HEIGHT)), colours())


def test_a_size_other_than_annotated_is_an_error(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: is 24x16, but annotated as 16x24.*keypoints"):
        read_image(tmp_path / "a.png", (HEIGHT, WIDTH))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.5, 0.9, -1])
def test_truncated_files_are_errors(tmp_path, kind, kept):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    (tmp_path / "whole").write_bytes(content)
    assert read_image(tmp_path / "whole").shape == (200, 300, 3)
    (tmp_path / "cut").write_bytes(content[: int(len(content) * kept) if kept > 0 else kept])
    with pytest.raises(
        ImageError,
        match=rf"cut: .*damaged or truncated(: a {kind} of 300x200|; it starts with b.RIFF)",
    ):
        read_image(tmp_path / "cut")


def test_a_file_truncated_in_the_header_is_an_error(tmp_path):
    content = encoded(Image.fromarray(colours()), "JPEG")
    (tmp_path / "a.jpg").write_bytes(content[:20])
    with pytest.raises(ImageError, match=r"a\.jpg: damaged or truncated: this JPEG has no"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404 not found</html>", "not an image in a known format.*<html>"),
        (bytes(1000), "not an image in a known format"),
    ],
)
def test_files_that_are_not_images_are_errors(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.jpg: {reason}"):
        read_image(tmp_path / "a.jpg")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ImageError, match=r"a\.jpg: no such file"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def test_a_decompression_bomb_is_rejected_before_decoding(tmp_path):
    side = 30_000

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    content = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(ImageError, match=r"bomb\.png: too large.*900000000 pixels"):
        read_image(tmp_path / "bomb.png")


def test_unicode_and_special_characters_in_paths(tmp_path):
    folder = tmp_path / "größe 人 [1]"
    folder.mkdir()
    path = folder / "bild №1.png"
    Image.fromarray(colours()).save(path)
    np.testing.assert_array_equal(read_image(str(path)), colours())
    assert list_images(path) == [path]
    assert list_images(folder) == [path]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "a"


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF"]), data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_files_give_pixels_or_an_image_error(scratch, kind, data):
    content = bytearray(encoded(Image.fromarray(colours()), kind))
    # After the size fields, so that no example decodes a huge image.
    offsets = st.integers(64, len(content) - 1)
    for offset, value in data.draw(st.lists(st.tuples(offsets, st.integers(0, 255)), max_size=8)):
        content[offset] = value
    scratch.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        image = read_image(scratch)
    except ImageError as error:
        assert str(scratch) in str(error)
    else:
        assert image.dtype == np.uint8
        assert image.shape[2] == 3


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def names_of(paths):
    return [path.name for path in paths]


def test_a_folder_is_listed_in_natural_order(tmp_path):
    touch(tmp_path, "f10.jpg", "f9.PNG", "F1.jpeg", ".f2.jpg", "notes.txt", "sub/f3.jpg")
    (tmp_path / "f4.jpg").mkdir()
    assert names_of(list_images(tmp_path)) == ["F1.jpeg", "f9.PNG", "f10.jpg"]


def test_glob_patterns(tmp_path):
    touch(tmp_path, "a1.jpg", "a2.txt", "b1.jpg", "sub/a3.webp", "sub/.a4.jpg")
    assert names_of(list_images(f"{tmp_path}/a*")) == ["a1.jpg"]
    assert names_of(list_images(f"{tmp_path}/**/a*")) == ["a1.jpg", "a3.webp"]


def test_a_single_file_needs_no_extension(tmp_path):
    touch(tmp_path, "image")
    assert list_images(str(tmp_path / "image")) == [tmp_path / "image"]


def test_no_images_is_an_error(tmp_path):
    touch(tmp_path, "photo.txt", "holiday.jpg")
    with pytest.raises(ImageError, match=r"has no 'holyday.jpg'; did you mean 'holiday.jpg'"):
        list_images(tmp_path / "holyday.jpg")
    with pytest.raises(ImageError, match=r"\*\.txt: no images.*found 1 other file"):
        list_images(f"{tmp_path}/*.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty: no images \(\.bmp, .*\)$"):
        list_images(tmp_path / "empty")


def test_the_closest_name_is_searched_in_the_deepest_existing_folder(tmp_path):
    touch(tmp_path, "coco/a.json")
    assert nearest_path(tmp_path / "cocoa" / "b" / "a.json").endswith(
        f"{tmp_path} has no 'cocoa'; did you mean 'coco'?"
    )
    assert nearest_path(tmp_path / "xyz").endswith("has no 'xyz'; it contains coco")


def test_a_missing_data_set_names_what_makes_it(tmp_path):
    script = tmp_path / "download_coco.py"
    script.touch()
    missing = nearest_path(tmp_path / "coco" / "val2017")
    assert missing.endswith(f"no 'coco'; python {script} downloads it")
    folder = tmp_path / "synthetic_easy"
    assert nearest_path(folder / "train").endswith(f"ppose synthetic --output {folder} draws it")


def test_what_only_has_the_name_of_an_image_is_counted(tmp_path, capsys):
    touch(tmp_path, "a.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names_of(list_images(tmp_path)) == ["a.jpg"]
    assert "left out: 4 that have the name of an image but are no file, such as" in (
        capsys.readouterr().out
    )
    for name in ("pipe.jpg", "/dev/null"):
        with pytest.raises(ImageError, match="neither an image file nor a folder"):
            list_images(tmp_path / name)


def test_links_in_a_circle_are_not_followed(tmp_path):
    touch(tmp_path, "sub/a.jpg", ".hidden/b.jpg")
    for name in ("one", "two"):
        (tmp_path / "sub" / name).symlink_to(tmp_path)
    assert names_of(list_images(f"{tmp_path}/**")) == ["a.jpg"]
    assert names_of(list_images(f"{tmp_path}/**/*.jpg")) == ["a.jpg"]
    assert names_of(list_images(f"{tmp_path}/.hid*/*.jpg")) == ["b.jpg"]


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b.jpg", "\0*.jpg", "**.jpg", "a" * 5000 + "*"])
def test_a_name_that_no_file_can_have_is_an_error_in_one_line(tmp_path, name):
    with pytest.raises(ImageError) as error:
        list_images(f"{tmp_path}/{name}")
    assert str(error.value).isprintable() and len(str(error.value)) < 500
