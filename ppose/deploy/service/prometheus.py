"""Prometheus metrics of the service."""

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

__all__ = ["CONTENT_TYPE", "ServiceMetrics"]

_SECONDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10, 30)


class ServiceMetrics:
    """Metrics with a separate registry, so that a process may run several applications.

    Args:
        queue: returns the number of requests whose image has arrived.
        uploads: returns the number of uploads in progress.
        max_batch: the maximum batch size.
    """

    def __init__(self, queue: Callable[[], float], uploads: Callable[[], float], max_batch: int):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "ppose_requests",
            "Requests by route and status; 499: the client disconnected.",
            ("path", "status"),
            registry=registry,
        )
        self.latency = Histogram(
            "ppose_request_seconds",
            "Duration of successful pose requests, from the request's head to the response.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "ppose_stage_seconds",
            "Duration of the stages of these requests: upload, decode, wait, network.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "ppose_batch_size",
            "Images per run of the network.",
            buckets=_bucket_sizes(max_batch),
            registry=registry,
        )
        self.people = Counter("ppose_people", "People in responses.", registry=registry)
        self.failures = Counter(
            "ppose_network_failures", "Images on which the network failed.", registry=registry
        )
        Gauge(
            "ppose_queue_length",
            "Pose requests whose image has arrived: decoding, waiting or in the network.",
            registry=registry,
        ).set_function(queue)
        Gauge("ppose_uploads", "Uploads in progress.", registry=registry).set_function(uploads)

    def record(self, seconds: Mapping[str, float], people: int) -> None:
        """Records a successful pose request with its `seconds` by stage."""
        self.people.inc(people)
        for stage, value in seconds.items():
            histogram = self.latency if stage == "total" else self.stages.labels(stage)
            histogram.observe(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def _bucket_sizes(largest: int) -> list[int]:
    """Powers of 2 below `largest`, and `largest`."""
    sizes = [1]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1], largest))
    return sizes
