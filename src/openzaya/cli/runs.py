"""`openzaya runs`: look at what was run, go on with it, export it, forget it."""

import argparse
import asyncio
import json
import math
import shutil
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openzaya.cli.interrupts import EXIT_INTERRUPTED
from openzaya.core.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from openzaya.ttc.journal import Journal, RunSpec
    from openzaya.ttc.result import Result

NAME = "runs"
SUMMARY = "List, show, view, resume, export and forget recorded runs of test-time compute."

EXAMPLES = """
examples:
  openzaya runs list
  openzaya runs show 0661405e837ae80850b3da7f --candidate 1/3
  openzaya runs view 0661405e837ae80850b3da7f --open
  openzaya runs resume 0661405e837ae80850b3da7f
  openzaya runs export -o runs.jsonl --state done
  openzaya runs export -o sft.jsonl --format aggregation    for openzaya data prepare --loss last
  openzaya runs prune --days 30 --keep 1000
  openzaya runs list --journal postgresql://me@host/runs
"""
STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted")
DAY_S = 86_400.0
MIB = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands and their flags."""
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = _action(actions, "list", "the newest runs")
    listing.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="how many [20]")
    _add_state(listing)
    show = _action(actions, "show", "stages, answers, tokens and lineage of a run")
    _add_id(show)
    show.add_argument("--candidate", metavar="STAGE/SLOT", help="the prompt and tail of one")
    view = _action(actions, "view", "write the page of a run: one file that needs no server")
    _add_id(view)
    view.add_argument("-o", "--out", metavar="FILE", help="where to [run-ID.html]")
    view.add_argument("--open", action="store_true", help="open it in the browser")
    resume = _action(actions, "resume", "go on with a run that did not end, failed, or lost rows")
    _add_id(resume)
    resume.add_argument("--model", help="where the model is now, if it moved")
    export = _action(actions, "export", "write runs as lines of JSON")
    export.add_argument("ids", metavar="ID", nargs="*", help="which runs [all]")
    export.add_argument("-o", "--out", default="-", metavar="FILE", help="- = stdout [-]")
    export.add_argument(
        "--format",
        choices=("runs", "aggregation"),
        default="runs",
        help="runs whole, or examples to train aggregation on [runs]",
    )
    _add_state(export)
    prune = _action(actions, "prune", "forget runs that nobody works on")
    prune.add_argument("--days", type=float, metavar="N", help="those older than N days")
    prune.add_argument("--keep", type=int, metavar="N", help="all but the newest N")
    prune.add_argument(
        "--max-mib", type=float, metavar="MIB", help="the oldest until the journal is that small"
    )
    prune.add_argument("--id", action="append", default=[], help="this run; may be repeated")


def _add_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="of the run, as `openzaya runs list` shows it")


def _add_state(parser: argparse.ArgumentParser) -> None:
    told = f"only runs that are {', '.join(STATES[:-1])} or {STATES[-1]}"
    parser.add_argument("--state", choices=STATES, metavar="STATE", help=told)


def _action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    sentence = f"{summary[0].upper()}{summary[1:]}."
    made: argparse.ArgumentParser = actions.add_parser(
        name,
        help=summary,
        description=sentence,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--journal", metavar="PATH|URL", help="where the runs are recorded [the user's own journal]"
    )
    made.add_argument("--json", action="store_true", help="print JSON for machines")
    return made


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    from openzaya.cli.journals import default_journal
    from openzaya.ttc.journal import Journal

    actions = {
        "list": list_runs,
        "show": show_run,
        "view": view_run,
        "resume": resume_run,
        "export": export,
        "prune": prune,
    }
    if args.journal and ":" not in args.journal and not Path(args.journal).expanduser().exists():
        raise RequestError(f"there is no journal {args.journal}; name one that holds runs")
    async with Journal.open(args.journal or default_journal()) as journal:
        return await actions[args.action](journal, args)


async def list_runs(journal: "Journal", args: argparse.Namespace) -> int:
    """Print the newest runs, as text or as JSON."""
    if args.limit < 1:
        raise RequestError(f"--limit is {args.limit}; give at least 1")
    found = await journal.runs(args.limit, state=args.state)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    if not found:
        print("no runs yet: `openzaya solve` and `openzaya serve` add some")
        return 0
    from openzaya.cli.run_text import list_text

    # COLUMNS, else the terminal's; a pipe has no width, and a run stays a line there.
    print(list_text(found, shutil.get_terminal_size(fallback=(sys.maxsize, 1)).columns))
    return 0


async def show_run(journal: "Journal", args: argparse.Namespace) -> int:
    """Print a run, or one candidate of it."""
    from openzaya.cli.run_text import candidate_text, run_text

    if args.candidate:
        stage, _, slot = args.candidate.partition("/")
        if not (stage.isdecimal() and slot.isdecimal()):
            raise RequestError(
                f"--candidate is {args.candidate!r}; give a stage and a slot such as 1/3"
            )
        found = await journal.candidate(args.id, int(stage), int(slot))
        text = candidate_text(found)
    else:
        found = await journal.run(args.id)
        text = run_text(found)
    print(json.dumps(found, ensure_ascii=False) if args.json else text)
    return 0


async def view_run(journal: "Journal", args: argparse.Namespace) -> int:
    """Write a run's page with everything in it, and print where it is."""
    from openzaya.serve.web import standalone

    detail = await journal.run(args.id)
    candidates = await journal.candidates(args.id)
    path = Path(args.out or f"run-{args.id}.html").absolute()
    try:
        path.write_bytes(standalone(detail, candidates))
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error}; name another file") from error
    print(json.dumps({"path": str(path)}) if args.json else path)
    if args.open:
        import webbrowser

        webbrowser.open(path.as_uri())
    return 0


