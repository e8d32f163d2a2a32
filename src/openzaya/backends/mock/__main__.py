"""`python -m openzaya.backends.mock`: run the mock upstream until a signal comes."""

import argparse
import asyncio
import signal
import sys
from dataclasses import replace

from openzaya.backends.mock.config import MockConfig
from openzaya.backends.mock.faults import FAULTS, FORM
from openzaya.backends.mock.lengths import FORMS
from openzaya.backends.mock.server import MockUpstream
from openzaya.core.config import resolve, to_mapping
from openzaya.core.errors import OpenZayaError

EXAMPLES = f"""
examples:
  python -m openzaya.backends.mock                              on a free port, which it prints
  python -m openzaya.backends.mock --port 9000 --length lognormal:400:0.6 --per-token 0.002
  python -m openzaya.backends.mock --slots 64 --set batch_token_s=0.00005
  python -m openzaya.backends.mock --fault 500=0.1 --fault hang@3,7 --fault cut=0.5@100-200
  python -m openzaya.backends.mock --set reasoning=raw --set ids=vllm --set accuracy=0.4

then ask it like any OpenAI-compatible server. The right answer to a question is what stands in
[key: ...] in it, else a number that its text decides. The same seed and prompt give the same reply.

lengths: {FORMS}
faults: {FORM}
{chr(10).join(f"  {name:<15} {what}" for name, what in FAULTS.items())}

also there:
  GET  /stats      calls, in_flight, finished, aborted (the client left first), faulted, refused,
                   peaks, tokens, CPU seconds, and the time of every abort on the monotonic clock
  GET  /calls      every call: seed, CRC-32 of its prompt, state, fault, tokens, times (?after=N)
  GET  /requests   the last bodies, with --set kept_requests=N
  POST /faults     {{"faults": ["500=0.2"]}} changes the faults of a running server
  POST /reset      begins new counters

--set NAME=VALUE changes any other setting:
"""


def main() -> int:
    """Run until SIGINT or SIGTERM; return the exit code."""
    args = build_parser().parse_args()
    try:
        asyncio.run(serve(config_of(args)))
    except OpenZayaError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    plain = MockConfig()
    parser = argparse.ArgumentParser(
        prog="python -m openzaya.backends.mock",
        description="An OpenAI-compatible server without a model, for tests of gateways.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--host", default=plain.host, help=f"[{plain.host}]")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one [0]")
    parser.add_argument(
        "--ttft", type=float, metavar="S", help=f"to the first token [{plain.ttft_s}]"
    )
    parser.add_argument(
        "--per-token", type=float, metavar="S", help=f"to the next token [{plain.token_s}]"
    )
    parser.add_argument("--length", help=f"law of the reply's tokens [{plain.length}]")
    parser.add_argument("--slots", type=int, help="calls at once; 0 = all [0]")
    parser.add_argument("--fault", action="append", default=[], help="a failure; may be repeated")
    parser.add_argument("--seed", type=int, help="of faults and of replies without a seed [0]")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    shown = [f"  {name} [{value}]" for name, value in to_mapping(plain).items()]
    parser.epilog = EXAMPLES + "\n".join(shown)
    return parser


def config_of(args: argparse.Namespace) -> MockConfig:
    """Return the settings that the command line asks for; raises ConfigError."""
    named = {
        "ttft_s": args.ttft,
        "token_s": args.per_token,
        "length": args.length,
        "slots": args.slots,
        "seed": args.seed,
        "faults": tuple(args.fault) or None,
    }
    changed = {name: value for name, value in named.items() if value is not None}
    config = replace(MockConfig(), host=args.host, port=args.port, **changed)
    return resolve(config, [], args.set)


async def serve(config: MockConfig) -> None:
    """Print the address and serve until a signal comes."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with MockUpstream(config) as mock:
        sys.stdout.write(f"mock upstream {config.models[0]!r} on {mock.url}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
