"""The server: graceful shutdown, slow clients, and the command line."""

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pytest
from conftest import ROOT
from service_server import (
    FakeNetwork,
    address,
    check_error,
    encoded,
    head_of,
    image_file,
    post,
    served,
    wait_until,
)

from ppose.deploy.service import server
from ppose.experiment import Experiment
from ppose.export.write_bundle import export_bundle

SERVER = """
import sys, threading
from service_server import FakeNetwork
from ppose.deploy.service.app import make_app
from ppose.deploy.service.limits import Limits
from ppose.deploy.service.server import serve
from ppose.structures.skeleton import COCO17

network = FakeNetwork()
app = make_app(network, skeleton=COCO17, limits=Limits(timeout=10))
def follow():
    for line in sys.stdin:
        (network.open.set if line.strip() == "open" else network.open.clear)()
threading.Thread(target=follow, daemon=True).start()
serve(app, port=0)
"""


@contextmanager
def process(*command, **options):
    """A server in a subprocess, with attributes `port` and `url`."""
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"}
    run = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
        **options,
    )
    try:
        line = run.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+) ", line)
        if not found:
            run.kill()
            pytest.fail(line + run.stderr.read())
        run.port = int(found[1])
        run.url = f"http://127.0.0.1:{run.port}"
        yield run
    finally:
        run.kill()
        run.wait()


def send(run, word):
    run.stdin.write(word + "\n")
    run.stdin.flush()


def active(client):
    health = client.get("/healthz").json()
    return health["queue"] + health["uploads"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_active_requests_are_completed(number):
    data = image_file()
    with process(sys.executable, "-c", SERVER) as run, httpx.Client(base_url=run.url) as client:
        wait_until(lambda: client.get("/healthz").status_code == 200)
        send(run, "close")
        time.sleep(0.1)
        waiting, uploading = (socket.create_connection(("127.0.0.1", run.port)) for _ in range(2))
        waiting.sendall(head_of(len(data)) + data)
        uploading.sendall(head_of(len(data)) + data[:20])
        wait_until(lambda: active(client) == 2)
        run.send_signal(number)
        time.sleep(0.5)
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", run.port))
        assert run.poll() is None
        uploading.sendall(data[20:])
        send(run, "open")
        for connection in (waiting, uploading):
            connection.settimeout(10)
            answer = b"".join(iter(lambda c=connection: c.recv(65536), b""))
            connection.close()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b'"people"' in answer
        assert run.wait(10) == 0
        assert run.stdout.read() == "stopped\n"
        assert run.stderr.read() == ""


def test_idle_server_stops_immediately():
    with process(sys.executable, "-c", SERVER) as run, httpx.Client(base_url=run.url) as client:
        wait_until(lambda: client.get("/healthz").status_code == 200)
        run.send_signal(signal.SIGTERM)
        assert run.wait(5) == 0


def test_signal_starts_draining():
    with served(FakeNetwork()) as client:
        client.running.handle_exit(signal.SIGTERM, None)
        assert client.app.state.service.status == "draining"


def test_new_requests_during_shutdown():
    with served(FakeNetwork()) as client:
        client.app.state.service.drain()
        response = post(client, image_file())
        check_error(response, 503, "draining")
        assert int(response.headers["retry-after"]) >= 1
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "draining")


def test_slow_request_heads(monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    with served(FakeNetwork()) as client:
        with socket.create_connection(address(client)) as silent:
            silent.settimeout(5)
            assert silent.recv(1) == b""
        with socket.create_connection(address(client)) as slow, pytest.raises(ConnectionError):
            for letter in b"GET /healthz HTTP/1.1\r\nHost: a-client-with-a-slow-line\r\n" * 10:
                slow.sendall(bytes([letter]))
                time.sleep(0.01)
        # The limit applies to each head of a connection, but not to bodies.
        data = image_file()
        with socket.create_connection(address(client)) as one:
            one.settimeout(5)
            one.sendall(head_of(len(data)))
            time.sleep(0.4)
            one.sendall(data)
            assert one.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.1)
            one.sendall(b"GET /hea")
            assert b"".join(iter(lambda: one.recv(65536), b"")).count(b"HTTP/1.1") <= 1


