"""Pictures of every kind become the same RGB bytes, and what cannot be used is named."""

import io
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


def picture():
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
    path.write_bytes(encoded(Image.fromarray(picture()), kind, **options))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture()).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(picture()).convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.array(image.convert("RGB")))


def test_alpha_is_dropped_not_blended(tmp_path):
    rgba = np.dstack([picture(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture())


def test_cmyk_jpeg(tmp_path):
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - picture()).max() < 16


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_keep_their_range(tmp_path, channels, extension):
    deep = np.dstack(
        [picture().astype(np.uint16) * 257, np.full((HEIGHT, WIDTH), 65535, np.uint16)]
    )
    stored = deep[..., :1] if channels == 1 else deep[..., [2, 1, 0, 3][:channels]]
    cv2.imwrite(str(tmp_path / f"a{extension}"), stored)
    wanted = picture()[..., [0, 0, 0]] if channels == 1 else picture()
    image = read_image(tmp_path / f"a{extension}")
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_is_applied(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(picture()), kind, exif=exif)
    (tmp_path / "a").write_bytes(content)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    image = read_image(tmp_path / "a", upright.size)
    assert np.abs(image.astype(int) - np.array(upright)).max() <= 12
    np.testing.assert_array_equal(read_image(tmp_path / "a"), image)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_orientation_is_left_where_annotations_lie_on_the_stored_pixels(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", (WIDTH, HEIGHT)), picture())


def test_another_size_than_annotated(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: is 24x16, but annotated as 16x24.*keypoints"):
        read_image(tmp_path / "a.png", (HEIGHT, WIDTH))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.5, 0.9, -1])
def test_truncated(tmp_path, kind, kept):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    (tmp_path / "whole").write_bytes(content)
    assert read_image(tmp_path / "whole").shape == (200, 300, 3)
    (tmp_path / "cut").write_bytes(content[: int(len(content) * kept) if kept > 0 else kept])
    with pytest.raises(
        ImageError,
        match=rf"cut: .*damaged or cut short(: a {kind} of 300x200|; it starts with b.RIFF)",
    ):
        read_image(tmp_path / "cut")


def test_only_a_header_is_left(tmp_path):
    content = encoded(Image.fromarray(picture()), "JPEG")
    (tmp_path / "a.jpg").write_bytes(content[:20])
    with pytest.raises(ImageError, match=r"a\.jpg: not a picture"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404 not found</html>", "not a picture in a known format.*<html>"),
        (bytes(1000), "not a picture in a known format"),
    ],
)
def test_no_picture(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.jpg: {reason}"):
        read_image(tmp_path / "a.jpg")


def test_no_file(tmp_path):
    with pytest.raises(ImageError, match=r"a\.jpg: no such file"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
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


def test_any_path(tmp_path):
    folder = tmp_path / "größe 人 [1]"
    folder.mkdir()
    path = folder / "bild №1.png"
    Image.fromarray(picture()).save(path)
    np.testing.assert_array_equal(read_image(str(path)), picture())
    assert list_images(path) == [path]
    assert list_images(folder) == [path]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "a"


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF"]), data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damage_gives_pixels_or_an_image_error(scratch, kind, data):
    content = bytearray(encoded(Image.fromarray(picture()), kind))
    # Beyond the fields of the size, so that no example decodes a huge picture.
    places = st.integers(64, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        content[place] = value
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


def test_a_folder_is_listed_by_number(tmp_path):
    touch(tmp_path, "f10.jpg", "f9.PNG", "F1.jpeg", ".f2.jpg", "notes.txt", "sub/f3.jpg")
    (tmp_path / "f4.jpg").mkdir()
    assert names_of(list_images(tmp_path)) == ["F1.jpeg", "f9.PNG", "f10.jpg"]


def test_patterns(tmp_path):
    touch(tmp_path, "a1.jpg", "a2.txt", "b1.jpg", "sub/a3.webp", "sub/.a4.jpg")
    assert names_of(list_images(f"{tmp_path}/a*")) == ["a1.jpg"]
    assert names_of(list_images(f"{tmp_path}/**/a*")) == ["a1.jpg", "a3.webp"]


def test_a_named_file_needs_no_extension(tmp_path):
    touch(tmp_path, "picture")
    assert list_images(str(tmp_path / "picture")) == [tmp_path / "picture"]


def test_nothing_to_list(tmp_path):
    touch(tmp_path, "photo.txt", "holiday.jpg")
    with pytest.raises(ImageError, match=r"has no 'holyday.jpg'; did you mean 'holiday.jpg'"):
        list_images(tmp_path / "holyday.jpg")
    with pytest.raises(ImageError, match=r"\*\.txt: no picture.*found 1 other file"):
        list_images(f"{tmp_path}/*.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty: no picture \(\.bmp, .*\)$"):
        list_images(tmp_path / "empty")


def test_the_nearest_path_starts_at_the_deepest_folder(tmp_path):
    touch(tmp_path, "coco/a.json")
    assert nearest_path(tmp_path / "cocoa" / "b" / "a.json").endswith(
        f"{tmp_path} has no 'cocoa'; did you mean 'coco'?"
    )
    assert nearest_path(tmp_path / "xyz").endswith("has no 'xyz'; it holds coco")
