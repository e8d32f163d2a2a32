"""Settings of the gateway: those of every server of ours, and what runs may use."""

from dataclasses import dataclass

from openzaya.core.errors import ConfigError
from openzaya.serve.config import ServeConfig
from openzaya.serve.logs import LogFormat

SECONDS = ("first_news_s", "first_token_s", "between_tokens_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayConfig(ServeConfig):
    """How the gateway listens and what it bears."""

    heartbeat_s: float = 10.0
    """A stream without news sends a comment this often."""
    journal: str = ""
    """Where runs are kept: a path or URL; empty takes the usual place."""
    max_runs: int = 256
    """Runs at the same time; more are refused with 429."""
    max_run_tokens: int = 16 << 20
    """Most tokens that one run may generate, for every key."""
    run_share: float = 0.5
    """Share of the places of a busy engine that one run may hold."""
    first_token_s: float = 600.0
    """Longest wait of a call for its first token."""
    between_tokens_s: float = 120.0
    """Longest wait of a call between two tokens."""
    first_news_s: float = 0.02
    """How long a stream waits for a first error before it begins with status 200."""
    log_format: LogFormat = "text"
    """A line of the log: text, or one JSON object."""
    log_prompts: bool = False
    """Whether the log holds the question of every run."""
    threads: int = 0
    """Threads of torch; 0 takes the free cores."""
    device: str = "auto"
    """Where our own engine runs: cpu, cuda, or auto for the best that there is."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        ServeConfig.__post_init__(self)
        for name in ("max_runs", "max_run_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in SECONDS:
            if not 0 < getattr(self, name) <= 86_400:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 to 86400 seconds")
        if self.threads < 0:
            raise ConfigError(f"threads is {self.threads}, expected at least 0 (the free cores)")
        if not 0 < self.run_share <= 1:
            raise ConfigError(f"run_share is {self.run_share}, expected above 0 and at most 1")
