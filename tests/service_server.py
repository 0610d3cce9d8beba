"""The service in a thread on a free local port, and helpers for its tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import httpx
import numpy as np

from ppose.deploy.service import server
from ppose.deploy.service.app import make_app
from ppose.deploy.service.limits import Limits
from ppose.deploy.service.schemas import Error
from ppose.structures import Poses
from ppose.structures.skeleton import COCO17


def one_person(image: np.ndarray, score: float = 0.75) -> Poses:
    """A person whose nose encodes the image's size and first pixel."""
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


class FakeNetwork:
    """A pose estimator that tests can block or let fail.

    Attributes:
        sizes: batch sizes so far.
        threads: ids of the threads that called it.
        open: batches wait until this event is set.
        fail: exception raised for images for which `bad` returns True.
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
def served(estimate, skeleton=COCO17, allowed_hosts=("*",), **limits) -> Iterator[httpx.Client]:
    """A client of a running service, with attributes `app` and `running` (the server)."""
    app = make_app(
        estimate, skeleton=skeleton, limits=Limits(**limits), allowed_hosts=allowed_hosts
    )
    with server.listen("127.0.0.1", 0) as bound:
        running = server.Server(server.uvicorn_config(app))
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


def wait_until(condition, seconds: float = 10.0) -> None:
    """Polls until `condition()` is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.005)


def image_file(width: int = 64, height: int = 48, grey: int = 128, ending: str = ".png") -> bytes:
    """An image file with a single colour."""
    return encoded(np.full((height, width, 3), grey, np.uint8), ending)


def encoded(image: np.ndarray, ending: str = ".png") -> bytes:
    """An RGB image as a file."""
    return cv2.imencode(ending, image[..., ::-1])[1].tobytes()


def post(client: httpx.Client, data: bytes, kind: str = "image/png", **options) -> httpx.Response:
    """POST /pose with the image as the body."""
    headers = {"Content-Type": kind, **options.pop("headers", {})}
    return client.post("/pose", content=data, headers=headers, **options)


def metric(client: httpx.Client, line: str) -> float:
    """The value of a line of /metrics, such as 'ppose_queue_length'; 0 if it is missing."""
    for text in client.get("/metrics").text.splitlines():
        name, _, value = text.rpartition(" ")
        if name == line:
            return float(value)
    return 0.0


def address(client: httpx.Client) -> tuple[str, int]:
    """Host and port, for a socket."""
    return client.base_url.host, client.base_url.port


def check_error(response: httpx.Response, status: int, code: str) -> str:
    """Checks status, code and form of an error response; returns its message."""
    assert response.status_code == status, response.text
    error = Error.model_validate(response.json()).error
    assert error.code == code
    assert len(error.message) > 10
    return error.message


def head_of(length: int) -> bytes:
    """The head of a POST /pose request with a body of this length, for a socket."""
    return (
        "POST /pose HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()
