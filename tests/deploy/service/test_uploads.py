"""Uploads that are too large, too slow, damaged, malicious, or not images."""

import io
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import jpeg_with_scans
from service_server import (
    FakeNetwork,
    address,
    check_error,
    encoded,
    head_of,
    image_file,
    metric,
    post,
    served,
    wait_until,
)

from ppose.data.images import read_image
from ppose.deploy.service import server

LIMITS = {"max_bytes": 100_000, "max_pixels": 250_000, "upload_timeout": 0.5}


@pytest.fixture(scope="module")
def client():
    with served(FakeNetwork(), **LIMITS) as client:
        yield client


def noise(size):
    """A PNG of about this many bytes."""
    side = max(int((size / 3) ** 0.5), 1)
    return encoded(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def png(width, height, pixels=b"", text=b""):
    """A PNG with the given size in its header, and optionally a compressed comment."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(text)) if text else b""
    body = (
        chunk(b"IHDR", header)
        + comment
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def bmp(width, height):
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
    )  # fmt: skip


def webp(width, height):
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + sides + image_file(ending=".webp")[12:]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg(width, height):
    data = bytearray(image_file(ending=".jpg"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def test_largest_allowed_upload(client):
    data = image_file(500, 500)
    room = LIMITS["max_bytes"] - len(data)
    # Trailing bytes are not part of the image, but count.
    assert post(client, data + bytes(room)).status_code == 200
    assert client.post("/pose", files={"image": data + bytes(room)}).status_code == 200


@pytest.mark.parametrize("kind", ["raw", "chunked", "form", "chunked form"])
def test_too_many_bytes(client, kind):
    data = image_file() + bytes(LIMITS["max_bytes"])
    if "form" in kind:
        request = client.build_request("POST", "/pose", files={"image": data})
        content, headers = request.read(), request.headers
        content_type = headers["content-type"]
    else:
        content, content_type = data, "image/png"
    if "chunked" in kind:
        content = iter([content[i : i + 9000] for i in range(0, len(content), 9000)])
    response = client.post("/pose", content=content, headers={"Content-Type": content_type})
    assert "at most 100000" in check_error(response, 413, "too_many_bytes")


def test_content_length_is_rejected_before_the_body(client):
    head = (
        "POST /pose HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {10**12}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(address(client)) as connection:
        connection.settimeout(5)
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer
    assert b"connection: close" in answer.lower()


def test_error_response_during_an_upload(client):
    """The server keeps reading for a while; closing the connection would lose the response."""
    with socket.create_connection(address(client)) as connection:
        connection.settimeout(5)
        connection.sendall(head_of(90_000).replace(b"image/png", b"text/plain"))
        for _ in range(9):
            connection.sendall(bytes(10_000))
            time.sleep(0.005)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 415 ")
        assert b"connection: close" not in answer
        data = image_file()
        connection.sendall(head_of(len(data)) + data)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("make", "size_wh"),
    [(make, size_wh) for make in (png, bmp, jpeg) for size_wh in ((501, 500), (16_000, 16_000))]
    + [(webp, (16_000, 16_000)), (webp, (1 << 24, 255))],
)
def test_too_many_pixels(client, make, size_wh):
    message = check_error(post(client, make(*size_wh)), 413, "too_many_pixels")
    assert "at most 250000 pixels" in message


def test_zip_bomb_is_not_decompressed(client):
    """40 MB of zeros in 40 kB are rejected by the header alone."""
    data = png(5000, 2700, bytes(40_000_000))
    assert len(data) < LIMITS["max_bytes"]
    assert "5000x2700" in check_error(post(client, data), 413, "too_many_pixels")


def test_zip_bomb_in_a_comment(client):
    assert post(client, png(1, 1, bytes(4), text=bytes(100))).status_code == 200
    # It is not inflated.
    assert post(client, png(1, 1, bytes(4), text=bytes(20_000_000))).status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "", "video/mp4"])
def test_wrong_content_type(client, content_type):
    message = check_error(post(client, image_file(), content_type), 415, "content_type")
    assert "multipart/form-data" in message


def test_no_content_type(client):
    check_error(client.post("/pose", content=image_file()), 415, "content_type")


def test_content_encoding(client):
    response = post(client, image_file(), headers={"Content-Encoding": "gzip"})
    check_error(response, 415, "encoding")


@pytest.mark.parametrize(
    "data", [b"GIF89a" + bytes(50), b"%PDF-1.7", b"hello", bytes(100), b"RIFF\0\0\0\0WAVE"]
)
def test_not_an_image(client, data):
    check_error(post(client, data), 415, "no_picture")


def test_empty(client):
    check_error(post(client, b""), 422, "empty")
    check_error(client.post("/pose", files={"image": ("x.png", b"")}), 422, "empty")


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_truncated_files(client, ending, part):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    data = encoded(image, ending)
    check_error(post(client, data[: max(int(part * len(data)), 16)]), 422, "damaged")


def form(*parts, boundary="b", end=True):
    text = b"".join(b"--b\r\n%b\r\n\r\n%b\r\n" % (head.encode(), body) for head, body in parts)
    kind = f"multipart/form-data; boundary={boundary}" if boundary else "multipart/form-data"
    return {"content": text + (b"--b--\r\n" if end else b""), "headers": {"Content-Type": kind}}


IMAGE = 'Content-Disposition: form-data; name="image"; filename="x.png"'


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (form(boundary=""), "boundary"),
        (form((IMAGE, image_file()), end=False)["content"][:-20], "no field 'image'"),
        (form(("Content-Disposition: form-data; name=other", b"x")), "unknown field 'other'"),
        (form(("Content-Disposition: form-data; name=image", b"x")), "no file in its field"),
        (form(("X: y", b"x")), "name"),
        (form((IMAGE, image_file()), (IMAGE, image_file())), "Too many files"),
        (form((IMAGE, image_file()), boundary="c"), "invalid form"),
        (form((IMAGE, image_file()), boundary="x" * 300), "invalid form"),
        (form(*[("Content-Disposition: form-data; name=a", b"x")] * 20), "Too many fields"),
        (form(("Content-Disposition: form-data; name=a", bytes(80_000))), "maximum size"),
        (form(("A: b\r\n" * 20 + IMAGE, image_file())), "invalid form"),
    ],
)
def test_invalid_forms(client, options, words):
    if isinstance(options, bytes):
        options = {"content": options, "headers": form()["headers"]}
    assert words in check_error(client.post("/pose", **options), 422, "form")


def test_slow_upload(client):
    with socket.create_connection(address(client)) as connection:
        connection.settimeout(5)
        connection.sendall(head_of(500) + image_file()[:50])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"slow_upload"' in answer


def test_disconnect_during_upload(client):
    line = 'ppose_requests_total{path="/pose",status="499"}'
    before = metric(client, line)
    with socket.create_connection(address(client)) as connection:
        connection.sendall(head_of(500) + image_file()[:50])
        wait_until(lambda: len(client.app.state.service.uploads) == 1)
        assert metric(client, "ppose_uploads") == 1
    wait_until(lambda: metric(client, line) == before + 1)
    assert not client.app.state.service.uploads


SEEDS = {
    ending: encoded(read_image(ROOT / "dataset/test_image/room.jpg")[:64, :64], ending)
    for ending in (".jpg", ".png", ".webp", ".bmp", ".tiff")
}


@settings(max_examples=60, deadline=None)
@given(
    ending=st.sampled_from(sorted(SEEDS)),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), max_size=8),
    extra=st.binary(max_size=20),
    as_form=st.booleans(),
)
def test_mutated_images(client, ending, cut, flips, extra, as_form):
    """The response is a success or a client error, never a failure of the service."""
    data = bytearray(SEEDS[ending])
    for position, bit in flips:
        data[int(position * len(data))] ^= 1 << bit
    data = bytes(data[: int(cut * len(data))]) + extra
    response = client.post("/pose", files={"image": data}) if as_form else post(client, data)
    assert response.status_code in (200, 413, 415, 422), response.text
    assert ("error" in response.json()) == (response.status_code != 200)


@settings(max_examples=60, deadline=None)
@given(positions=st.lists(st.floats(0, 0.999), min_size=1, max_size=6), value=st.integers(0, 255))
def test_mutated_forms(client, positions, value):
    body = bytearray(form((IMAGE, image_file(8, 8)))["content"])
    for position in positions:
        body[int(position * len(body))] = value
    response = client.post("/pose", content=bytes(body), headers=form()["headers"])
    assert response.status_code in (200, 413, 415, 422), response.text


def test_heads_that_are_not_http(client):
    for text in (b"\0\0\0", b"GET\r\n\r\n", b"POST /pose HTTP/1.1\r\nContent-Length: -1\r\n\r\n"):
        with socket.create_connection(address(client)) as connection:
            connection.settimeout(5)
            connection.sendall(text + b"\r\n\r\n")
            answer = io.BytesIO(b"".join(iter(lambda: connection.recv(65536), b""))).readline()
        assert b" 400 " in answer
    assert post(client, image_file()).status_code == 200


def test_progressive_jpeg_with_thousands_of_scans(client):
    assert post(client, jpeg_with_scans(50)).status_code == 200
    assert "scans" in check_error(post(client, jpeg_with_scans(4000)), 413, "too_many_pixels")


def test_slow_decoding_ends():
    data = jpeg_with_scans(90, (1500, 1500))
    with served(FakeNetwork(), decode_timeout=0.05) as client:
        for _ in range(3):
            check_error(post(client, data), 413, "too_slow")
        assert post(client, image_file()).status_code == 200


def test_decoders_that_end_are_replaced(client):
    decoders = client.app.state.service._decoders
    for decoder in decoders._all:
        decoder._process.kill()
    wait_until(lambda: not any(decoder.alive for decoder in decoders._all))
    assert post(client, image_file()).status_code == 200
    wait_until(lambda: all(decoder.alive for decoder in decoders._all))
    assert len(decoders._all) == decoders._count


def test_clients_that_leave_free_their_decoder():
    data = jpeg_with_scans(90, (1500, 1500))
    with served(FakeNetwork()) as client:
        for _ in range(4):
            with socket.create_connection(address(client)) as connection:
                connection.sendall(head_of(len(data)) + data)
                wait_until(lambda: client.app.state.service.queue == 1)
            wait_until(lambda: client.app.state.service.queue == 0)
        assert post(client, image_file()).status_code == 200
        wait_until(lambda: not client.app.state.service._decoders._releases)


def test_slow_uploads_leave_room():
    data = image_file()
    with served(FakeNetwork(), max_uploads=8) as client:
        slow = [socket.create_connection(address(client)) for _ in range(32)]
        for connection in slow:
            connection.sendall(head_of(500) + data[:20])
        wait_until(lambda: len(client.app.state.service.uploads) >= 4)
        time.sleep(0.6)
        assert [post(client, data).status_code for _ in range(40)] == [200] * 40
        assert client.app.state.service.queue == 0
        for connection in slow:
            connection.close()


def test_too_many_uploads():
    with served(FakeNetwork(), max_uploads=8) as client:
        busy = [socket.create_connection(address(client)) for _ in range(4)]
        for connection in busy:
            connection.sendall(head_of(10_000_000) + bytes(1_000_000))
        wait_until(lambda: len(client.app.state.service.uploads) == 4)
        response = post(client, image_file())
        message = check_error(response, 429, "too_many_uploads")
        assert "at most 4 and 8" in message and response.headers["retry-after"] == "1"
        for connection in busy:
            connection.close()
        wait_until(lambda: not client.app.state.service.uploads)
        assert post(client, image_file()).status_code == 200


def test_errors_repeat_little(client):
    response = post(client, image_file(), headers={"Content-Encoding": "x" * 9000})
    assert len(check_error(response, 415, "encoding")) < 600
    check_error(client.get("/poses?" + "a&" * 2000), 414, "query")


def test_pipelined_requests_are_not_answered(client):
    """A client could have thousands answered that it does not read."""
    with socket.create_connection(address(client)) as connection:
        connection.settimeout(5)
        connection.sendall(b"GET /skeleton HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200") == 1


def test_content_length_with_transfer_encoding(client):
    with socket.create_connection(address(client)) as connection:
        connection.settimeout(5)
        connection.sendall(head_of(5)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ") and b'"framing"' in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_a_connection_that_takes_long_to_parse_reads_little_and_pauses(monkeypatch):
    monkeypatch.setattr(server, "_READ_SECONDS", -1.0)  # as if each read took too long
    sizes = []
    read_on = server._Protocol._read_on

    def counted(protocol):
        sizes.append(protocol._read_size)
        read_on(protocol)

    monkeypatch.setattr(server._Protocol, "_read_on", counted)
    data = image_file()
    chunks = (data[at : at + 1] for at in range(len(data)))
    with served(FakeNetwork()) as client:
        found = client.post("/pose", content=chunks, headers={"Content-Type": "image/png"})
    assert found.status_code == 200
    assert sizes and sizes[0] == server._READ_SIZES[1] // 2
