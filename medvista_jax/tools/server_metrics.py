"""What ``/metrics`` of the tool server counts, in a registry of its own."""

from __future__ import annotations

from collections.abc import Container, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from medvista_jax.core.types import Fault
from medvista_jax.tools.batcher import Batcher

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_CALLS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server.

    Args:
      names: of the tools; calls of anything else count as ``unknown``, so that no client can invent time series.
    """

    def __init__(self, names: Iterable[str]):
        self._names: Container[str] = frozenset(names)
        self.registry = registry = CollectorRegistry()
        self.calls = Counter("medvista_tool_calls", "Calls answered", ["tool"], registry=registry)
        self.faults = Counter("medvista_tool_faults", "Calls answered by a fault", ["tool", "fault"], registry=registry)
        self.seconds = Histogram(
            "medvista_tool_seconds", "From request to result", ["tool"], registry=registry, buckets=_SECONDS
        )
        self.refused = Counter("medvista_requests_refused", "Requests not carried out", ["status"], registry=registry)
        self.batches = Histogram("medvista_batch_calls", "Calls of a batch", registry=registry, buckets=_CALLS)

    def watch(self, batcher: Batcher) -> None:
        """Shows what the batcher holds, and the size of each batch."""
        waiting = Gauge("medvista_calls_waiting", "Calls in the queue", registry=self.registry)
        waiting.set_function(lambda: batcher.waiting)
        running = Gauge("medvista_calls_in_flight", "Calls that run", registry=self.registry)
        running.set_function(lambda: batcher.running)
        batcher.on_batch = self.batches.observe

    def record(self, tool: str, fault: Fault, seconds: float) -> None:
        """Counts one answered call."""
        tool = tool if tool in self._names else "unknown"
        self.calls.labels(tool).inc()
        self.seconds.labels(tool).observe(seconds)
        if fault != Fault.NONE:
            self.faults.labels(tool, Fault(fault).name.lower()).inc()
