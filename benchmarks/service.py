"""HTTP service under overload and with invalid uploads.

    python benchmarks/service.py [--model_dir DIR] [--seconds 120] [--uploads 1000] [--json FILE]

Starts deploy/serve.py in a process and sends requests to it on 127.0.0.1. The load is 4 times the
measured capacity of the service, in an open loop: requests are sent at their scheduled times,
whether earlier ones are answered or not. Every answer is compared with the result of the model in
this process. Exits with 1 if an answer is wrong, an upload got an unexpected status code, memory
grew, or the service ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from mutations import KINDS, Upload, mutated
from report import ROOT, parser, report

IMAGES = sorted((ROOT / "dataset" / "test_image").glob("*.jpg"))
LOAD = 4.0
CAPACITY_SECONDS = 6.0
WARM_UP = 0.2  # fraction of the load after which memory must not grow
MAX_GROWTH = 0.05
MAX_OPEN = 400  # open requests of the load; further ones are counted, but not sent
TOLERANCE = 0.05  # pixels; rounding depends on the batch size


@dataclass(frozen=True)
class Reply:
    """A response; status 0 if the connection was lost."""

    status: int
    body: bytes
    seconds: float


@dataclass
class Service:
    """The process under test."""

    process: subprocess.Popen
    port: int

    @property
    def rss(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    async def send(self, upload: Upload) -> Reply:
        """Sends a request on a new connection."""
        started = time.perf_counter()
        try:
            return await asyncio.wait_for(self._send(upload, started), 60)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            return Reply(0, repr(error).encode(), time.perf_counter() - started)

    async def _send(self, upload: Upload, started: float) -> Reply:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            length = {"Content-Length": str(len(upload.body))}
            if "Transfer-Encoding" in upload.headers:
                length = {}
            headers = {"Host": "x", **length, **upload.headers}
            lines = [f"POST {upload.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode() + upload.body)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(found[1]) if found else 0)
            return Reply(int(head[9:12]), body, time.perf_counter() - started)
        finally:
            writer.close()


@contextmanager
def running(args: argparse.Namespace, model_dir: Path) -> Iterator[Service]:
    """A context with deploy/serve.py on a free port; ends it by SIGTERM."""
    command = [sys.executable, str(ROOT / "deploy" / "serve.py"), "--port=0"]
    command += [f"--model_dir={model_dir}", f"--backend={args.backend}"]
    command += [f"--threads={args.threads}"]
    if args.det_model_dir:
        command.append(f"--det_model_dir={args.det_model_dir}")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            if match := re.match(r"http://127\.0\.0\.1:(\d+)", line):
                yield Service(process, int(match[1]))
                break
            print(line, end="")
        else:
            raise SystemExit(f"the service did not start: exit code {process.wait()}")
    finally:
        process.terminate()
        process.wait(60)


class Expected:
    """The expected answer for each image."""

    def __init__(self, args: argparse.Namespace, model_dir: Path):
        from ppose.data.images import read_image
        from ppose.deploy.pipeline import load_pipeline

        pipeline = load_pipeline(
            model_dir, args.det_model_dir, backend=args.backend, threads=args.threads
        )
        self.people = [pipeline([read_image(path)])[0].to_dict()["people"] for path in IMAGES]

    def is_right(self, image: int, body: bytes) -> bool:
        found, wanted = json.loads(body)["people"], self.people[image]
        return len(found) == len(wanted) and all(
            np.abs(np.subtract(a["keypoints"], b["keypoints"])).max() <= TOLERANCE
            and abs(a["score"] - b["score"]) <= 1e-3
            for a, b in zip(found, wanted, strict=True)
        )


@dataclass
class Tally:
    """Results of a load."""

    statuses: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0

    def add(self, reply: Reply, right: bool) -> None:
        self.statuses[reply.status] += 1
        if reply.status == 200:
            self.seconds.append(reply.seconds)
            self.wrong += not right


async def one(service: Service, expected: Expected, number: int, tally: Tally) -> None:
    image = number % len(IMAGES)
    upload = Upload(IMAGES[image].read_bytes(), {"Content-Type": "image/jpeg"})
    reply = await service.send(upload)
    tally.add(reply, reply.status == 200 and expected.is_right(image, reply.body))


async def measure_capacity(service: Service, expected: Expected) -> float:
    """Answers per second to 16 clients that send the next request after each answer."""
    tally = Tally()
    end = time.perf_counter() + CAPACITY_SECONDS

    async def client(number: int) -> None:
        while time.perf_counter() < end:
            await one(service, expected, number, tally)
            number += 1

    await asyncio.gather(*(client(i) for i in range(16)))
    return len(tally.seconds) / CAPACITY_SECONDS


async def overload(
    service: Service, expected: Expected, rate: float, seconds: float
) -> tuple[Tally, np.ndarray, int]:
    """Poisson arrivals; returns the tally, memory every 0.5 s, and how many were not sent."""
    tally, open_now, skipped = Tally(), set[asyncio.Task](), 0
    rng = np.random.default_rng(0)
    async with sampled_memory(service) as memory:
        started = time.perf_counter()
        due, number = started, 0
        while (due := due + rng.exponential(1 / rate)) < started + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if len(open_now) >= MAX_OPEN:
                skipped += 1
                continue
            task = asyncio.create_task(one(service, expected, number, tally))
            open_now.add(task)
            task.add_done_callback(open_now.discard)
            number += 1
        await asyncio.gather(*open_now)
    return tally, np.array(memory), skipped


@asynccontextmanager
async def sampled_memory(service: Service) -> AsyncIterator[list[int]]:
    samples: list[int] = []

    async def sample() -> None:
        while True:
            samples.append(service.rss)
            await asyncio.sleep(0.5)

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()


def load_row(service: Service, expected: Expected, seconds: float) -> tuple[dict[str, Any], bool]:
    capacity = asyncio.run(measure_capacity(service, expected))
    tally, memory, skipped = asyncio.run(overload(service, expected, LOAD * capacity, seconds))
    settled = memory[int(WARM_UP * len(memory)) :] / 2**20
    growth = float(settled.max() / settled[0] - 1)
    known = {200, 429, 503}
    p50, p95, p99 = 1e3 * np.percentile(tally.seconds or [np.nan], (50, 95, 99))
    row = {
        "capacity/s": capacity,
        "sent": tally.statuses.total(),
        "not sent": skipped,
        **{f"{status}": tally.statuses[status] for status in sorted(known)},
        "others": sum(n for status, n in tally.statuses.items() if status not in known),
        "200/s": len(tally.seconds) / seconds,
        "wrong": tally.wrong,
        "p50 ms": float(p50),
        "p95 ms": float(p95),
        "p99 ms": float(p99),
        "RSS MiB": float(settled[0]),
        "RSS max": float(settled.max()),
        "RSS last": float(settled[-1]),
    }
    alive = service.process.poll() is None
    fine = alive and not tally.wrong and not row["others"] and growth <= MAX_GROWTH
    return row, fine and len(tally.seconds) > 0


def upload_rows(service: Service, count: int) -> tuple[list[dict[str, Any]], bool]:
    sources = [path.read_bytes() for path in IMAGES]

    async def send_all() -> dict[str, Counter]:
        statuses: dict[str, Counter] = {name: Counter() for name in KINDS}
        uploads = mutated(sources, count)

        async def client() -> None:
            for kind, upload in uploads:
                statuses[kind][(await service.send(upload)).status] += 1

        await asyncio.gather(*(client() for _ in range(8)))
        return statuses

    rows, fine = [], service.process.poll() is None
    for name, found in asyncio.run(send_all()).items():
        unexpected = sum(n for status, n in found.items() if status not in KINDS[name].statuses)
        fine &= not unexpected
        rows.append(
            {
                "upload": name,
                "sent": found.total(),
                "statuses": "  ".join(f"{status}: {n}" for status, n in sorted(found.items())),
                "expected": " ".join(map(str, KINDS[name].statuses)),
                "unexpected": unexpected,
            }
        )
    return rows, fine and service.process.poll() is None


def exported(folder: Path) -> Path:
    """Exports the bottom-up quick start."""
    from ppose.experiment import Experiment
    from ppose.export.write_bundle import export_bundle

    experiment = Experiment.from_file(ROOT / "configs" / "imhn_quickstart.yml")
    experiment.load_weights()
    export_bundle(experiment, folder)
    return folder


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--model_dir", type=Path, help="default: configs/imhn_quickstart.yml")
    arguments.add_argument("--det_model_dir", type=Path)
    arguments.add_argument("--backend", default="auto")
    arguments.add_argument(
        "--threads", type=int, default=1, help="threads of the network; default: 1"
    )
    arguments.add_argument(
        "--seconds", type=float, default=120, help="duration of the load; 0 for none"
    )
    arguments.add_argument(
        "--uploads", type=int, default=1000, help="number of invalid uploads; 0 for none"
    )
    args = arguments.parse_args()
    facts: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    all_fine = True
    with tempfile.TemporaryDirectory() as folder:
        model_dir = args.model_dir or exported(Path(folder) / "bundle")
        expected = Expected(args, model_dir)
        with running(args, model_dir) as service:
            if args.seconds:
                facts["load"], fine = load_row(service, expected, args.seconds)
                all_fine &= fine
                report([{"load": k, "": v} for k, v in facts["load"].items()], None)
            if args.uploads:
                print()
                facts["uploads"], fine = upload_rows(service, args.uploads)
                all_fine &= fine
                report(facts["uploads"], None)
        print("\nexit code of the service", service.process.returncode)
        all_fine &= service.process.returncode == 0
    if args.json:
        Path(args.json).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print("fine" if all_fine else "FAILED")
    return 0 if all_fine else 1


if __name__ == "__main__":
    sys.exit(main())
