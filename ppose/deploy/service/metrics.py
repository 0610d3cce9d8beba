"""What Prometheus reads: counters and histograms of one application."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Metrics with a registry of their own, so that one process may have several applications.

    Args:
        queue: gives the number of requests under way.
        max_batch: the largest batch.
    """

    def __init__(self, queue: Callable[[], float], max_batch: int):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "ppose_requests",
            "Requests by route and status; 499 is a client that left.",
            ("path", "status"),
            registry=registry,
        )
        self.latency = Histogram(
            "ppose_request_seconds",
            "From the head of a request for poses to its answer, where that is 200.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "ppose_stage_seconds",
            "The same by stage: upload, decode, wait, network.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "ppose_batch_size",
            "Pictures of each run of the network.",
            buckets=_sizes(max_batch),
            registry=registry,
        )
        self.people = Counter("ppose_people", "People in answers.", registry=registry)
        self.failures = Counter(
            "ppose_network_failures", "Pictures on which the network failed.", registry=registry
        )
        Gauge(
            "ppose_queue_length",
            "Requests for poses under way: uploading, waiting or in the network.",
            registry=registry,
        ).set_function(queue)

    def answered(self, seconds: Mapping[str, float], people: int) -> None:
        """Counts an answer with poses; `seconds` is that of the answer."""
        self.people.inc(people)
        for stage, value in seconds.items():
            of_stage = self.latency if stage == "total" else self.stages.labels(stage)
            of_stage.observe(value)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


def _sizes(largest: int) -> list[int]:
    """1, 2, 4, … and the largest."""
    sizes = [1]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1], largest))
    return sizes
