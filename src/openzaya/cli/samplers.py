"""Opening what a command line names as its model, and the record of a run on it."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.core.records import Message

if TYPE_CHECKING:
    from openzaya.core.protocols import Sampler
    from openzaya.ttc.config import MarkovianRSAConfig
    from openzaya.ttc.journal import RunSpec


def spec_of(
    question: str, config: "MarkovianRSAConfig", args: argparse.Namespace, key: str | None = None
) -> "RunSpec":
    """Return what the journal keeps of a run, so that it can go on later."""
    from openzaya.ttc.journal import RunSpec

    model = address_of(args.model)
    return RunSpec(
        question=(Message("user", question),),
        config=config,
        seed=args.seed,
        model=args.upstream_model or model,
        preset=preset_name(args),
        strategy=args.strategy,
        sampler={"model": model, "upstream_model": args.upstream_model},
        key=key,
    )


def address_of(model: str) -> str:
    """Return what finds a model again from anywhere: a URL, `nano`, or a folder's whole path."""
    is_folder = not model.startswith(("http://", "https://")) and model != "nano"
    return str(Path(model).absolute()) if is_folder else model


def model_of(sampler: "Sampler", args: argparse.Namespace) -> str:
    """Return the name of the model that a server has, or the address of one here."""
    from openzaya.backends.openai_http import OpenAISampler

    if isinstance(sampler, OpenAISampler):
        return sampler.upstream.server.model
    return address_of(args.model)


def preset_name(args: argparse.Namespace) -> str:
    """Return the preset that was asked for, or the one that fits the model."""
    from openzaya.ttc.presets import DEFAULT_PRESET

    return str(args.preset or ("nano" if args.model == "nano" else DEFAULT_PRESET))


@asynccontextmanager
async def open_sampler(
    model: str, upstream_model: str, config: "MarkovianRSAConfig"
) -> "AsyncIterator[Sampler]":
    """Yield a sampler for the bundled model, a folder or a URL."""
    if model.startswith(("http://", "https://")):
        from openzaya.backends.http_server import server_at
        from openzaya.backends.openai_http import OpenAISampler

        server = server_at(model)
        if upstream_model:
            server = replace(server, model=upstream_model)
        asks_all = config.answer_reserve_tokens is not None
        async with OpenAISampler(server, probes_all=asks_all) as remote:
            yield remote
        return
    import torch

    from openzaya.backends.local import load_local_sampler
    from openzaya.backends.machine import choose_threads
    from openzaya.backends.placing import device_of

    torch.set_num_threads(choose_threads())
    folder, slots = model_folder(model), config.num_candidates
    device = device_of(folder)
    with load_local_sampler(folder, max_slots=slots, dtype="auto", device=device) as local:
        yield local


def model_folder(model: str) -> Path:
    """Return the folder of a model named on the command line; `nano` is the bundled one.

    Raises CheckpointError where there is none.
    """
    if model != "nano":
        if not Path(model).is_dir():
            raise CheckpointError(f"{model!r} is no folder here; name a model folder, or nano")
        return Path(model)
    from importlib.resources import files

    folder = Path(str(files("openzaya"))) / "assets" / "nano"
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"the bundled nano model is missing from {folder}; reinstall openzaya, or train one "
            "with `make speedrun` and name its folder with --model"
        )
    return folder


def run_threads(asked: int, folder: Path) -> int:
    """Return the threads of a training run: as asked, else as it began, else the free cores."""
    from openzaya.backends.machine import choose_threads
    from openzaya.train.threads import threads_of

    if asked < 0:
        raise ConfigError(f"--threads is {asked}; give a number from 1, or 0 for the free cores")
    return asked or threads_of(folder) or choose_threads()
