"""Where a checkpoint comes from: run, parent, settings, model, code; and what a resume refuses.

`identity` describes the run that is about to start, `refuse_changes` compares it with what a
checkpoint recorded. The code is compared file by file, so that the refusal can name the files.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import openzaya
from openzaya.core.config import config_hash, diff, to_mapping
from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.lora import adapters
from openzaya.model.shards import fingerprint
from openzaya.model.zaya import Zaya
from openzaya.train.manifest import sha256

REFUSED = ("config", "model", "tokenizer", "data", "code")
"""Parts of an identity in which a resume may not differ unless it says so."""
HARMLESS = (
    "checkpoint_every_steps",
    "evaluate_every_steps",
    "recompute",
    "offload",
    "score_limit_s",
    "max_infra_share",
    "max_useless_steps",
)
"""Settings that change no number; a resume may have others: it may meet less memory, or a verifier
that needs more time. (Compiled layers of a GPU may round otherwise when they are computed again.)
"""
TRAINING_CODE = ("core", "data", "model", "optim", "text", "train")
"""Packages whose code decides the numbers of a supervised stage."""
RL_CODE = (*TRAINING_CODE, "engine", "envs", "rl")
"""And of an RL stage."""
SOURCE_SUFFIXES = (".py", ".h", ".cpp")
SHOWN = 8
"""Most differences named in an error."""

log = logging.getLogger(__name__)


def identity(
    config: object,
    tokenizer_hash: str = "",
    packages: Sequence[str] = TRAINING_CODE,
    kernels: str = "torch",
    muon: str = "torch",
) -> dict[str, Any]:
    """Return what a checkpoint records of its run; every value survives JSON.

    `kernels` names what computes the element-wise steps, `muon` what orthogonalizes.
    """
    return {
        "config_hash": config_hash(config),
        "config": to_mapping(config),
        "tokenizer": tokenizer_hash,
        "code": code_revision(tuple(packages)),
        "machine": {"torch threads": torch.get_num_threads(), "kernels": kernels, "muon": muon},
    }


def shape_of(model: Zaya, dtype: torch.dtype) -> dict[str, Any]:
    """Return what decides a model's numbers beside its weights; layers compute in `dtype`.

    The weights are in the checkpoint, or named by `Saving.base`.
    """
    shape = {"config": to_mapping(model.config), "dtype": str(dtype)}
    lora = [to_mapping(part.config) for _, part in adapters(model)]
    return shape | {"lora": lora[0]} if lora else shape


def content_of(model: Zaya) -> str:
    """Return a name for a model's config and weights, 64 hex digits; no path, no layout of files.

    All bytes count, as the process holds them: for 17 GB that takes 17 s on one core, and less on
    more, beside a load that has to read them anyway. A folder's own list of checksums would be
    cheaper and is not there for most models.
    """
    name = f"{config_hash(model.config)} {fingerprint(model.state_dict())}"
    return hashlib.sha256(name.encode()).hexdigest()


@cache
def code_revision(packages: tuple[str, ...]) -> dict[str, str]:
    """Return {file: first 12 hex digits of its SHA-256} of our packages, and torch's version.

    Files rather than a git revision: it also holds for an installed package and for edits that
    nobody committed.
    """
    root = Path(openzaya.__file__).parent
    files = sorted(
        path
        for package in packages
        for path in (root / package).rglob("*")
        if path.suffix in SOURCE_SUFFIXES
    )
    code = {path.relative_to(root).as_posix(): sha256(path)[:12] for path in files}
    return code | {"torch": torch.__version__}


def refuse_changes(
    path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], allowed: Sequence[str]
) -> None:
    """Raise CheckpointError when a checkpoint's run differs from the one that would resume it.

    `allowed` names parts that may differ; the log then says how. What `wanted` does not hold is
    not compared. The base of adapters may not differ at all: they are nothing without it.
    """
    if found.get("base") and found["base"] != wanted.get("base"):
        raise CheckpointError(
            f"{path} holds adapters alone, of the model {found['base'][:12]}, and the model given "
            f"is {str(wanted.get('base'))[:12]}; give the model that they were trained on, with "
            "the same weights in the same dtype, or start in another folder"
        )
    unknown = sorted(set(allowed) - set(REFUSED))
    if unknown:
        raise ConfigError(f"cannot allow changes of {unknown[0]!r}; choose of {', '.join(REFUSED)}")
    refused: list[str] = []
    changed_parts: list[str] = []
    for part in REFUSED:
        changed = diff({part: found.get(part)}, {part: wanted[part]}) if part in wanted else []
        changed = changed if part != "config" else without_harmless(changed)
        if changed and part in allowed:
            log.warning("%s is resumed although it changed: %s", path, listed(changed))
        elif changed:
            refused += changed
            changed_parts.append(part)
    if refused:
        raise CheckpointError(
            f"{path} was made with other {' and '.join(changed_parts)} ({listed(refused)}); resume "
            "with the same, start in another folder, or allow the change by name "
            f"(allow_changed = {', '.join(changed_parts)})"
        )
    for line in diff({"machine": found.get("machine")}, {"machine": wanted.get("machine")}):
        log.warning("%s: the resumed run is right but need not be bit-identical (%s)", path, line)


def without_harmless(changes: Sequence[str]) -> list[str]:
    """Return the lines of `core.config.diff` whose setting changes a number."""
    return [c for c in changes if c.partition(":")[0].rpartition(".")[2] not in HARMLESS]


def listed(changes: Sequence[str]) -> str:
    """Return the first changes in one line, and how many more there are."""
    more = f"; and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return "; ".join(changes[:SHOWN]) + more
