"""What a run of Markovian RSA looks like on a terminal: live rounds, then the answer.

Progress goes to stderr, so that stdout holds the answer alone.
"""

import sys
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from openzaya.ttc.budget import Preview
from openzaya.ttc.config import MarkovianRSAConfig
from openzaya.ttc.events import (
    CandidateDone,
    CandidateProgress,
    Event,
    RunDone,
    RunStarted,
    StageDone,
)
from openzaya.ttc.result import Candidate, Result, Round
from openzaya.ttc.selection import histogram

SHOWN_ANSWERS = 4
"""Most frequent answers that a round shows."""
SHOWN_CHARS = 28
"""Longer answers are clipped in tables."""


class Progress:
    """Listens to a run; draws a live table on a terminal, prints lines elsewhere."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        """Write to stderr, or nowhere."""
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)
        self.live: Live | None = None
        self.config: MarkovianRSAConfig | None = None
        self.preview: Preview | None = None
        self.answers: list[list[str | None]] = []
        self.tokens: list[int] = []
        self.running: dict[tuple[int, int], int] = {}
        """Tokens of the candidates that are being written, by round and slot."""
        self.begun = time.monotonic()

    def __enter__(self) -> "Progress":
        """Start drawing."""
        if self.console.is_terminal and not self.console.quiet:
            # Drawn anew by itself, as its clock goes on while nothing happens.
            self.live = Live(console=self.console, refresh_per_second=8, get_renderable=self.table)
            self.live.start()
        return self

    def wants_progress(self) -> bool:
        """Say whether somebody sees candidates grow."""
        return self.live is not None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing, whatever happened."""
        if self.live is not None:
            self.live.stop()

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, RunStarted):
            self.config, self.preview = event.config, event.preview
            self.answers = [[] for _ in range(event.config.num_stages)]
            self.tokens = [0] * event.config.num_stages
            self.console.print(plan_line(event), soft_wrap=True)
        elif isinstance(event, CandidateProgress):
            self.running[event.stage, event.slot] = event.num_tokens
        elif isinstance(event, CandidateDone):
            self.running.pop((event.stage, event.slot), None)
            self.answers[event.stage].append(None if event.failed else event.answer)
            self.tokens[event.stage] += event.num_tokens
        elif isinstance(event, StageDone) and self.live is None:
            self.console.print(self.stage_line(event.stage), markup=False, soft_wrap=True)
        if self.live is not None and isinstance(event, StageDone | RunDone):
            self.live.refresh()

    @property
    def total_tokens(self) -> int:
        """Tokens of the run so far, those of candidates that are being written among them."""
        return sum(self.tokens) + sum([*self.running.values()])

    @property
    def num_done(self) -> int:
        """Candidates that are complete."""
        return sum(map(len, self.answers))

    def stage_line(self, stage: int) -> str:
        """Return one round as one line, for logs."""
        done, total = len(self.answers[stage]), self._total(stage)
        shown = shown_answers(self.answers[stage])
        return f"round {stage}: {done}/{total} candidates, {self.tokens[stage]} tokens; {shown}"

    def table(self) -> Group:
        """Return the live table."""
        table = Table(box=None, pad_edge=False)
        for heading in ("round", "candidates", "tokens"):
            table.add_column(heading, no_wrap=True)
        table.add_column("answers (how many candidates)")  # shrinks first; its text is cut
        for stage, answers in enumerate(self.answers):
            done, total = len(answers), self._total(stage)
            bar = "#" * done + "." * (total - done) if total <= 32 else ""
            running = [count for (at, _), count in [*self.running.items()] if at == stage]
            table.add_row(
                str(stage),
                f"{bar} {done}/{total}",
                str(self.tokens[stage] + sum(running)),
                Text(shown_answers(answers), overflow="ellipsis", no_wrap=True),
            )
        cap = self.preview.decode_cap if self.preview else 0
        elapsed = time.monotonic() - self.begun
        return Group(
            table,
            Text(f"{self.total_tokens} of at most {cap} tokens, {elapsed:.0f} s", style="dim"),
        )

    def _total(self, stage: int) -> int:
        return self.config.candidates_at(stage) if self.config else 0


def plan_line(event: RunStarted) -> str:
    """Return what the run is going to cost at most."""
    config, preview = event.config, event.preview
    return (
        f"plan: {preview.stages} stages of {config.num_candidates} candidates "
        f"(C = {config.tails_per_prompt} tails of {config.tail_tokens} tokens), "
        f"{preview.calls} calls, at most {preview.decode_cap} new tokens and "
        f"{preview.prefill_cap} prompt tokens, context {preview.context_bound}"
    )


def clip(text: str) -> str:
    """Return a text that fits into a cell."""
    line = " ".join(printable(text).split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 3] + "..."


def printable(text: str) -> str:
    """Return a model's text without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def shown_answers(answers: list[str | None]) -> str:
    """Return the most frequent answers with their counts."""
    counts = list(histogram(answers).items())
    parts = [f"{clip(answer)} ({count})" for answer, count in counts[:SHOWN_ANSWERS]]
    if len(counts) > SHOWN_ANSWERS:
        parts.append(f"and {len(counts) - SHOWN_ANSWERS} more")
    return ", ".join(parts) or "no answer yet"


def show_result(result: Result, show: str) -> None:
    """Print the rounds to stderr if asked for, then the answer alone to stdout."""
    console = Console(stderr=True, highlight=False)
    if show in ("rounds", "all"):
        for entry in result.rounds:
            console.print(round_table(entry, result))
            if show == "all":
                for candidate in entry.candidates:
                    console.print(candidate_text(candidate))
    for note in result.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if result.interrupted:
        console.print("stopped: this is the best answer so far")
    console.print(
        f"{result.usage.generated} tokens generated, {result.usage.prefill} prompt tokens, "
        f"{result.usage.calls} calls; answer by {result.why}",
        markup=False,
        soft_wrap=True,
    )
    begun = result.chosen.answer_text if result.chosen else ""
    answer = result.answer or begun or "(no answer)"
    sys.stdout.write((printable(answer) if sys.stdout.isatty() else answer) + "\n")
    sys.stdout.flush()


def round_table(entry: Round, result: Result) -> Table:
    """Return one round's candidates."""
    title = f"round {entry.stage}" + (" (final)" if entry is result.rounds[-1] else "")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("slot", justify="right", no_wrap=True)
    table.add_column("saw tails of")
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("answer")
    table.add_column("end of the reasoning")  # shrinks first, as it may be wrapped, but is cut
    for candidate in entry.candidates:
        chosen = candidate is result.chosen
        mark = "*" if chosen else " "
        seen = ", ".join(map(str, candidate.parents)) or "-"
        answer = clip(candidate.answer or candidate.error or "(unfinished)")
        tail = printable(" ".join(candidate.thinking.split())[-48:])
        table.add_row(
            f"{mark}{candidate.slot}",
            seen,
            str(candidate.num_tokens),
            Text(answer, style="bold" if chosen else ""),
            Text(tail, style="dim", overflow="ellipsis", no_wrap=True),
        )
    return table


def candidate_text(candidate: Candidate) -> Text:
    """Return everything a candidate wrote."""
    head = f"\nround {candidate.stage}, slot {candidate.slot}:\n"
    return Text(head + printable(candidate.text or candidate.error))
