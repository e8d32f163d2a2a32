"""What a batch looks like on a terminal: a bar over all problems, a line for each one in work."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from openzaya.cli.progress import Progress, clip
from openzaya.ttc.events import CandidateDone, Event, RunStarted


def batch_bar(*, quiet: bool = False, console: Console | None = None) -> Bar:
    """Return a bar on stderr; on no terminal it is drawn once, in the end."""
    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Tokens(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True, quiet=quiet),
    )


@contextmanager
def problem_line(bar: Bar | None, name: str) -> Iterator["ProblemLine"]:
    """Show the run of one problem while it lasts, where there is a bar."""
    line = ProblemLine(bar, name)
    try:
        yield line
    finally:
        if bar is not None:
            bar.remove_task(line.task)


class ProblemLine:
    """Listens to the run of one problem."""

    def __init__(self, bar: Bar | None, name: str) -> None:
        """Add a line to the bar, if there is one."""
        self.bar = bar
        self.counts = Progress(quiet=True)
        if bar is not None:
            self.task = bar.add_task(clip(name), total=None, counts=self.counts)

    def wants_progress(self) -> bool:
        """Say whether somebody sees candidates grow."""
        return self.bar is not None

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        self.counts(event)
        if self.bar is None:
            return
        if isinstance(event, RunStarted):
            config = event.config
            self.bar.update(
                self.task, total=sum(map(config.candidates_at, range(config.num_stages)))
            )
        elif isinstance(event, CandidateDone):
            self.bar.update(self.task, completed=self.counts.num_done)


class _Tokens(ProgressColumn):
    """The tokens of a problem so far, looked up whenever the line is drawn."""

    def render(self, task: Task) -> Text:
        counts = task.fields.get("counts")
        return Text("" if counts is None else f"{counts.total_tokens} tokens", style="dim")
