"""HTTP service under attack: how long other clients wait.

    python benchmarks/attacks.py [--model_dir DIR] [--seconds 8] [--attack NAME ...] [--json FILE]

Starts deploy/serve.py in a process. Attackers in another process use it in the worst ways that are
known, while two clients send a photograph again and again, and another asks for /healthz. All come
from one address, so that no limit by address protects the clients, but for attacks in hundreds of
connections. Prints for each attack the answers to the attackers, and the clients' waiting times;
exits with 1 if a client was refused or waited for more than a second.
"""

from __future__ import annotations

import io
import multiprocessing
import queue
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from report import ROOT, parser, report
from service import IMAGES, exported, running

sys.path.insert(0, str(ROOT / "tests"))

from image_files import jpeg_with_scans, png_file, zeros

SIDE = 5000  # pixels; as many as the service allows
LONGEST_WAIT = 1.0  # seconds


def head(length: int | None, kind: str = "image/jpeg", more: str = "") -> bytes:
    """The head of a POST /pose request; None for a chunked body."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = ["POST /pose HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", size]
    return ("\r\n".join(lines) + f"\r\n{more}\r\n").encode()


class Connection:
    """A connection of an attacker, which is opened again when it is closed."""

    def __init__(self, port: int, answers: multiprocessing.Queue, address: str):
        self.port, self.answers, self.address = port, answers, address
        self.socket: socket.socket | None = None

    def open(self) -> socket.socket:
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), 30, (self.address, 0))
        return self.socket

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def ask(self, request: bytes) -> None:
        """Sends a request and reads the answer."""
        try:
            connection = self.open()
            connection.sendall(request)
            answer = connection.recv(1 << 16)
            while b"\r\n\r\n" in answer and len(answer) < _length(answer):
                answer += connection.recv(1 << 16)
            self.answers.put(answer[9:12].decode() or "closed")
            if b"connection: close" in answer or not answer:
                self.close()
        except OSError:
            self.answers.put("closed")
            self.close()
            time.sleep(0.01)


def _length(answer: bytes) -> int:
    top, _, _ = answer.partition(b"\r\n\r\n")
    for line in top.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return len(top) + 4 + int(line[15:])
    return 0


@dataclass(frozen=True)
class Upload:
    """Uploads the same file again and again."""

    make: Callable[[], bytes]

    def __call__(self, connection: Connection) -> None:
        data = self.make()
        connection.ask(head(len(data)) + data)


@cache
def many_scans() -> bytes:
    return jpeg_with_scans(4000, (SIDE, SIDE))


@cache
def allowed_scans() -> bytes:
    return jpeg_with_scans(10, (SIDE, SIDE))


@cache
def noise_jpeg() -> bytes:
    """A progressive JPEG that takes long to decode, of almost as many bytes as are allowed."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG", progressive=True, quality=75)
    return content.getvalue()


@cache
def deep_png() -> bytes:
    """16 bits and alpha."""
    image = np.zeros((SIDE, SIDE, 4), np.uint16)
    image[::7, ::5] = 40_000
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


@cache
def hidden_pixels() -> bytes:
    """A PNG with 10 GB of zeros behind its pixels."""
    return png_file((2000, 2000), [(b"IDAT", zeros(10_000))])


@cache
def comments() -> bytes:
    return png_file((1, 1), [(b"zTXt", b"x\0\0" + zeros(7))] * 1000 + [(b"IDAT", zeros(1))])


@cache
def narrow() -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (65_000, 380, 3), np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1].tobytes()


@cache
def crowd() -> bytes:
    tiles = np.tile(cv2.resize(cv2.imread(str(IMAGES[0])), (160, 120)), (12, 12, 1))
    return cv2.imencode(".jpg", tiles)[1].tobytes()


@cache
def tiff_strips() -> bytes:
    """A deflated TIFF of the largest size."""
    packed = zlib.compress(bytes(SIDE * SIDE * 3), 1)
    values = {256: SIDE, 257: SIDE, 259: 8, 262: 2, 273: 8, 277: 3, 278: SIDE, 279: len(packed)}
    values[258] = 8
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in sorted(values.items()))
    start = 8 + len(packed)
    return (
        b"II*\0"
        + struct.pack("<I", start)
        + packed
        + struct.pack("<H", len(values))
        + entries
        + bytes(4)
    )


def leave(connection: Connection) -> None:
    """Uploads an image that takes long, and leaves."""
    data = noise_jpeg()
    with suppress(OSError):
        connection.open().sendall(head(len(data)) + data)
        time.sleep(0.02)
    connection.close()


def drip(connection: Connection) -> None:
    """Uploads one byte a second."""
    try:
        new = connection.socket is None
        connection.open().sendall(head(1_000_000) + IMAGES[0].read_bytes()[:9] if new else b"x")
        time.sleep(1)
    except OSError:
        connection.answers.put("closed")
        connection.close()


def drip_head(connection: Connection) -> None:
    """Sends a head slowly."""
    try:
        new = connection.socket is None
        connection.open().sendall(b"GET / HTTP/1.1\r\nX: " if new else b"x")
        time.sleep(1)
    except OSError:
        connection.answers.put("closed")
        connection.close()


def never_read(connection: Connection) -> None:
    """Asks for much and reads nothing."""
    try:
        connection.open().settimeout(1)
        connection.open().sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200)
    except TimeoutError:
        time.sleep(1)
    except OSError:
        connection.answers.put("closed")
        connection.close()


def tiny_chunks(connection: Connection) -> None:
    """A body in chunks of one byte."""
    connection.ask(head(None) + b"1\r\nx\r\n" * 2_000_000 + b"0\r\n\r\n")


