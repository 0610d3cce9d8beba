"""The server around the application: its end, slow clients, and the command line."""

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from conftest import ROOT
from service_server import Network, address, check_error, head_of, picture, post, served, wait_until

from ppose.api import chosen_weights
from ppose.checkpoint import load_weights
from ppose.deploy.service import server
from ppose.experiment import Experiment
from ppose.export.bundle import export_bundle

SERVER = """
import sys, threading
from service_server import Network
from ppose.deploy.service import Limits, make_app, serve
from ppose.skeleton import COCO17

network = Network()
app = make_app(network, skeleton=COCO17, limits=Limits(timeout=10))
def follow():
    for line in sys.stdin:
        (network.open.set if line.strip() == "open" else network.open.clear)()
threading.Thread(target=follow, daemon=True).start()
serve(app, port=0)
"""


@contextmanager
def process(*command, **options):
    """A server in a process of its own, and its address."""
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
        assert found, line + run.stderr.read()
        run.port = int(found[1])
        run.url = f"http://127.0.0.1:{run.port}"
        yield run
    finally:
        run.kill()
        run.wait()


def say(run, word):
    run.stdin.write(word + "\n")
    run.stdin.flush()


def queue_length(client):
    return client.get("/healthz").json()["queue"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_under_way_are_finished(number):
    data = picture()
    with process(sys.executable, "-c", SERVER) as run, httpx.Client(base_url=run.url) as client:
        wait_until(lambda: client.get("/healthz").status_code == 200)
        say(run, "close")
        time.sleep(0.1)
        waiting, uploading = (socket.create_connection(("127.0.0.1", run.port)) for _ in range(2))
        waiting.sendall(head_of(len(data)) + data)
        uploading.sendall(head_of(len(data)) + data[:20])
        wait_until(lambda: queue_length(client) == 2)
        run.send_signal(number)
        time.sleep(0.5)
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", run.port))
        assert run.poll() is None
        uploading.sendall(data[20:])
        say(run, "open")
        for connection in (waiting, uploading):
            connection.settimeout(10)
            answer = b"".join(iter(lambda c=connection: c.recv(65536), b""))
            connection.close()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b'"people"' in answer
        assert run.wait(10) == 0
        assert run.stdout.read() == "stopped\n"
        assert run.stderr.read() == ""


def test_an_idle_server_stops_at_once():
    with process(sys.executable, "-c", SERVER) as run, httpx.Client(base_url=run.url) as client:
        wait_until(lambda: client.get("/healthz").status_code == 200)
        run.send_signal(signal.SIGTERM)
        assert run.wait(5) == 0


def test_a_signal_drains_at_once():
    with served(Network()) as client:
        client.running.handle_exit(signal.SIGTERM, None)
        assert client.app.state.service.status == "draining"


def test_new_requests_while_it_stops():
    with served(Network()) as client:
        client.app.state.service.drain()
        response = post(client, picture())
        check_error(response, 503, "draining")
        assert int(response.headers["retry-after"]) >= 1
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "draining")


def test_a_head_that_does_not_arrive(monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    with served(Network()) as client:
        with socket.create_connection(address(client)) as silent:
            silent.settimeout(5)
            assert silent.recv(1) == b""
        with socket.create_connection(address(client)) as slow, pytest.raises(ConnectionError):
            for letter in b"GET /healthz HTTP/1.1\r\nHost: a-client-with-a-slow-line\r\n" * 10:
                slow.sendall(bytes([letter]))
                time.sleep(0.01)
        # The limit is for the head alone, and for each of a connection.
        data = picture()
        with socket.create_connection(address(client)) as one:
            one.settimeout(5)
            one.sendall(head_of(len(data)))
            time.sleep(0.4)
            one.sendall(data)
            assert one.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.1)
            one.sendall(b"GET /hea")
            assert b"".join(iter(lambda: one.recv(65536), b"")).count(b"HTTP/1.1") <= 1


def test_too_many_connections(monkeypatch):
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    with served(Network()) as client:
        idle = [socket.create_connection(address(client)) for _ in range(3)]
        wait_until(lambda: len(client.running.server_state.connections) == 3)
        check_error(client.get("/healthz"), 503, "too_many_connections")
        for connection in idle:
            connection.close()
        wait_until(lambda: not client.running.server_state.connections)
        assert client.get("/healthz").status_code == 200


def test_answers_are_not_delayed_by_nagle():
    with served(Network()) as client:
        client.get("/healthz")
        (connection,) = client.running.server_state.connections
        bound = connection.transport.get_extra_info("socket")
        assert bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_only_this_machine_reaches_it():
    with server.listen("127.0.0.1", 0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


def test_a_taken_port():
    with server.listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already"):
            server.listen("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_is_none(port):
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        server.listen("127.0.0.1", port)


def test_a_bundle_is_served(tmp_path):
    experiment = Experiment.from_file(ROOT / "configs" / "imhn_quickstart.yml")
    load_weights(experiment.model, chosen_weights(experiment))
    export_bundle(experiment, tmp_path, ["onnx"])
    file = ROOT / "dataset" / "test_image" / "people.jpg"
    options = [f"--model_dir={tmp_path}", "--port=0", "--backend=onnxruntime", "--threads=1"]
    with process(sys.executable, "deploy/serve.py", *options, "--max_bytes=100000") as run:
        with httpx.Client(base_url=run.url) as client:
            found = client.post("/pose", files={"image": file.read_bytes()}).json()["people"]
            too_large = client.post("/pose", files={"image": bytes(100_001)})
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == 0
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


def test_help_names_every_option_and_its_default():
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
        (["--model_dir=nowhere", "--max_queue=0"], "max_queue: expected a whole number from 1"),
    ],
)
def test_errors_of_the_command_line(arguments, words):
    done = serve_py(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert "Traceback" not in done.stderr
