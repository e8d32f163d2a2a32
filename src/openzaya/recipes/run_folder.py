"""The folder of `openzaya train`: it belongs to one run, and to one process at a time."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openzaya.core.config import diff, dump_toml, from_mapping, load_toml
from openzaya.core.errors import ConfigError
from openzaya.core.files import write_whole
from openzaya.train.lineage import without_harmless
from openzaya.train.lock import RunLock

RESULTS = ("model", "adapter", "checkpoints", "metrics.jsonl", "report.json")
"""What a run writes into its folder after it has claimed it."""
CLAIM, SETTINGS = "run.json", "config.toml"
FREE = ("trackers",)
"""Settings of which a resume may have others, beside those of `lineage.HARMLESS`."""


@contextmanager
def claimed(run_dir: Path, about: Mapping[str, Any], config: object) -> Iterator[None]:
    """Hold a folder from the first look at it to the last byte of the result.

    Raises ConfigError for a folder that holds something else, which is left as it is, and
    CheckpointError for one in which another process works.
    """
    refuse_foreign(run_dir)
    with RunLock(run_dir):
        claim(run_dir, about, config)
        yield


def refuse_foreign(run_dir: Path) -> None:
    """Raise ConfigError for results that no run of ours has claimed."""
    taken = [name for name in RESULTS if (run_dir / name).exists()]
    if taken and not (run_dir / CLAIM).exists():
        raise ConfigError(
            f"{run_dir} holds {taken[0]}, which `openzaya train` did not write and would "
            "overwrite; choose another folder with --out"
        )


def claim(run_dir: Path, about: Mapping[str, Any], config: object) -> None:
    """Record what the run is, or refuse a folder that holds another one.

    A model is the same wherever it lies: its content counts, not its path.
    """
    path, settings = run_dir / CLAIM, run_dir / SETTINGS
    if not path.exists():
        write_whole(settings, dump_toml(config))
        write_whole(path, json.dumps(about, indent=1) + "\n")
        return
    known = read_claim(path)
    changed = [
        f"{key}: {known.get(key)} -> {value}"
        for key, value in about.items()
        if key != "model" and known.get(key) != value
    ]
    found = from_mapping(type(config), load_toml(settings), str(settings))
    others = without_harmless(diff(found, config))
    changed += [line for line in others if line.partition(":")[0] not in FREE]
    if changed:
        raise ConfigError(
            f"{run_dir} holds another run ({'; '.join(changed[:5])}); resume it with the same "
            "command or choose another folder with --out"
        )


def read_claim(path: Path) -> dict[str, Any]:
    """Return what a folder says of its run; raise ConfigError for a file that is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); put back an intact copy or choose another folder with "
            "--out"
        ) from error
