"""What the gateway counts, for Prometheus; no label holds anything that a client sent."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from openzaya.serve.metrics import Metrics, request_counter
from openzaya.ttc import CandidateDone

RUN_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
NEWS_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
STATES = ("up", "half-open", "paused", "open")
"""States of an upstream, from best to worst."""


class GatewayMetrics:
    """Counters of one gateway."""

    def __init__(self, engine: Metrics | None = None) -> None:
        """`engine` are the counters of an engine in this process: all go into one registry."""
        if engine is None:
            self.registry = CollectorRegistry()
            self.requests = request_counter(self.registry)
            self.disconnects = Counter(
                "openzaya_disconnects", "Clients that left before the end", registry=self.registry
            )
        else:
            self.registry = engine.registry
            self.requests, self.disconnects = engine.requests, engine.disconnects
        registry = self.registry
        self.runs = Counter(
            "openzaya_runs", "Runs that ended", ("state", "preset"), registry=registry
        )
        self.calls = Counter(
            "openzaya_run_calls", "Candidates that ended", ("outcome",), registry=registry
        )
        self.tokens = Counter("openzaya_run_tokens", "Tokens of runs", ("kind",), registry=registry)
        self.charged = Counter(
            "openzaya_charged_tokens", "Generated tokens that keys pay for, by how they are known",
            ("means",), registry=registry,
        )  # fmt: skip
        # Looking up a label takes longer than counting: it is done once.
        self._calls_by = cache(self.calls.labels)
        self._tokens_by = cache(self.tokens.labels)
        self.run_seconds = Histogram(
            "openzaya_run_seconds", "From a request to its answer", registry=registry,
            buckets=RUN_SECONDS,
        )  # fmt: skip
        self.first_byte = Histogram(
            "openzaya_first_byte_seconds", "From a request to the first byte of its stream",
            registry=registry, buckets=NEWS_SECONDS,
        )  # fmt: skip
        self.pass_through = Histogram(
            "openzaya_pass_through_seconds", "Requests that were passed through",
            registry=registry, buckets=RUN_SECONDS,
        )  # fmt: skip
        self._live = Gauge("openzaya_runs_live", "Runs under way", registry=registry)
        self._lag = Gauge(
            "openzaya_journal_pending_bytes", "Text that the journal has not written yet",
            registry=registry,
        )  # fmt: skip

    def watch_runs(self, count: Callable[[], int]) -> None:
        """Ask `count` for the runs under way."""
        self._live.set_function(count)

    def watch_journal(self, pending_bytes: Callable[[], int]) -> None:
        """Ask `pending_bytes` how far the journal is behind."""
        self._lag.set_function(pending_bytes)

    def watch_upstreams(self, status: Callable[[], Mapping[str, Any]]) -> None:
        """Ask `status`, as `Backend.status` gives it, for the state of the upstreams."""
        self.registry.register(UpstreamCollector(status))

    def note(self, event: CandidateDone) -> None:
        """Count a candidate that ended."""
        candidate = event.candidate
        self._calls_by("failed" if candidate.is_failed else candidate.finish_reason).inc()
        self._tokens_by("generated").inc(candidate.num_tokens)
        self._tokens_by("prefill").inc(candidate.num_prompt_tokens)
        if candidate.served is not None and candidate.served.num_cached_tokens:
            self._tokens_by("cached").inc(candidate.served.num_cached_tokens)

    def ended(self, state: str, preset: str, seconds: float) -> None:
        """Count a run that ended."""
        self.runs.labels(state, preset).inc()
        self.run_seconds.observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class UpstreamCollector(Collector):
    """The state of every upstream, read when it is asked for."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def describe(self) -> list[Metric]:
        """Return nothing: what upstreams there are is known later."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the figures of every upstream."""
        labels = ("upstream", "model")
        state = GaugeMetricFamily(
            "openzaya_upstream_state",
            "1 for the state that an upstream is in",
            labels=(*labels, "state"),
        )
        gauges = {
            name: GaugeMetricFamily(f"openzaya_upstream_{name}", text, labels=labels)
            for name, text in (
                ("limit", "Calls at the same time that it is given"),
                ("in_flight", "Calls under way"),
                ("waiting", "Calls that wait"),
            )
        }
        counters = {
            name: CounterMetricFamily(f"openzaya_upstream_{name}", text, labels=labels)
            for name, text in (
                ("calls", "Calls that were made"),
                ("retries", "Calls that were made again"),
                ("aborted", "Calls that were ended early"),
            )
        }
        failures = CounterMetricFamily(
            "openzaya_upstream_failures", "Calls that failed", labels=(*labels, "kind")
        )
        families: tuple[tuple[str, GaugeMetricFamily | CounterMetricFamily], ...] = (
            *gauges.items(),
            *counters.items(),
        )
        for found in self._status().get("upstreams", ()):
            names = (str(found.get("url", "")), str(found.get("model", "")))
            for known in STATES:
                state.add_metric((*names, known), float(found.get("state") == known))
            for name, family in families:
                if found.get(name) is not None:  # an engine in this process counts no calls
                    family.add_metric(names, float(found[name]))
            for kind, count in (found.get("failures") or {}).items():
                failures.add_metric((*names, str(kind)), float(count))
        return iter((state, *gauges.values(), *counters.values(), failures))
