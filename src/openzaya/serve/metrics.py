"""What the server counts, for Prometheus."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from openzaya.engine.request import EngineStats
from openzaya.serve.driver import Driver

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
ENGINE_COUNTERS = (
    ("steps", "steps", "Steps that ran the model"),
    ("decode_steps", "decode_steps", "Batched decode passes"),
    ("decoded_tokens", "tokens_decoded", "Tokens sampled by decode passes"),
    ("prefilled_tokens", "tokens_prefilled", "Prompt tokens computed"),
    ("shared_prefill_tokens", "tokens_prefill_saved", "Prompt tokens computed for another choice"),
    ("prefix_hit_tokens", "prefix_hit_tokens", "Prompt tokens found in the prefix cache"),
    ("preemptions", "preemptions", "Times a choice was put back for lack of blocks"),
    ("evicted_blocks", "evictions", "Blocks kept for reuse that were given up"),
)
"""Name of each counter, the field of `EngineStats` that holds it, and its help."""


def request_counter(registry: CollectorRegistry) -> Counter:
    """Return what every server counts."""
    return Counter(
        "openzaya_requests",
        "HTTP requests by route and status",
        ("route", "status"),
        registry=registry,
    )


class Metrics:
    """Counters of one server; no label holds anything that a client sent."""

    def __init__(self, driver: Driver) -> None:
        self.registry = CollectorRegistry()
        self.requests = request_counter(self.registry)
        self.prompt_tokens = Counter(
            "openzaya_prompt_tokens", "Prompt tokens taken", registry=self.registry
        )
        self.generated_tokens = Counter(
            "openzaya_generated_tokens", "Tokens handed out", registry=self.registry
        )
        self.disconnects = Counter(
            "openzaya_disconnects", "Clients that left before the end", registry=self.registry
        )
        self.first_token_s = Histogram(
            "openzaya_first_token_seconds",
            "From the request to its first token",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_s = Histogram(
            "openzaya_queue_seconds",
            "From the request to the slot of its first choice",
            buckets=SECONDS,
            registry=self.registry,
        )
        in_flight = Gauge(
            "openzaya_choices_in_flight", "Choices that wait or run", registry=self.registry
        )
        in_flight.set_function(lambda: driver.num_in_flight)
        running = Gauge(
            "openzaya_choices_running", "Choices that hold a slot", registry=self.registry
        )
        running.set_function(lambda: driver.num_running)
        self.registry.register(EngineCollector(lambda: driver.engine_stats))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class EngineCollector(Collector):
    """What the engine has done and holds, read when it is asked for."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Return a metric for every figure of the engine."""
        stats = self._stats()
        for name, field, text in ENGINE_COUNTERS:
            yield CounterMetricFamily(f"openzaya_engine_{name}", text, getattr(stats, field))
        blocks = GaugeMetricFamily(
            "openzaya_engine_blocks", "Blocks of the cache", labels=("layers", "state")
        )
        for state, counts in (("used", stats.blocks_used), ("free", stats.blocks_free)):
            for layers, count in counts.items():
                blocks.add_metric((layers, state), count)
        yield blocks
        yield GaugeMetricFamily(
            "openzaya_engine_prefix_bytes",
            "Memory kept beside the blocks for prompts that begin alike",
            stats.prefix_bytes,
        )
