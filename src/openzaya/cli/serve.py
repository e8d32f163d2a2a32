"""`openzaya serve`: the OpenAI API with test-time compute, over our engine or other servers."""

import argparse
import asyncio
import gc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from openzaya.core.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from openzaya.serve.config import ServeConfig
    from openzaya.serve.gateway.config import GatewayConfig
    from openzaya.serve.keys import Keys
    from openzaya.serve.service import Service
    from openzaya.ttc.journal import Journal


class Drained(Protocol):
    """What is told that the server is about to end."""

    draining: bool


NAME = "serve"
SUMMARY = "Serve a model, ours or other servers', through the OpenAI API with Markovian RSA."
DEFAULT_MODEL = "nano"
DEFAULT_SLOTS = 16
MAX_SLOTS = 1 << 14
GC_THRESHOLDS = (20_000, 20, 50)
"""New objects between two looks for garbage, and looks at the young between those at older ones."""
DEFAULT_IN_FLIGHT = 64
"""Calls at once for each upstream."""

EXAMPLES = """
examples:
  openzaya serve                                      the bundled nano model on 127.0.0.1:8000
  openzaya serve --upstream http://gpu1:30000 --upstream http://gpu2:30000
  openzaya serve --upstream https://api.example.com/v1#MODEL   one that has several models
  openzaya serve --model DIR --port 9000 --context 32768
  openzaya serve --model DIR --host 0.0.0.0 --keys keys.txt
  openzaya serve --set max_runs=16 --set log_format=json       any other setting
  openzaya serve --sandbox                            run programs instead: POST /run_code

Ask for the model NAME:mrsa-16k (or NAME:mrsa-nano, ...) and a run of Markovian RSA answers; NAME
alone is plain. The page at / shows runs live. Keys: one SHA-256 in hex per line (printf %s KEY |
sha256sum), file mode 0600; without --keys only this machine can ask. SIGTERM lets running requests
finish, a second one ends at once. An upstream's key is read from OPENAI_API_KEY.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--model", default=DEFAULT_MODEL, help="nano or a model folder [nano]")
    parser.add_argument(
        "--upstream",
        action="append",
        default=[],
        metavar="URL",
        help="another server, or URL#MODEL; repeatable",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one [8000]")
    parser.add_argument(
        "--max-slots",
        type=int,
        metavar="N",
        help="requests at once [16; 64 for each upstream; --sandbox: one a core]",
    )
    parser.add_argument(
        "--context", type=int, metavar="TOKENS", help="prompt plus reply [the model's, max 4096]"
    )
    parser.add_argument("--keys", metavar="FILE", help="the keys that may ask [nobody needs one]")
    parser.add_argument(
        "--sandbox",
        nargs="?",
        const="zygote",
        choices=("zygote", "bwrap"),
        help="serve the sandbox, no model",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change another setting; a wrong NAME lists all",
    )
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; return 0 when everything was finished."""
    import uvicorn  # noqa: F401  the extra is missing: say so before the model is loaded

    from openzaya.serve.logs import log_to_stderr

    config = read_config(args)
    with log_to_stderr(config.log_format):
        return serve(args, config)


def serve(args: argparse.Namespace, config: "GatewayConfig") -> int:
    """Open what is served and serve it; see `run`."""
    from openzaya.serve.config import check_binding
    from openzaya.serve.keys import Keys, load_keys
    from openzaya.serve.wire import Server, allow_files, listen

    keys = load_keys(args.keys) if args.keys else Keys()
    check_binding(config, bool(keys))
    allow_files()
    with listen(config) as listener:
        port = listener.getsockname()[1]
        open_app = sandbox_app if args.sandbox else upstream_app if args.upstream else model_app
        app, state, text = open_app(args, config, keys, port)

        def drain() -> None:
            state.draining = True

        server = Server(app, config, lambda: print(text, flush=True), drain)
        # Little of what a request leaves is garbage in a circle, and looking for it after every 700
        # objects, as Python does, takes a tenth of a call's CPU.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        asyncio.run(server.serve(sockets=[listener]))
    return 0


def model_app(
    args: argparse.Namespace, config: "GatewayConfig", keys: "Keys", port: int
) -> tuple["ASGIApp", "Drained", str]:
    """Load the model; return its application, what is told to drain, and the greeting."""
    from openzaya.serve.gateway.assembly import engine_gateway

    service = load_service(args, config, keys, config.threads, config.device)
    slots = args.max_slots or DEFAULT_SLOTS
    app, gateway = engine_gateway(service, config, open_journal(config), max_slots=slots)
    return app, gateway, greeting(service, port)


def upstream_app(
    args: argparse.Namespace, config: "GatewayConfig", keys: "Keys", port: int
) -> tuple["ASGIApp", "Drained", str]:
    """Return the application over other servers, what is told to drain, and the greeting.

    The servers are asked for their models when the application starts.
    """
    from openzaya.backends.http_server import server_at
    from openzaya.backends.pool import PoolConfig, Upstreams
    from openzaya.serve.gateway.assembly import upstream_gateway

    servers = [
        replace(
            server_at(address),
            max_in_flight=args.max_slots or DEFAULT_IN_FLIGHT,
            first_token_s=config.first_token_s,
            between_tokens_s=config.between_tokens_s,
        )
        for address in args.upstream
    ]
    pool = Upstreams(servers, PoolConfig(job_share=config.run_share, queue_s=config.queue_s))
    app, gateway = upstream_gateway(pool, pool, config, keys, open_journal(config))
    url = url_of(config, port)
    text = (
        f"serving {', '.join(args.upstream)} on {url}; the page is {url}/\n"
        f"  curl {url}/v1/models{key_option(keys)}"
    )
    return app, gateway, text


