"""Prometheus metrics of a service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The Prometheus counters, histograms and gauges of one service.

    `model`: the model's name. `in_work`: called for the number of photographs that are being processed. `limit`: the
    greatest number of photographs that may be processed at the same time.
    """

    def __init__(self, model: str, in_work: Callable[[], int], limit: int) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("fasttrain_requests", "Requests", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "fasttrain_request_seconds",
            "Seconds from a request's headers to its answer",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.photographs = Counter("fasttrain_photographs", "Photographs", ["result"], registry=registry)
        self.stages = Histogram(
            "fasttrain_stage_seconds",
            "Seconds of each stage (decode, model)",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "fasttrain_batch_size", "Photographs per batch", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=registry
        )
        Gauge("fasttrain_queue", "Photographs being processed", registry=registry).set_function(in_work)
        Gauge("fasttrain_queue_limit", "The limit of fasttrain_queue", registry=registry).set(limit)
        Gauge("fasttrain_model", "The model that is served", ["name"], registry=registry).labels(model).set(1)

    def page(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)