async def resume_run(journal: "Journal", args: argparse.Namespace) -> int:
    """Go on with a run and print its answer; Ctrl-C ends it with the best so far."""
    from openzaya.cli.progress import Progress, show_result
    from openzaya.cli.samplers import open_sampler
    from openzaya.ttc.journal.session import run_recorded

    spec = await journal.spec(args.id)
    model = place_of(args, spec)
    await journal.acquire(args.id)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    upstream_model = str(spec.sampler.get("upstream_model", ""))
    try:
        async with open_sampler(model, upstream_model, spec.config) as sampler:
            with Progress(quiet=args.json) as progress:
                result: Result = await run_recorded(
                    journal,
                    args.id,
                    sampler,
                    on_event=progress,
                    stop=stop,
                    wants_progress=progress.wants_progress,
                )
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if args.json:
        print(json.dumps(result.to_json(), ensure_ascii=False))
    else:
        show_result(result, "answer")
    return EXIT_INTERRUPTED if result.interrupted else 0


def place_of(args: argparse.Namespace, spec: "RunSpec") -> str:
    """Return where a run's model is. Raises RequestError for a name that only its gateway knew."""
    model = args.model or str(spec.sampler.get("model") or spec.model)
    is_place = model == "nano" or model.startswith(("http://", "https://")) or Path(model).is_dir()
    if args.model or is_place:
        return model
    raise RequestError(
        f"run {args.id} was made by a gateway that calls its model {model!r}; say with --model "
        "where that is: a URL or a folder"
    )


async def export(journal: "Journal", args: argparse.Namespace) -> int:
    """Write one line of JSON for each run, or for each example of aggregation."""
    from openzaya.ttc.journal.export import export_aggregation, export_runs

    ids, count = tuple(args.ids), 0
    lines: AsyncIterator[dict[str, Any]]
    if args.format == "aggregation":
        lines = export_aggregation(journal, args.state or "done", ids, warn)
    else:
        lines = export_runs(journal, args.state, ids, warn)
    try:
        with (
            nullcontext(sys.stdout)
            if args.out == "-"
            else Path(args.out).open("w", encoding="utf-8", errors="surrogatepass")
        ) as out:
            async for line in lines:
                out.write(json.dumps(line) + "\n")
                count += 1
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RequestError(f"{args.out} cannot be written: {error}; name another file") from error
    print(f"{count} lines written", file=sys.stderr)
    return 0


def warn(text: str) -> None:
    """Tell of something that does not end the work."""
    print(f"openzaya: {text}", file=sys.stderr)


async def prune(journal: "Journal", args: argparse.Namespace) -> int:
    """Forget runs and say how many."""
    if args.days is None and args.keep is None and args.max_mib is None and not args.id:
        raise RequestError("nothing to prune by; give --days, --keep, --max-mib or --id")
    amounts = {"--days": args.days, "--keep": args.keep, "--max-mib": args.max_mib}
    for flag, amount in amounts.items():  # one below 0 would take every run, also the newest
        if amount is not None and not 0 <= amount < math.inf:
            raise RequestError(f"{flag} is {amount}; give a number from 0")
    count = await journal.prune(
        older_than_s=None if args.days is None else args.days * DAY_S,
        keep=args.keep,
        max_bytes=None if args.max_mib is None else int(args.max_mib * MIB),
        ids=tuple(args.id),
    )
    print(json.dumps({"forgotten": count}) if args.json else f"{count} runs forgotten")
    return 0
