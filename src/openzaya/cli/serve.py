"""`openzaya serve`: an OpenAI-compatible server of one model on our own engine."""

import argparse
import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openzaya.serve.config import ServeConfig
    from openzaya.serve.service import Service

NAME = "serve"
SUMMARY = "Serve a model through the OpenAI API, on our own engine."

EXAMPLES = """
examples:
  openzaya serve                                      the bundled nano model on 127.0.0.1:8000
  openzaya serve --model DIR --port 9000 --context 32768
  openzaya serve --model DIR --host 0.0.0.0 --keys keys.txt
  openzaya serve --set max_queue=256 --set drain_s=60 any other setting

keys: one SHA-256 in hex per line (printf %s KEY | sha256sum), file mode 0600. Without --keys only
this machine can ask. SIGTERM lets running requests finish, a second one ends at once.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--model", default="nano", help="nano or a model folder [nano]")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one [8000]")
    parser.add_argument("--max-slots", type=int, default=16, help="requests at once [16]")
    parser.add_argument(
        "--context", type=int, metavar="TOKENS", help="prompt plus reply [the model's, max 4096]"
    )
    parser.add_argument("--keys", metavar="FILE", help="who may ask")
    parser.add_argument("--model-name", default="", help="name in the API [the folder's]")
    parser.add_argument("--threads", type=int, default=0, help="of torch [free cores]")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change another setting"
    )
    parser.epilog = EXAMPLES


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; return 0 when everything was finished."""
    import uvicorn  # noqa: F401  the extra is missing: say so before the model is loaded

    from openzaya.serve.app import create_app
    from openzaya.serve.config import check_binding
    from openzaya.serve.keys import Keys, load_keys
    from openzaya.serve.wire import Server, listen

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    config = read_config(args)
    keys = load_keys(args.keys) if args.keys else Keys()
    check_binding(config, bool(keys))
    listener = listen(config)
    service = load_service(args, config, keys)

    def ready() -> None:
        print(greeting(service, listener.getsockname()[1]), flush=True)

    def drain() -> None:
        service.driver.draining = True

    server = Server(create_app(service), config, ready, drain)
    asyncio.run(server.serve(sockets=[listener]))
    return 0


def read_config(args: argparse.Namespace) -> "ServeConfig":
    """Return the settings that the command line asks for."""
    from openzaya.core.config import resolve
    from openzaya.serve.config import ServeConfig

    config = ServeConfig(
        host=args.host,
        port=args.port,
        model_name=args.model_name or Path(args.model).resolve().name,
    )
    return resolve(config, [], args.set)


def load_service(args: argparse.Namespace, config: "ServeConfig", keys: object) -> "Service":
    """Load the model and put the engine behind the API."""
    import torch

    from openzaya.backends.local import load_engine
    from openzaya.backends.machine import choose_threads
    from openzaya.cli.solve import model_folder
    from openzaya.serve.chat import ChatCodec
    from openzaya.serve.driver import Driver
    from openzaya.serve.keys import Keys
    from openzaya.serve.metrics import Metrics
    from openzaya.serve.service import Service
    from openzaya.text.chat import ChatTemplate
    from openzaya.text.tokenizer import TextTokenizer

    assert isinstance(keys, Keys)
    torch.set_num_threads(args.threads or choose_threads())
    folder = model_folder(args.model)
    codec = ChatCodec(TextTokenizer.load(folder), ChatTemplate.load(folder))
    engine = load_engine(folder, max_slots=args.max_slots, max_tokens=args.context, dtype="auto")
    driver = Driver(
        engine,
        max_slots=args.max_slots,
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
    )


def greeting(service: "Service", port: int) -> str:
    """Return the line that says where the server is, and a request to try."""
    host = service.config.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = " -H 'Authorization: Bearer KEY'" if service.keys else ""
    body = (
        f'{{"model": "{service.model_name}", '
        '"messages": [{"role": "user", "content": "sort qdkax"}]}'
    )
    return (
        f"serving {service.model_name} on {url} ({service.context_tokens} tokens of context)\n"
        f"  curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
    )
