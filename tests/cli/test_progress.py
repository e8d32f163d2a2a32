"""Progress on a terminal: it moves while candidates are written, and leaves the journal alone."""

import asyncio
import time
from io import StringIO

from rich.console import Console
from ttc.fake_sampler import StreamingSampler
from ttc_journal.journalled import SMALL, opened, spec

from openzaya.cli.batch_progress import ProblemLine, batch_bar, problem_line
from openzaya.cli.progress import Progress
from openzaya.ttc import CandidateDone, RunStarted
from openzaya.ttc.budget import preview
from openzaya.ttc.events import CandidateProgress
from openzaya.ttc.journal.session import run_recorded


def terminal():
    return Console(file=StringIO(), force_terminal=True, width=120, color_system=None)


def wait_for(console, text):
    until = time.monotonic() + 10
    while text not in console.file.getvalue():
        assert time.monotonic() < until, console.file.getvalue()
        time.sleep(0.02)


def test_the_table_grows_with_the_candidates_and_is_drawn_by_itself():
    console = terminal()
    with Progress(console=console) as progress:
        progress(RunStarted(SMALL, preview(SMALL, 5), 5))
        progress(CandidateProgress(0, 0, "so", 25))
        progress(CandidateProgress(0, 1, "so", 6))
        wait_for(console, "31 of at most 720 tokens, 0 s")
        progress(CandidateProgress(0, 0, "on", 50))
        wait_for(console, "56 of at most 720 tokens, 1 s")  # nothing else happens meanwhile


def run_shown(journal, run_id, line):
    """Run under a line of a batch; return what it showed after every event."""
    seen = []

    def hear(event):
        line(event)
        seen.append((event, line.counts.num_done, line.counts.total_tokens))

    coroutine = run_recorded(
        journal, run_id, StreamingSampler(), on_event=hear, wants_progress=line.wants_progress
    )
    return coroutine, seen


def test_a_problem_of_a_batch_has_a_line_while_it_is_worked_on(tmp_path):
    async def main(bar):
        async with opened(str(tmp_path / "runs.sqlite")) as journal:
            begun = await journal.begin(spec())
            with problem_line(bar, "p[/b]7") as line:
                coroutine, seen = run_shown(journal, begun.run_id, line)
                result = await coroutine
                bar.refresh()
                drawn = bar.console.file.getvalue()
                assert f"12/12 {result.usage.generated} tokens" in drawn
                assert "p[/b]7" in drawn
            assert not bar.tasks
            numbers = [event.seq for event in await journal.events(begun.run_id)]
            assert numbers == [*range(1, len(numbers) + 1)]  # none went to text as it came
        return seen

    with batch_bar(console=terminal()) as bar:
        seen = asyncio.run(main(bar))
    growing = [tokens for event, done, tokens in seen if not done and tokens]
    assert len(set(growing)) > 3  # before any candidate was complete
    assert [done for event, done, _ in seen if isinstance(event, CandidateDone)] == [*range(1, 13)]


def test_without_a_terminal_nobody_wants_progress():
    assert not Progress(console=Console(file=StringIO())).__enter__().wants_progress()
    assert not ProblemLine(None, "p").wants_progress()
