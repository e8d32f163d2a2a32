"""What the server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from openzaya.serve.driver import Driver

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


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
        in_flight = Gauge(
            "openzaya_choices_in_flight", "Choices that wait or run", registry=self.registry
        )
        in_flight.set_function(lambda: driver.num_in_flight)
        running = Gauge(
            "openzaya_choices_running", "Choices that hold a slot", registry=self.registry
        )
        running.set_function(lambda: driver.num_running)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