def open_journal(config: "GatewayConfig") -> "Journal":
    """Open the journal that the settings name, or the one in the usual place."""
    from openzaya.cli.journals import default_journal
    from openzaya.ttc.journal import Journal

    path = config.journal or default_journal()
    if "://" not in path:
        folder = Path(path.removeprefix("sqlite:")).parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the journal's folder {folder} cannot be made: {error.strerror}; name another "
                "file with --set journal=PATH"
            ) from error
    return Journal.open(path, writes=True)


def sandbox_app(
    args: argparse.Namespace, config: "GatewayConfig", keys: "Keys", port: int
) -> tuple["ASGIApp", "Drained", str]:
    """Start the sandbox; return its application, what is told to drain, and the greeting.

    Raises SandboxError where boxes do not work or do not hold.
    """
    from openzaya.sandbox.executor import Executor, num_cores
    from openzaya.sandbox.probes import require
    from openzaya.serve.sandbox_app import SandboxService, create_sandbox_app

    executor = Executor.default(args.sandbox)
    try:
        require(executor)
    except BaseException:
        executor.close()
        raise
    slots = min(args.max_slots or num_cores(), num_cores())
    service = SandboxService(config=config, keys=keys, executor=executor, slots=slots)
    url = url_of(config, port)
    text = (
        f"serving the sandbox on {url} ({args.sandbox}, {slots} programs at once)\n"
        f"  curl {url}/run_code{key_option(keys)} -H 'Content-Type: application/json' "
        """-d '{"language": "python", "code": "print(6 * 7)"}'"""
    )
    return create_sandbox_app(service), service, text


def read_config(args: argparse.Namespace) -> "GatewayConfig":
    """Return the settings that the command line asks for."""
    from openzaya.core.config import resolve
    from openzaya.serve.gateway.config import GatewayConfig

    if args.max_slots is not None and not 1 <= args.max_slots <= MAX_SLOTS:
        raise ConfigError(f"--max-slots is {args.max_slots}, expected 1 to {MAX_SLOTS}")
    if sum((args.model != DEFAULT_MODEL, bool(args.upstream), bool(args.sandbox))) > 1:
        raise ConfigError(
            "more than one of --model, --upstream and --sandbox is given, and a server serves one "
            "of them; start one for each"
        )
    config = GatewayConfig(
        host=args.host,
        port=args.port,
        model_name=Path(args.model).resolve().name,
    )
    return resolve(config, [], args.set)


def load_service(
    args: argparse.Namespace,
    config: "ServeConfig",
    keys: object,
    threads: int = 0,
    device: str = "auto",
) -> "Service":
    """Load the model and put the engine behind the API; 0 threads take the free cores."""
    import torch

    from openzaya.backends.local import load_engine
    from openzaya.backends.machine import choose_threads
    from openzaya.backends.placing import device_of
    from openzaya.cli.samplers import model_folder
    from openzaya.serve.chat import ChatCodec
    from openzaya.serve.driver import Driver
    from openzaya.serve.grammar import Grammars
    from openzaya.serve.keys import Keys
    from openzaya.serve.metrics import Metrics
    from openzaya.serve.schema import can_be_asked_for
    from openzaya.serve.service import Service
    from openzaya.text.chat import ChatTemplate
    from openzaya.text.tokenizer import TextTokenizer

    assert isinstance(keys, Keys)
    if not can_be_asked_for(config.model_name):
        raise ConfigError(
            f"requests cannot give the model's name, {config.model_name!r}: it looks like a path, "
            "or is too long; choose another with --set model_name=NAME"
        )
    torch.set_num_threads(threads or choose_threads())
    folder = model_folder(args.model)
    codec = ChatCodec(TextTokenizer.load(folder), ChatTemplate.load(folder))
    engine = load_engine(
        folder,
        max_slots=args.max_slots or DEFAULT_SLOTS,
        max_tokens=args.context,
        dtype="auto",
        device=device_of(folder, device),
    )
    codec.check_vocabulary(engine.vocab_size)
    for key in keys.known:
        engine.set_weight(key.tenant, key.allowance.weight)
    driver = Driver(
        engine,
        max_slots=args.max_slots or DEFAULT_SLOTS,
        max_queue=config.max_queue,
        max_unread_events=config.max_unread_events,
    )
    return Service(
        config=config,
        model_name=config.model_name,
        codec=codec,
        driver=driver,
        keys=keys,
        metrics=Metrics(driver),
        context_tokens=engine.max_tokens,
        vocab_size=engine.vocab_size,
        grammars=Grammars(codec.tokenizer, engine.vocab_size, codec.stop_ids),
    )


def greeting(service: "Service", port: int) -> str:
    """Return the line that says where the server is, and a request to try."""
    url = url_of(service.config, port)
    body = (
        f'{{"model": "{service.model_name}", '
        '"messages": [{"role": "user", "content": "sort qdkax"}]}'
    )
    return (
        f"serving {service.model_name} on {url} ({service.context_tokens} tokens of context)\n"
        f"  curl {url}/v1/chat/completions{key_option(service.keys)} "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )


def url_of(config: "ServeConfig", port: int) -> str:
    """Return where the server is."""
    host = config.host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def key_option(keys: "Keys") -> str:
    """Return curl's option for the key, where one is needed."""
    return " -H 'Authorization: Bearer KEY'" if keys else ""
