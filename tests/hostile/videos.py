"""Videos: containers with contradictory headers and sizes, and damaged files of real encoders."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import cv2
import numpy as np

from hostile.harness import Reader
from ppose.deploy.video.frames import FrameReader
from ppose.deploy.video.writer import open_writer

_FRAMES, _PIXELS = 40, 30_000_000  # that are read of a video, which may say that it has billions
_NUMBERS = (0, 1, 2, 3, 7, 8, 25, 255, 256, 4096, 16384, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_CODECS = (b"avc1", b"mp4v", b"raw ", b"rle ", b"png ", b"jpeg", b"mjpa", b"hvc1", b"vp09", b"av01")
_KINDS = {
    "mp4": ("mpeg4", "aac"),
    "mov": ("mjpeg", "pcm_s16le"),
    "avi": ("mpeg4", "libmp3lame"),
    "matroska": ("libx264", "libopus"),
    "webm": ("libvpx", "libopus"),
    "gif": ("gif", None),
    "flv": ("flv", "aac"),
    "mpegts": ("mpeg2video", "mp2"),
    "ogg": ("libvpx", "libopus"),
    "nut": ("ffv1", "pcm_s16le"),
    "apng": ("apng", None),
}
_PICTURE_FORMATS = {"gif": "rgb8", "ffv1": "bgr0", "apng": "rgb24", "mjpeg": "yuvj420p"}


@functools.cache
def _valid(kind: str) -> bytes:
    """A short file of an encoder, with sound where the format has it."""
    codec, sound_codec = _KINDS[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options={"fflags": "bitexact"}) as output:
        options = {"threads": "1", "flags": "+bitexact"}
        options |= {"tune": "zerolatency"} if codec == "libx264" else {}
        video = output.add_stream(codec, rate=10, options=options)
        video.width, video.height = 48, 32
        video.pix_fmt = _PICTURE_FORMATS.get(codec, "yuv420p")
        video.codec_context.time_base = Fraction(1, 10)
        sound = output.add_stream(sound_codec, rate=48000, layout="stereo") if sound_codec else None
        for index in range(12):
            image = np.full((32, 48, 3), 20 * index, np.uint8)
            image[8:24, 3 * index : 3 * index + 12] = (250, 40, 10)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for start in range(0, 48000, 1152) if sound else ():
            assert sound is not None
            size = sound.codec_context.frame_size or 1152
            form = sound.codec_context.format.name
            dtype = {"flt": np.float32, "s16": np.int16, "s32": np.int32}[form[:3]]
            shape = (2, size) if form.endswith("p") else (1, 2 * size)
            frame = av.AudioFrame.from_ndarray(np.ones(shape, dtype), format=form, layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            output.mux(sound.encode(frame))
        if sound:
            output.mux(sound.encode(None))
    return file.getvalue()


def _mutated(rng: random.Random) -> bytes:
    data = bytearray(_valid(rng.choice(list(_KINDS))))
    for _ in range(rng.choice((1, 2, 5, 20, 100))):
        # Headers are at the ends.
        at = rng.randrange(len(data))
        if rng.random() < 0.6:
            at = min(rng.randrange(600), len(data) - 1)
            at = at if rng.random() < 0.5 else len(data) - 1 - at
        match rng.randrange(6):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(_NUMBERS))
            case 2:
                del data[at : at + rng.choice((1, 4, 100, 1000))]
            case 3:
                data[at:at] = data[at : at + rng.choice((1, 8, 300))]
            case 4:
                other = _valid(rng.choice(list(_KINDS)))
                start = rng.randrange(len(other))
                data[at : at + 200] = other[start : start + 200]
            case 5:
                data = data[: max(at, 1)]
        if not data:
            break
    return bytes(data)


def _number(rng: random.Random, usual: int) -> int:
    return usual if rng.random() < 0.7 else rng.choice(_NUMBERS)


def _box(rng: random.Random, name: bytes, content: bytes) -> bytes:
    if rng.random() < 0.04:
        return struct.pack(">I4s", rng.choice(_NUMBERS), name) + content
    if rng.random() < 0.04:
        return (
            struct.pack(">I4sQ", 1, name, rng.choice((*_NUMBERS, 2**63 - 1, 2**64 - 1))) + content
        )
    return struct.pack(">I4s", 8 + len(content), name) + content


def _table(rng: random.Random, rows: int, columns: int) -> bytes:
    count = _number(rng, rows)
    numbers = [_number(rng, rng.choice((1, 10, 48))) for _ in range(rows * columns)]
    return struct.pack(f">II{len(numbers)}I", 0, count, *numbers)


def _mp4(rng: random.Random) -> bytes:
    """ISO base media (ISO 14496-12), with any number wrong."""
    box = functools.partial(_box, rng)
    n = functools.partial(_number, rng)
    side = n(48) % 65536
    codec = rng.choice(_CODECS)
    entry = struct.pack(">6xH16xHH", 1, side, n(32) % 65536) + struct.pack(
        ">IIIH", 72 << 16, 72 << 16, 0, 1
    )
    entry += bytes(32) + struct.pack(">Hh", rng.choice((8, 24, 32)), -1)
    entry += box(
        rng.choice((b"avcC", b"esds", b"pasp", b"colr")), rng.randbytes(rng.choice((0, 4, 40)))
    )
    samples = rng.choice((1, 12, 200))
    tables = [
        box(b"stsd", struct.pack(">II", 0, n(1)) + box(codec, entry)),
        box(b"stts", _table(rng, rng.choice((1, 12)), 2)),
        box(b"stss", _table(rng, 1, 1)),
        box(b"ctts", _table(rng, 3, 2)),
        box(b"stsc", _table(rng, 1, 3)),
        box(
            b"stsz",
            struct.pack(">III", 0, n(0), n(samples))
            + struct.pack(f">{samples}I", *(n(100) for _ in range(samples))),
        ),
        box(rng.choice((b"stco", b"co64")), _table(rng, samples, 1)),
    ]
    rng.shuffle(tables)
    tables = [table for table in tables if rng.random() > 0.05]
    header = struct.pack(">IIIII", 0, 0, 0, n(1000), n(1200))
    stbl = box(b"stbl", b"".join(tables))
    minf = box(b"minf", box(b"vmhd", bytes(12)) + box(b"dinf", box(b"dref", _dref(rng))) + stbl)
    handler = (
        struct.pack(">II4s12x", 0, 0, rng.choice((b"vide", b"vide", b"vide", b"soun", b"text")))
        + b"\0"
    )
    mdia = box(b"mdia", box(b"mdhd", header + bytes(4)) + box(b"hdlr", handler) + minf)
    matrix = struct.pack(">9I", *(n(0x10000) for _ in range(9)))
    tkhd = struct.pack(">IIIIII", 7, 0, 0, n(1), 0, n(1200)) + bytes(16) + matrix
    tkhd += struct.pack(">II", n(48 << 16), n(32 << 16))
    edits = box(b"edts", box(b"elst", _table(rng, rng.choice((1, 3)), 3)))
    trak = box(b"trak", box(b"tkhd", tkhd) + edits + mdia)
    tracks = trak * rng.choice((1, 1, 1, 2, 500))
    moov = box(b"moov", box(b"mvhd", header + bytes(76) + struct.pack(">I", n(2))) + tracks)
    for _ in range(rng.choice((0, 0, 0, 5, 2000))):
        moov = struct.pack(">I4s", 8 + len(moov), rng.choice((b"moov", b"udta", b"trak"))) + moov
    pictures = cv2.imencode(".jpg", np.zeros((32, 48, 3), np.uint8))[1].tobytes() * 20
    parts = [box(b"ftyp", b"isom\0\0\2\0isomiso2mp41"), box(b"mdat", pictures), moov]
    return b"".join(parts if rng.random() < 0.5 else [parts[0], parts[2], parts[1]])


def _dref(rng: random.Random) -> bytes:
    where = rng.choice((b"", b"file:///etc/passwd\0", b"http://127.0.0.1:9/a\0"))
    return struct.pack(">II", 0, 1) + _box(rng, b"url ", struct.pack(">I", int(not where)) + where)


def _avi(rng: random.Random) -> bytes:
    """RIFF AVI, with any number wrong."""
    n = functools.partial(_number, rng)

    def chunk(name: bytes, content: bytes) -> bytes:
        size = len(content) if rng.random() > 0.04 else rng.choice(_NUMBERS)
        return struct.pack("<4sI", name, size) + content + b"\0" * (len(content) % 2)

    codec = rng.choice((b"MJPG", b"DIB ", b"\0\0\0\0", b"XVID", b"H264", b"MPNG", b"cvid", b"IV41"))
    main = struct.pack(
        "<14I", n(40000), n(0), n(0), n(16), n(12), n(0), n(1), n(0), n(48), n(32), *[0] * 4
    )
    head = struct.pack(
        "<4s4sIHHIIIIIIIIHHHH",
        b"vids",
        codec,
        0,
        0,
        0,
        0,
        n(1),
        n(25),
        0,
        n(12),
        n(0),
        n(0),
        n(0),
        0,
        0,
        n(48) % 65536,
        n(32) % 65536,
    )
    form = struct.pack(
        "<IiiHH4sIiiII",
        40,
        _signed(n(48)),
        _signed(n(32)),
        1,
        rng.choice((8, 24, 32)),
        codec,
        n(0),
        0,
        0,
        n(0),
        0,
    )
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", head) + chunk(b"strf", form)) * rng.choice(
        (1, 1, 2, 300)
    )
    picture = cv2.imencode(".jpg", np.zeros((32, 48, 3), np.uint8))[1].tobytes()
    frames = b"".join(
        chunk(rng.choice((b"00dc", b"00db", b"01dc", b"00pc")), picture) for _ in range(12)
    )
    index = b"".join(
        struct.pack("<4sIII", b"00dc", n(16), n(4 + 700 * i), n(700)) for i in range(12)
    )
    content = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + stream)
    content += chunk(b"LIST", b"movi" + frames) + chunk(b"idx1", index)
    return chunk(b"RIFF", b"AVI " + content)


def _signed(number: int) -> int:
    return number - 2**32 if number >= 2**31 else number


def _gif(rng: random.Random) -> bytes:
    """GIF89a with any sizes and many frames."""

    def size() -> int:
        return rng.choice((1, 2, 48, 48, 4096, 20000, 65535))

    data = (
        b"GIF89a"
        + struct.pack("<HHBBB", size(), size(), 0x80, 0, 0)
        + bytes((0, 0, 0, 255, 255, 255))
    )
    if rng.random() < 0.5:
        data += b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    for _ in range(rng.choice((1, 3, 300, 5000))):
        delay = rng.choice((0, 1, 10, 65535))
        data += b"\x21\xf9\x04" + struct.pack("<BHBB", rng.randrange(256), delay, 0, 0)
        data += b"\x2c" + struct.pack("<HHHHB", rng.choice((0, 0, 65535)), 0, size(), size(), 0)
        data += (
            bytes((rng.choice((2, 2, 8, 12, 0)), 2))
            + rng.choice((b"\x4c\x01", rng.randbytes(2)))
            + b"\0"
        )
    return data + b"\x3b" * (rng.random() < 0.8)


def _png(rng: random.Random) -> bytes:
    """A PNG, perhaps animated, that holds more pixels than a file of its size should."""
    width, height = (rng.choice((1, 48, 8192, 20000, 60000, 2**31 - 1)) for _ in range(2))
    lines = zlib.compress(bytes(min(20_000_000, max(height, 1) * (width // 8 + 1))), 9)

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    data = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    )
    count = rng.choice(_NUMBERS)
    if rng.random() < 0.7:
        data += chunk(b"acTL", struct.pack(">II", count, 0))
        data += chunk(
            b"fcTL",
            struct.pack(
                ">IIIIIHHBB",
                0,
                width,
                height,
                0,
                0,
                rng.choice((0, 1, 65535)),
                rng.choice((0, 10)),
                0,
                0,
            ),
        )
    return data + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def _ebml(rng: random.Random) -> bytes:
    """Matroska: elements with wrong sizes and values."""

    def element(name: str, content: bytes) -> bytes:
        size = len(content)
        if rng.random() < 0.05:
            size = rng.choice((0, 1, 2**20, 2**31, 2**55))
        return bytes.fromhex(name) + struct.pack(">Q", size | 1 << 56) + content

    def number(name: str, usual: int) -> bytes:
        return element(name, struct.pack(">Q", _number(rng, usual)))

    head = element(
        "1a45dfa3",
        number("4286", 1) + element("4282", rng.choice((b"matroska", b"webm"))) + number("4287", 4),
    )
    codec = rng.choice(
        (
            b"V_MJPEG",
            b"V_UNCOMPRESSED",
            b"V_VP8",
            b"V_MPEG4/ISO/AVC",
            b"V_MS/VFW/FOURCC",
            b"A_PCM/INT/LIT",
        )
    )
    video = element("e0", number("b0", 48) + number("ba", 32) + number("54b0", 48))
    track = element(
        "ae",
        number("d7", 1)
        + number("73c5", 1)
        + number("83", rng.choice((1, 1, 2)))
        + number("23e383", 40_000_000)
        + element("86", codec)
        + element("63a2", rng.randbytes(rng.choice((0, 10, 40))))
        + video,
    )
    info = element(
        "1549a966",
        number("2ad7b1", 1_000_000)
        + element(
            "4489", struct.pack(">d", rng.choice((1.0, -1.0, float("nan"), float("inf"), 1e300)))
        ),
    )
    picture = cv2.imencode(".jpg", np.zeros((32, 48, 3), np.uint8))[1].tobytes()
    blocks = b"".join(
        element("a3", b"\x81" + struct.pack(">hB", i * 40 % 32768, 0x80) + picture)
        for i in range(12)
    )
    clusters = element("1f43b675", number("e7", 0) + blocks)
    for _ in range(rng.choice((0, 0, 5, 500))):
        track = element(rng.choice(("ae", "e0", "6d80")), track)
    return head + element(
        "18538067", info + element("1654ae6b", track * rng.choice((1, 2, 200))) + clusters
    )


def _text(rng: random.Random) -> bytes:
    """Formats by which a file refers to others, and raw video with a text header."""
    target = rng.choice(
        (
            "/etc/passwd",
            "/dev/zero",
            "file:///etc/passwd",
            "http://127.0.0.1:9/a.ts",
            "a.mp4",
            "concat:a|b",
        )
    )
    width, height = (rng.choice((48, 0, 99999, 2**31)) for _ in range(2))
    return rng.choice((
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{target}'\nduration 10\n" * rng.choice((1, 1000)),
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
        f"a=rtpmap:96 H264/90000\n{target}\n",
        f"YUV4MPEG2 W{width} H{height} F{rng.choice((25, 0))}:{rng.choice((1, 0))} Ip A1:1 C420\n"
        + "FRAME\n" + "x" * 5000,
        f"<?xml version='1.0'?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>",
        f"[Script Info]\nDialogue: 0,{target}\n" * 10,
    )).encode()  # fmt: skip


_FORMS: tuple[Callable[[random.Random], bytes], ...] = (_mp4, _avi, _gif, _png, _ebml, _text)


def _generate(rng: random.Random) -> bytes:
    return _mutated(rng) if rng.random() < 0.4 else rng.choice(_FORMS)(rng)


def _read(path: Path) -> None:
    """Reads frames, and writes them with the sound."""
    with FrameReader(path) as reader, TemporaryDirectory() as folder:
        writer = open_writer(Path(folder, "out.mp4"), reader)
        for batch in reader.batches():
            for frame in batch:
                writer.add(frame.image, frame.time)
            if batch[-1].index >= min(_FRAMES, _PIXELS // batch[0].image[..., 0].size):
                break
        writer.close()


READERS = [Reader("video", ".mp4", _generate, _read)]
