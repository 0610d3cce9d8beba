"""Batching: shared runs of the network, waiting times, queue limits, and failures."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from service_server import (
    FakeNetwork,
    address,
    check_error,
    head_of,
    image_file,
    metric,
    one_person,
    post,
    served,
    wait_until,
)

from ppose.deploy.service.app import make_app
from ppose.deploy.service.batching import Batcher, NetworkError, WorkerStoppedError
from ppose.structures.skeleton import COCO17

BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def network():
    return FakeNetwork()


@pytest.fixture
def batcher(network):
    """A batcher that is not started yet."""
    made = Batcher(network, max_batch=4, max_wait=0.05, coming=lambda: 0)
    yield made
    network.open.set()
    made.stop(10)


def pool(client, count, make=image_file):
    """Posts several images concurrently; returns futures of the responses."""
    threads = ThreadPoolExecutor(count)
    return [threads.submit(post, client, make()) for _ in range(count)]


def queue_of(client):
    return client.app.state.service.queue


class TestBatcher:
    def test_queued_images_form_batches(self, network, batcher):
        futures = [batcher.submit(BLACK) for _ in range(9)]
        batcher.start()
        for future in futures:
            assert len(future.result(5).poses) == 1
        assert network.sizes == [4, 4, 1]
        assert len(network.threads) == 1

    def test_results_are_in_order(self, batcher):
        images = [np.full((8, 8 + i, 3), i, np.uint8) for i in range(7)]
        futures = [batcher.submit(image) for image in images]
        batcher.start()
        for future, image in zip(futures, images, strict=True):
            expected = one_person(image).keypoints
            np.testing.assert_array_equal(future.result(5).poses.keypoints, expected)

    def test_waits_for_expected_images(self, network):
        coming = 3
        batcher = Batcher(network, max_batch=3, max_wait=10, coming=lambda: coming)
        batcher.start()
        futures = []
        for _ in range(3):
            futures.append(batcher.submit(BLACK))
            time.sleep(0.01)
        for future in futures:
            future.result(5)
        assert network.sizes == [3]
        batcher.stop(5)

    def test_max_wait(self, network):
        batcher = Batcher(network, max_batch=8, max_wait=0.02, coming=lambda: 1)
        batcher.start()
        assert batcher.submit(BLACK).result(5).waited >= 0.02
        batcher.stop(5)

    def test_does_not_wait_without_expected_images(self, network):
        batcher = Batcher(network, max_batch=8, max_wait=30, coming=lambda: 0)
        batcher.start()
        batcher.submit(BLACK).result(5)
        batcher.stop(5)

    def test_cancelled_images_are_skipped(self, network, batcher):
        futures = [batcher.submit(BLACK) for _ in range(6)]
        for future in futures[:5]:
            assert future.cancel()
        batcher.start()
        futures[5].result(5)
        assert sum(network.sizes) == 1

    def test_one_bad_image_fails_alone(self, network, batcher):
        network.fail, network.bad = ValueError("bad image"), lambda image: image[0, 0, 0] == 1
        futures = [batcher.submit(BLACK + (i == 2)) for i in range(4)]
        batcher.start()
        with pytest.raises(NetworkError):
            futures[2].result(5)
        assert [len(futures[i].result(5).poses) for i in (0, 1, 3)] == [1, 1, 1]
        assert batcher.alive

    def test_missing_results_are_a_failure(self):
        batcher = Batcher(lambda images: [], max_batch=4, max_wait=0)
        batcher.start()
        with pytest.raises(NetworkError):
            batcher.submit(BLACK).result(5)
        batcher.stop(5)

    def test_results_are_not_mixed_up(self):
        batcher = Batcher(lambda images: [one_person(images[0])], max_batch=4, max_wait=0)
        futures = [batcher.submit(BLACK + i) for i in range(4)]
        batcher.start()
        for i, future in enumerate(futures):
            shade = future.result(5).poses.keypoints[0, 0, 2]
            assert shade == np.float32(i / 255)
        batcher.stop(5)

    def test_all_images_fail_if_the_worker_ends(self, network, batcher):
        network.fail = SystemExit()
        futures = [batcher.submit(BLACK) for _ in range(6)]
        batcher.start()
        for future in futures:
            with pytest.raises(WorkerStoppedError):
                future.result(5)
        assert not batcher.alive
        with pytest.raises(WorkerStoppedError):
            batcher.submit(BLACK)

    def test_stop_processes_queued_images(self, network, batcher):
        futures = [batcher.submit(BLACK) for _ in range(6)]
        batcher.start()
        batcher.stop(5)
        assert all(future.done() for future in futures)
        assert sum(network.sizes) == 6

    def test_running_time(self, network, batcher):
        network.open.clear()
        future = batcher.submit(BLACK)
        batcher.start()
        assert network.entered.acquire(timeout=5)
        wait_until(lambda: batcher.running > 0.01)
        network.open.set()
        future.result(5)
        assert batcher.running == 0


def test_requests_share_batches(network):
    with served(network, max_batch=5) as client:
        network.open.clear()
        first = pool(client, 1)
        wait_until(lambda: len(network.sizes) == 2)  # the grey image at startup, and this one
        others = pool(client, 8)
        wait_until(lambda: client.app.state.service._submitted == 9)
        network.open.set()
        assert [one.result().status_code for one in first + others] == [200] * 9
        assert network.sizes == [1, 1, 5, 3]
        assert metric(client, 'ppose_batch_size_bucket{le="2.0"}') == 2
        assert metric(client, 'ppose_batch_size_bucket{le="4.0"}') == 3
        assert len(network.threads) == 1


def test_responses_match_their_requests(network):
    rng = np.random.default_rng(0)
    kinds = [(int(w), int(h), int(g)) for w, h, g in rng.integers(1, 255, (120, 3))]

    def ask(kind):
        found = post(client, image_file(*kind)).json()
        width, height, shade = found["people"][0]["keypoints"][0]
        return *found["size_wh"], int(width), int(height), round(shade * 255)

    with served(network, max_queue=64) as client, ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(ask, kinds))
    for (width, height, grey), answer in zip(kinds, answers, strict=True):
        assert answer == (width, height, width, height, grey)
    assert max(network.sizes) > 1


def test_full_queue(network):
    with served(network, max_queue=3) as client:
        network.open.clear()
        taken = pool(client, 3)
        wait_until(lambda: queue_of(client) == 3)
        assert metric(client, "ppose_queue_length") == 3
        response = post(client, image_file())
        assert "all 3 places" in check_error(response, 429, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        assert client.get("/healthz").json() == {"status": "overloaded", "queue": 3, "uploads": 0}
        assert client.get("/healthz").status_code == 503
        network.open.set()
        assert [one.result().status_code for one in taken] == [200] * 3
        assert post(client, image_file()).status_code == 200


def test_timeout(network):
    with served(network, timeout=0.3) as client:
        network.open.clear()
        answers = [one.result() for one in pool(client, 2)]
        for response in answers:
            check_error(response, 503, "timeout")
            assert int(response.headers["retry-after"]) >= 1
        assert queue_of(client) == 0
        network.open.set()
        assert post(client, image_file()).status_code == 200


def test_disconnected_clients_free_their_place(network):
    with served(network, max_queue=2, max_batch=1) as client:
        network.open.clear()
        data = image_file()
        for _ in range(2):
            with socket.create_connection(address(client)) as connection:
                connection.sendall(head_of(len(data)) + data)
                wait_until(lambda: client.app.state.service._submitted == 1)
            wait_until(lambda: queue_of(client) == 0)
        others = pool(client, 2)
        wait_until(lambda: client.app.state.service._submitted == 2)
        network.open.set()
        assert [one.result().status_code for one in others] == [200, 200]
        assert metric(client, 'ppose_requests_total{path="/pose",status="499"}') == 2
        # The first image was in the network at the disconnect; the second never reached it.
        assert sum(network.sizes) == 1 + 1 + 2


def test_service_continues_after_a_network_failure(network, capsys):
    with served(network) as client:
        network.fail, network.bad = (
            ValueError("expected failure"),
            lambda image: image[0, 0, 0] == 7,
        )
        check_error(post(client, image_file(grey=7)), 500, "network")
        assert post(client, image_file()).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert metric(client, "ppose_network_failures_total") == 1
    assert "expected failure" in capsys.readouterr().out


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_infinity_are_a_failure(number):
    def estimate(images):
        return [one_person(image, number if image[0, 0, 0] == 7 else 0.5) for image in images]

    with served(estimate) as client:
        check_error(post(client, image_file(grey=7)), 500, "network")
        assert post(client, image_file()).status_code == 200


def test_health_after_the_worker_ended(network):
    with served(network) as client:
        network.fail = SystemExit("the end")
        check_error(post(client, image_file()), 503, "failed")
        response = client.get("/healthz")
        assert (response.status_code, response.json()["status"]) == (503, "failed")
        check_error(post(client, image_file()), 503, "failed")


def test_health_while_the_network_hangs(network):
    with served(network, timeout=0.05) as client:
        network.open.clear()
        check_error(post(client, image_file()), 503, "timeout")
        wait_until(lambda: client.get("/healthz").json()["status"] == "stuck")
        assert client.get("/healthz").status_code == 503
        network.open.set()
        wait_until(lambda: client.get("/healthz").status_code == 200)


def test_startup_fails_with_a_broken_network():
    network = FakeNetwork()
    network.fail = ValueError("broken")
    app = make_app(network, skeleton=COCO17)

    async def start():
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(NetworkError):
        asyncio.run(start())
    wait_until(lambda: not app.state.service._batcher.alive)


def test_at_most_two_batches_are_decoded(network):
    """Other images are queued as files."""
    with served(network, max_batch=2, max_queue=20) as client:
        network.open.clear()
        answers = pool(client, 12)
        wait_until(lambda: queue_of(client) == 12)
        wait_until(lambda: client.app.state.service._submitted == 4)
        time.sleep(0.05)
        assert client.app.state.service._submitted == 4
        network.open.set()
        assert [one.result().status_code for one in answers] == [200] * 12


def test_concurrent_requests_leave_no_threads(network):
    with served(network) as client:
        before = threading.active_count()
        assert {one.result().status_code for one in pool(client, 20)} == {200}
        assert client.app.state.service._submitted == queue_of(client) == 0
        assert threading.active_count() <= before + 20