@pytest.mark.parametrize("limit", ["MAX_CONNECTIONS", "MAX_CLIENT_CONNECTIONS"])
def test_too_many_connections(monkeypatch, limit):
    monkeypatch.setattr(server, limit, 3)
    with served(FakeNetwork()) as client:
        connections = client.running.server_state.connections
        idle = [socket.create_connection(address(client)) for _ in range(3)]
        wait_until(lambda: len(connections) == 3)
        # The oldest one without a request makes room.
        assert client.get("/healthz").status_code == 200
        idle[0].settimeout(5)
        assert idle[0].recv(1) == b""
        for connection in idle[1:]:
            connection.sendall(head_of(500))
        wait_until(lambda: len(client.app.state.service.uploads) == 2)
        idle.append(socket.create_connection(address(client)))
        idle[-1].sendall(head_of(500))
        wait_until(lambda: len(client.app.state.service.uploads) == 3)
        check_error(httpx.get(f"{client.base_url}/healthz"), 503, "too_many_connections")
        for connection in idle:
            connection.close()
        wait_until(lambda: len(connections) <= 1)
        assert client.get("/healthz").status_code == 200


def test_clients_that_read_nothing_are_disconnected(monkeypatch):
    monkeypatch.setattr(server, "WRITE_SECONDS", 0.4)
    with served(FakeNetwork()) as client:
        with socket.create_connection(address(client)) as deaf:
            deaf.setblocking(False)
            request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 500
            with pytest.raises(ConnectionError):
                for _ in range(1000):
                    with suppress(BlockingIOError):
                        deaf.send(request)
                    time.sleep(0.01)
        wait_until(lambda: not client.running.server_state.connections)


def test_damaged_images_write_nothing_into_the_log():
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    with process(sys.executable, "-c", SERVER) as run, httpx.Client(base_url=run.url) as client:
        for ending in (".png", ".jpg", ".webp", ".bmp", ".tiff"):
            data = bytearray(encoded(noise, ending))
            data[len(data) // 2 :: 7] = bytes(len(data[len(data) // 2 :: 7]))
            post(client, bytes(data))
            post(client, bytes(data[: len(data) // 2]))
        with socket.create_connection(("127.0.0.1", run.port)) as connection:
            connection.sendall(b"no HTTP\r\n\r\n")
            connection.recv(1000)
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == 0
        assert (run.stdout.read(), run.stderr.read()) == ("stopped\n", "")


def test_nagle_is_disabled():
    with served(FakeNetwork()) as client:
        client.get("/healthz")
        (connection,) = client.running.server_state.connections
        bound = connection.transport.get_extra_info("socket")
        assert bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_listens_on_localhost():
    with server.listen("127.0.0.1", 0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


def test_port_in_use():
    with server.listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already"):
            server.listen("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_invalid_port(port):
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        server.listen("127.0.0.1", port)


def test_serve_a_bundle(tmp_path):
    experiment = Experiment.from_file(ROOT / "configs" / "imhn_quickstart.yml")
    experiment.load_weights()
    export_bundle(experiment, tmp_path, ["onnx"])
    file = ROOT / "dataset" / "test_image" / "people.jpg"
    options = [f"--model_dir={tmp_path}", "--port=0", "--backend=onnxruntime", "--threads=1"]
    with process(sys.executable, "deploy/serve.py", *options, "--max_bytes=100000") as run:
        with httpx.Client(base_url=run.url) as client:
            found = client.post("/pose", files={"image": file.read_bytes()}).json()["people"]
            too_large = client.post("/pose", files={"image": bytes(100_001)})
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == 0
        assert "drawn people only" in run.stderr.read()
    expected = experiment.estimator()(file).to_dict()["people"]
    np.testing.assert_allclose(
        [one["keypoints"] for one in found], [one["keypoints"] for one in expected], atol=0.05
    )
    check_error(too_large, 413, "too_many_bytes")


def serve_py(*arguments):
    return subprocess.run(
        [sys.executable, "deploy/serve.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help():
    done = serve_py("--help")
    assert done.returncode == 0
    for name in ("model_dir", "det_model_dir", "backend", "device", "precision", "threads", "host"):
        assert f"--{name}" in done.stdout
    for name, value in (("max_bytes", 20_000_000), ("max_queue", 32), ("timeout", 30.0)):
        assert re.search(rf"--{name} .*?default:\s+{value}", done.stdout, re.DOTALL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model_dir=nowhere"], "nowhere"),
        (["--model_dir=nowhere", "--max_queue=0"], "max_queue: expected an integer of at least 1"),
    ],
)
def test_invalid_command_line(arguments, words):
    done = serve_py(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert "Traceback" not in done.stderr
