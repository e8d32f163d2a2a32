"""`openzaya solve`: answer one hard question with Markovian RSA, live."""

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openzaya.cli.interrupts import EXIT_INTERRUPTED
from openzaya.cli.samplers import open_sampler, preset_name, spec_of
from openzaya.core.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from openzaya.ttc.config import MarkovianRSAConfig
    from openzaya.ttc.result import Result

NAME = "solve"
SUMMARY = "Answer one hard question with Markovian RSA, on our model or on a server."
JSON = True
DEFAULT_JOBS = 2
"""Problems of a batch that are worked on at once."""

EXAMPLES = """
examples:
  openzaya solve 'countdown 3 7 5 2 = 4'                     the bundled nano model
  openzaya solve -f problem.txt --model DIR                  a model folder on this machine
  openzaya solve 'How many primes are below 10**4?' \\
      --model http://localhost:8000 --preset 16k             any OpenAI-compatible server
  openzaya solve 'sort qdkax' -n 4 --budget 120 --show rounds
  openzaya solve 'sort qdkax' --set rounds=2 --set tail_tokens=32 --set tails_per_prompt=2
  openzaya solve -f problems.jsonl -o answers.jsonl          a batch; killed? run it again

A batch reads lines such as {"question": "...", "answer": "...", "id": "..."}; the last two may be
left out. A restart keeps what answers the same questions with the same settings, and refuses a file
of others. --set jobs=4 works on four at once [2]. Every run is recorded, see `openzaya runs list`:
--set journal=PATH or postgresql://... says where, --set journal=none nowhere.
--set strategy=hybrid takes another strategy (adaptive_consistency, pacore, delethink, ...), --set
reproduce=true turns off every switch that the paper does not have.
Cost: at most N candidates * (T rounds of aggregation * the budget + the last round's) new tokens;
the plan is printed before any work. A prompt shows at most N tails. --set with a wrong NAME lists
all settings. Ctrl-C stops and prints the best answer so far.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("question", nargs="?", default="", help="the question")
    parser.add_argument("-f", "--file", help="read the question (- = stdin) or a .jsonl batch")
    parser.add_argument("--model", default="nano", help="nano, a model folder or a URL [nano]")
    parser.add_argument(
        "--upstream-model", default="", metavar="NAME", help="the server's, where it has several"
    )
    parser.add_argument("--preset", help="16k, 40k, light, high, ... [nano for nano, else 16k]")
    parser.add_argument("-n", type=int, metavar="N", help="candidates in each round [the preset's]")
    parser.add_argument(
        "--budget", type=int, metavar="TOKENS", help="most tokens of a candidate [the preset's]"
    )
    parser.add_argument(
        "--show", choices=("answer", "rounds", "all"), default="answer", help="[answer]"
    )
    parser.add_argument("--seed", type=int, default=0, help="names the random streams [0]")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change another setting",
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="batch: where the answers go")
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Answer the question; return 0, or 130 when it was stopped."""
    from openzaya.cli.progress import show_result

    take_settings(args)
    if args.out:
        from openzaya.cli.batch import run_batch

        return run_batch(args, choose_config(args))
    question = read_question(args)
    config = choose_config(args)
    result = asyncio.run(solve(question, config, args))
    if args.json:
        print(json.dumps(result.to_json(), ensure_ascii=False))
    else:
        show_result(result, args.show)
    return EXIT_INTERRUPTED if result.interrupted else 0


def take_settings(args: argparse.Namespace) -> None:
    """Move the settings that are no fields of a preset out of --set."""
    args.journal, args.jobs, args.strategy, args.reproduce = None, DEFAULT_JOBS, "", False
    rest = []
    for change in args.set:
        name, _, value = change.partition("=")
        if name == "journal":
            args.journal = value
        elif name == "strategy":
            args.strategy = value
        elif name == "reproduce":
            if value not in ("true", "false"):
                raise ConfigError(f"reproduce is {value!r}; choose true or false")
            args.reproduce = value == "true"
        elif name == "jobs":
            if not (value.isdecimal() and int(value) > 0):
                raise ConfigError(f"jobs is {value!r}; choose a whole number from 1")
            args.jobs = int(value)
        else:
            rest.append(change)
    args.set = rest


def read_question(args: argparse.Namespace) -> str:
    """Return the question. Raises RequestError when there is none, or two."""
    if args.question and args.file:
        raise RequestError("found a question and --file; give one of them")
    if args.file and args.file.endswith(".jsonl"):
        raise RequestError(f"{args.file} is a batch; say with -o FILE where its answers go")
    text = args.question
    if args.file == "-":
        text = sys.stdin.read()
    elif args.file:
        try:
            text = Path(args.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"{args.file} cannot be read: {error}; give a text file") from error
    if not text.strip():
        raise RequestError("the question is empty; write it in quotes or name a file with -f")
    return str(text).strip()


def choose_config(args: argparse.Namespace) -> "MarkovianRSAConfig":
    """Return the preset with the changes asked for."""
    from openzaya.core.config import resolve
    from openzaya.ttc.presets import preset
    from openzaya.ttc.strategies import config_from

    base = preset(preset_name(args))
    changes = [change.removeprefix("ttc.") for change in args.set]
    given = {"num_candidates": args.n, "budget_tokens": args.budget}
    fields = {name: value for name, value in given.items() if value is not None}
    if args.strategy:
        fields["strategy"] = args.strategy
    config = resolve(config_from(fields, base), [], changes)
    return config.reproduce() if args.reproduce else config


async def solve(question: str, config: "MarkovianRSAConfig", args: argparse.Namespace) -> "Result":
    """Open the sampler and run; Ctrl-C ends the run with the best so far."""
    from openzaya.cli.journals import open_journal
    from openzaya.cli.progress import Progress
    from openzaya.ttc import MarkovianRSA
    from openzaya.ttc.journal.session import run_recorded

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    try:
        async with (
            open_journal(args.journal) as journal,
            open_sampler(args.model, args.upstream_model, config) as sampler,
        ):
            with Progress(quiet=args.json) as progress:
                if journal is None:
                    return await MarkovianRSA(config).run(
                        question,
                        sampler,
                        seed=args.seed,
                        on_event=progress,
                        stop=stop,
                        wants_progress=progress.wants_progress,
                    )
                begun = await journal.begin(spec_of(question, config, args))
                return await run_recorded(
                    journal,
                    begun.run_id,
                    sampler,
                    on_event=progress,
                    stop=stop,
                    wants_progress=progress.wants_progress,
                )
    finally:
        loop.remove_signal_handler(signal.SIGINT)
