"""The real service in a thread, on a free port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import httpx
import numpy as np

from ppose.deploy.service import Limits, make_app, server
from ppose.deploy.service.answers import Error
from ppose.skeleton import COCO17
from ppose.structures import Poses


def one_person(image: np.ndarray, score: float = 0.75) -> Poses:
    """A person in the top left corner whose nose tells the picture's size and first pixel."""
    height, width = image.shape[:2]
    keypoints = np.full((1, 17, 3), 0.5, np.float32)
    keypoints[0, 0] = width, height, image[0, 0, 0] / 255
    return Poses(
        keypoints=keypoints,
        scores=np.array([score], np.float32),
        boxes_xywh=np.array([[0, 0, width, height]], np.float32),
        box_source="test",
        skeleton=COCO17,
    )


class Network:
    """A `find` that a test slows down, stops and breaks; the pictures decide what it finds.

    Attributes:
        sizes: of the batches so far.
        threads: that called it.
        open: batches wait until it is set.
        fail: raises this on pictures for which `bad` is true.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.threads: set[int] = set()
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.fail: BaseException | None = None
        self.bad = lambda image: True

    def __call__(self, images):
        self.sizes.append(len(images))
        self.threads.add(threading.get_ident())
        self.entered.release()
        assert self.open.wait(20)
        if self.fail is not None and any(self.bad(image) for image in images):
            raise self.fail
        return [one_person(image) for image in images]


@contextmanager
def served(find, skeleton=COCO17, **limits) -> Iterator[httpx.Client]:
    """A client of a running service; its attribute `app` is the application."""
    app = make_app(find, skeleton=skeleton, limits=Limits(**limits))
    with server.listen("127.0.0.1", 0) as bound:
        running = server.Server(server.config_of(app))
        thread = threading.Thread(target=running.run, args=([bound],))
        thread.start()
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=20) as client:
                wait_until(lambda: running.started or not thread.is_alive())
                client.app, client.running = app, running
                yield client
        finally:
            running.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def wait_until(holds, seconds: float = 10.0) -> None:
    """Waits for something that another thread or process brings about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not come about"
        time.sleep(0.005)


def picture(width: int = 64, height: int = 48, grey: int = 128, ending: str = ".png") -> bytes:
    """A file of one colour."""
    return encoded(np.full((height, width, 3), grey, np.uint8), ending)


def encoded(image: np.ndarray, ending: str = ".png") -> bytes:
    """A file of an RGB picture."""
    return cv2.imencode(ending, image[..., ::-1])[1].tobytes()


def post(client: httpx.Client, data: bytes, kind: str = "image/png", **options) -> httpx.Response:
    """POST /pose with the picture as the body."""
    headers = {"Content-Type": kind, **options.pop("headers", {})}
    return client.post("/pose", content=data, headers=headers, **options)


def metric(client: httpx.Client, line: str) -> float:
    """The value of a line of /metrics, e.g. 'ppose_queue_length'; 0 where there is none."""
    for text in client.get("/metrics").text.splitlines():
        name, _, value = text.rpartition(" ")
        if name == line:
            return float(value)
    return 0.0


def address(client: httpx.Client) -> tuple[str, int]:
    """Host and port, for a socket."""
    return client.base_url.host, client.base_url.port


def check_error(response: httpx.Response, status: int, code: str) -> str:
    """Checks that an answer is this error, in the one form of errors; gives its message."""
    assert response.status_code == status, response.text
    error = Error.model_validate(response.json()).error
    assert error.code == code
    assert len(error.message) > 10
    return error.message


def head_of(length: int) -> bytes:
    """The head of a POST /pose with so many bytes behind it, for a socket."""
    return (
        "POST /pose HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()
