"""Entry point of the `openzaya` command: find the verb, import only its module, report errors.

A verb is a module `openzaya.cli.<verb>` with

    NAME: str                                          the verb
    SUMMARY: str                                       the line that `openzaya --help` shows
    configure(parser: argparse.ArgumentParser) -> None its flags, and examples in parser.epilog
    run(args: argparse.Namespace) -> int               the exit code
    JSON: bool (optional)                              True: main adds --json as args.json

Its top level imports nothing heavy: torch is imported inside `run`.
"""

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType

from openzaya import __version__
from openzaya.cli.interrupts import EXIT_INTERRUPTED, STOPPED, ctrl_c, end_imports
from openzaya.core.errors import ConfigError, OpenZayaError, TrainingStopped

VERBS: dict[str, str] = {
    "demo": "Answer held-out problems on the bundled model: one rollout, vote, Markovian RSA.",
    "speedrun": "Train the nano model through every stage of the recipe and print its report card.",
    "solve": "Answer one hard question with Markovian RSA, on our model or on a server.",
    "runs": "List, show, view, resume, export and forget recorded runs of test-time compute.",
    "serve": "Serve a model, ours or other servers', through the OpenAI API with Markovian RSA.",
    "eval": "Explain how an answer is judged: grade one reply in mathematics.",
    "plan": "Say what a recipe costs on given hardware: steps, time, memory, traffic; or serving.",
    "train": "Train a model folder on prepared data: SFT or more pretraining, whole or by LoRA.",
    "data": "Prepare your own data for training: tokenize it once, and see what will be trained.",
    "convert": "Rewrite a model folder: current or legacy layout, full or 8- or 4-bit weights.",
    "doctor": "Say what this machine can do and what suits it; try the sandbox.",
}
"""Every verb and its summary: each module's SUMMARY, copied so that --help imports no module."""

EXTRAS = {
    **dict.fromkeys(("uvicorn", "starlette", "pydantic", "prometheus_client", "h11"), "serve"),
    "llguidance": "grammar",
    "transformers": "hf",
    "math_verify": "rl",
    "pyarrow": "data",
    "fsspec": "data",
    "yaml": "data",
}
"""Optional distributions by the extra that brings them."""

EXIT_USAGE = 2
EXIT_BROKEN_PIPE = 141


def help_text() -> str:
    """Return what `openzaya --help` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items()]
    return "\n".join(
        [
            "usage: openzaya [--help] [--version] [--debug] VERB ...",
            "",
            "The open, trainable, runnable ZAYA1-8B system: a reasoning model (arXiv 2605.05365),",
            "its training, and the test-time compute that answers hard questions with it.",
            "",
            "verbs:",
            *lines,
            "",
            "examples:",
            "  openzaya demo",
            "  openzaya solve 'Which two numbers add up to 17 and multiply to 72?'",
            "  openzaya doctor --json",
            "",
            "`openzaya VERB --help` explains a verb. --debug shows the traceback of an error.",
        ]
    )


def load_verb(verb: str) -> ModuleType:
    """Import the module of a verb; raise ConfigError for a name that is no verb.

    A name that is close to a verb gets a suggestion.
    """
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        cure = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(VERBS)}"
        raise ConfigError(f"{verb!r} is not a verb; {cure}")
    name = f"openzaya.cli.{verb}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"the verb {verb!r} is not part of this installation") from error


def build_parser(module: ModuleType) -> argparse.ArgumentParser:
    """Return the parser of a verb's module with the flags that every verb has."""
    parser = argparse.ArgumentParser(
        prog=f"openzaya {module.NAME}",
        description=module.SUMMARY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    if getattr(module, "JSON", False):
        parser.add_argument(
            "--json", action="store_true", help="print one JSON object for machines"
        )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def meant(unknown: list[str], parser: argparse.ArgumentParser, argv: list[str]) -> str:
    """Return a question for a known flag that is close to an unknown one, else nothing."""
    flags = list(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                flags += sub._option_string_actions if name in argv else ()
    words = [word.partition("=")[0] for word in unknown if word.startswith("-")]
    near = [match for word in words for match in difflib.get_close_matches(word, flags, n=1)]
    return f"; did you mean {near[0]}?" if near else ""


def dispatch(argv: list[str]) -> int:
    """Run one command line; errors pass through. Returns the exit code."""
    if argv[:1] == ["help"] and len(argv) > 1:
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"openzaya {__version__}")
        return 0
    module = load_verb(argv[0])
    parser = build_parser(module)
    try:
        args, unknown = parser.parse_known_args(argv[1:])
        if unknown:
            parser.error(
                f"unrecognized arguments: {' '.join(unknown)}{meant(unknown, parser, argv)}"
            )
    except SystemExit as stop:  # argparse has printed help (0) or a usage error (2)
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    code: int = module.run(args)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 success, 2 bad input, 3 checkpoint, 4 upstream, 1 other errors of ours, 75 training was
    stopped and can go on, 130 Ctrl-C, 141 the reader of our output went away.
    """
    open_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with ctrl_c(end_imports):
            code = dispatch(words)
        sys.stdout.flush()  # a closed pipe must show up here, not while the interpreter exits
        return code
    except OpenZayaError as error:
        return fail(str(error), error.exit_code, debug)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        cure = f"install it with: pip install 'openzaya[{extra}]'"
        return fail(f"this needs the package {error.name!r}; {cure}", 1, debug)
    except KeyboardInterrupt:
        return fail(STOPPED, EXIT_INTERRUPTED, debug)
    except SystemExit as stop:  # rich ends so when the reader of its output went away
        if isinstance(stop.__context__, BrokenPipeError):
            return EXIT_BROKEN_PIPE
        raise
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:  # a path of the user's, unless it has none: a full disk, a lost device
        cure = "check the path, who may use it, and the space on its disk"
        return fail(f"{error}; {cure}", EXIT_USAGE if error.filename else 1, debug)


def open_streams() -> None:
    """Let everything be printed: to nowhere where a stream is closed, escaped where it must be."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def fail(message: str, exit_code: int, debug: bool) -> int:
    """Print an error to stderr, with the active traceback when `debug`, and return the code."""
    if debug:
        traceback.print_exc()
    label = "" if exit_code in (TrainingStopped.exit_code, EXIT_INTERRUPTED) else "error: "
    print(f"openzaya: {label}{message}", file=sys.stderr)
    return exit_code