def line_breaks(connection: Connection) -> None:
    """A form that looks like boundaries everywhere."""
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    body += b"\r\n--" * 4_000_000 + b"\r\n--b--\r\n"
    connection.ask(head(len(body), "multipart/form-data; boundary=b") + body)


def pipelined(connection: Connection) -> None:
    """Many small requests at once."""
    connection.ask(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)


def parameters(connection: Connection) -> None:
    """Many query parameters."""
    query = b"a&" * 6000
    connection.ask(b"POST /pose?" + query + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")


def headers(connection: Connection) -> None:
    """Many headers."""
    connection.ask(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"a:b\r\n" * 3000 + b"\r\n")


def no_http(connection: Connection) -> None:
    connection.ask(b"\x16\x03\x01" * 1000 + b"\r\n\r\n")


@dataclass(frozen=True)
class Attack:
    """What an attacker does in each of some connections."""

    step: Callable[[Connection], None] | None
    connections: int = 1
    address: str = "127.0.0.1"


ATTACKS = {
    "none": Attack(None, 0),
    "JPEG of 4000 scans": Attack(Upload(many_scans), 2),
    "JPEG of 20 scans, 25 MP": Attack(Upload(allowed_scans)),
    "JPEG of noise, 25 MP": Attack(Upload(noise_jpeg)),
    "the same, 8 at once": Attack(Upload(noise_jpeg), 8),
    "the same, and leaves": Attack(leave),
    "PNG of 16 bits, 25 MP": Attack(Upload(deep_png)),
    "PNG with 10 GB behind": Attack(Upload(hidden_pixels)),
    "PNG with 7 GB of text": Attack(Upload(comments)),
    "TIFF of 25 MP": Attack(Upload(tiff_strips)),
    "image of 380x65000": Attack(Upload(narrow)),
    "image of a crowd": Attack(Upload(crowd)),
    "32 uploads, 1 byte/s": Attack(drip, 32),
    "600 heads, 1 byte/s": Attack(drip_head, 600, "127.0.0.9"),
    "520 that never read": Attack(never_read, 520, "127.0.0.9"),
    "chunks of 1 byte": Attack(tiny_chunks),
    "form of line breaks": Attack(line_breaks),
    "pipelined requests": Attack(pipelined),
    "6000 parameters": Attack(parameters),
    "3000 headers": Attack(headers),
    "no HTTP": Attack(no_http),
}


def attackers(name: str, port: int, answers: multiprocessing.Queue, ready: Event) -> None:
    """Attacks until the process is killed."""
    attack = ATTACKS[name]
    if isinstance(attack.step, Upload):
        attack.step.make()
    ready.set()

    def run() -> None:
        connection = Connection(port, answers, attack.address)
        while attack.step is not None:
            attack.step(connection)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(attack.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(port: int, seconds: float) -> dict[str, Any]:
    """Waiting times of clients that are not attackers."""
    photo = IMAGES[0].read_bytes()
    pose = head(len(photo), more="Connection: close\r\n") + photo
    health = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    waits: dict[bytes, list[float]] = {pose: [], health: []}
    statuses: Counter[str] = Counter()
    end = time.perf_counter() + seconds

    def client(request: bytes) -> None:
        while time.perf_counter() < end:
            started = time.perf_counter()
            try:
                with socket.create_connection(("127.0.0.1", port), 60) as connection:
                    connection.settimeout(60)
                    connection.sendall(request)
                    answer = b"".join(iter(lambda c=connection: c.recv(1 << 16), b""))
                status = answer[9:12].decode() or "closed"
            except OSError as error:
                status = type(error).__name__
            waits[request].append(time.perf_counter() - started)
            statuses[status] += request is pose or status != "200"
            time.sleep(0.05)

    threads = [threading.Thread(target=client, args=(r,)) for r in (pose, pose, health)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = sum(count for status, count in statuses.items() if status != "200")
    return {
        "clients": statuses["200"],
        "refused": refused,
        "median s": float(np.median(waits[pose])),
        "longest s": max(waits[pose]),
        "health s": max(waits[health]),
    }


def row(name: str, port: int, seconds: float) -> dict[str, Any]:
    answers: multiprocessing.Queue = multiprocessing.Queue()
    ready = multiprocessing.Event()
    process = multiprocessing.Process(
        target=attackers, args=(name, port, answers, ready), daemon=True
    )
    process.start()
    try:
        ready.wait()
        time.sleep(1)
        measured = measure(port, seconds)
    finally:
        process.kill()
        process.join()
    found: Counter[str] = Counter()
    with suppress(queue.Empty):
        while True:
            found[answers.get(timeout=0.1)] += 1
    text = "  ".join(f"{status}: {count}" for status, count in sorted(found.items()))
    connections = ATTACKS[name].connections
    return {"attack": name, "connections": connections, **measured, "answers": text or "none"}


def main() -> int:
    """Runs the attacks and prints the table."""
    options = parser(__doc__)
    options.add_argument("--model_dir", type=Path, help="default: configs/imhn_quickstart.yml")
    options.add_argument("--det_model_dir", type=Path)
    options.add_argument("--backend", default="onnxruntime")
    options.add_argument("--threads", type=int, default=1, help="of the network; default: 1")
    options.add_argument("--seconds", type=float, default=8, help="of each attack")
    options.add_argument("--attack", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    args = options.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model_dir = args.model_dir or exported(Path(folder) / "bundle")
        with running(args, model_dir) as service:
            measure(service.port, 1)
            for name in args.attack:
                rows.append(row(name, service.port, args.seconds))
                print(rows[-1], flush=True)
            started = time.perf_counter()
    print(f"SIGTERM took {time.perf_counter() - started:.1f} s\n")
    report(rows, args.json)
    return int(any(r["refused"] or r["longest s"] > LONGEST_WAIT for r in rows))


if __name__ == "__main__":
    sys.exit(main())
