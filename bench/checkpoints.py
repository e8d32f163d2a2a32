"""Is a resumed run the undisturbed run, whatever happened to it? Kills, bit flips, a full disk.

    python bench/checkpoints.py                       everything, about ten minutes on one core
    python bench/checkpoints.py kill --trials 20      SIGKILL at random moments, some inside a save
    python bench/checkpoints.py term --trials 20      SIGTERM, a quarter as often: exit code 0
    python bench/checkpoints.py flip --flips 100      one random bit of a checkpoint's files
    python bench/checkpoints.py disk                  a tmpfs that is full (needs user namespaces)

Trains the nano preset on made data with Muon, the router balancer and a mixture of two sources,
one thread, a checkpoint every five steps written in the background. "Bit-identical" compares all
tensors (weights, optimizer, balancer), the state and the metrics of every step with those of a run
that nobody disturbed. Exits with 1 unless everything holds.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from openzaya.core.errors import CheckpointError, TrainingStopped
from openzaya.core.log import MetricWriter, read_metrics
from openzaya.core.seeding import numpy_stream
from openzaya.data.mixture import Mixture
from openzaya.data.windows import Window
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.train import ckpt
from openzaya.train.lineage import identity
from openzaya.train.loop import OnStep, run_stage
from openzaya.train.stages import StageConfig
from openzaya.train.state import TrainState
from openzaya.train.step import StepReport

STEPS = 50
EVERY = 5
"""Steps between checkpoints."""
TOKENS = 256
"""Tokens of a step."""
CONFIG = StageConfig(
    name="torture",
    steps=STEPS,
    tokens_per_step=TOKENS,
    context_tokens=128,
    micro_tokens=TOKENS // 2,
    warmup_steps=5,
    checkpoint_every_steps=EVERY,
)
SHARE_INSIDE_A_SAVE = 0.4
"""Share of the kills that wait for a save and strike while it is written."""
Row = tuple[str, int, int, str]
"""What was tried, how often it held, how often it was tried, and a remark."""


def made_windows(name: str, count: int) -> list[Window]:
    """Return windows of documents that repeat their first half, or count upwards."""
    rng = numpy_stream(0, "torture", name)
    windows = []
    for _ in range(count):
        halves = rng.integers(3, 300, size=(4, 16))
        rows = [
            np.tile(half, 2) if name == "copies" else half[0] + np.arange(32) for half in halves
        ]
        tokens = np.concatenate(rows).astype(np.int32)
        windows.append(Window(tokens, [32] * 4, np.ones(128, dtype=np.bool_), [name] * 4))
    return windows


def train(folder: Path, on_step: OnStep = lambda _state, _report: None) -> None:
    """Run the stage in `folder` to its end, from its newest checkpoint if there is one."""
    model = Zaya(preset("nano"))
    model.init_weights(torch.Generator().manual_seed(0))
    sources = {name: made_windows(name, 64) for name in ("copies", "counts")}
    mixture = Mixture(sources, {"copies": 0.7, "counts": 0.3})
    run_stage(
        model,
        CONFIG,
        lambda step: mixture.windows_for_step(CONFIG.seed, step, TOKENS),
        folder,
        on_step=on_step,
        writer=MetricWriter(folder / "metrics.jsonl"),
    )


def start(work: Callable[[], None]) -> int:
    """Fork a process that does `work`; it exits with 0, or with 1 after an error."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except TrainingStopped:
            code = 0
        except CheckpointError as error:
            print(error, file=sys.stderr)
        except BaseException:  # noqa: BLE001 - a forked process must end here
            traceback.print_exc()
        os._exit(code)
    return child


def finished(child: int) -> int:
    """Wait for a process; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def must_finish(folder: Path) -> float:
    """Train to the end in a process of its own; return the seconds it took."""
    begun = time.monotonic()
    if finished(start(partial(train, folder))) != 0:
        raise SystemExit(f"training in {folder} failed")
    return time.monotonic() - begun


def is_identical(one: Path, two: Path) -> bool:
    """Say whether two finished runs have the same last checkpoint and metrics, to the bit."""
    a, b = (ckpt.load(folder / ckpt.name_of(STEPS)) for folder in (one, two))
    same_tensors = a.tensors.keys() == b.tensors.keys() and all(
        t.dtype == b.tensors[name].dtype
        and t.numpy().tobytes() == b.tensors[name].numpy().tobytes()
        for name, t in a.tensors.items()
    )
    metrics = [read_metrics(folder / "metrics.jsonl") for folder in (one, two)]
    complete = [record["step"] for record in metrics[0]] == list(range(1, STEPS + 1))
    return same_tensors and a.state == b.state and complete and metrics[0] == metrics[1]


def wait_for_a_save(folder: Path, after: int, child: int) -> None:
    """Return when a save later than step `after` is being written, or when the process is over."""
    while is_running(child):
        names = [path.name for path in folder.glob("step_*.tmp-*")]
        if any("old" not in name and int(name[5:13]) > after for name in names):
            return
        time.sleep(0.003)


def wait_for_a_step(folder: Path, step: int, child: int) -> None:
    """Return when `step` steps are done, or when the process is over."""
    while is_running(child) and steps_done(folder) < step:
        time.sleep(0.05)


def steps_done(folder: Path) -> int:
    """Return the number of steps with whole lines of metrics."""
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def is_running(child: int) -> bool:
    """Say whether a process has not ended; leaves it to be waited for."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, child, options) is None


@dataclass(slots=True)
class Struck:
    """How one disturbed run went."""

    identical: bool
    code: int
    """0: it came to its end in peace, by SIGTERM or before the signal."""
    inside: bool
    """A half-written checkpoint was left behind."""
    reached: int
    """Steps done when the process ended."""
    redone_steps: int
    end_s: float
    """Seconds from the signal to the end of the process."""


def strike(folder: Path, reference: Path, number: int, run_s: float, rng: random.Random) -> Struck:
    """Send a signal at a random moment, resume, and compare with the undisturbed run.

    The moment is a random time within a random step, or within a random save.
    """
    child = start(partial(train, folder))
    if rng.random() < SHARE_INSIDE_A_SAVE:
        wait_for_a_save(folder, rng.randrange(STEPS - EVERY), child)
        time.sleep(rng.uniform(0.0, 0.03))
    else:
        wait_for_a_step(folder, rng.randrange(STEPS), child)
        time.sleep(rng.uniform(0.0, run_s / STEPS))
    struck_s = time.monotonic()
    os.kill(child, number)
    code = finished(child)
    end_s = time.monotonic() - struck_s
    inside = bool(list(folder.glob("step_*.tmp-*")))
    reached = steps_done(folder)
    saved = max([ckpt.step_of(path) for path in ckpt.checkpoints(folder)], default=0)
    must_finish(folder)
    unharmed = is_identical(folder, reference) and not list(folder.glob("*.quarantined"))
    shutil.rmtree(folder)
    return Struck(unharmed, code, inside, reached, reached - saved, end_s)


def check_signals(work: Path, number: int, trials: int, run_s: float, seed: int) -> list[Row]:
    """Disturb `trials` runs with a signal."""
    rng = random.Random(seed)
    label = signal.Signals(number).name
    struck = []
    for trial in range(trials):
        struck.append(strike(work / f"{label}-{trial}", work / "reference", number, run_s, rng))
        print(f"  {label} {trial + 1}/{trials}: {struck[-1]}", flush=True)
    inside, late = sum(s.inside for s in struck), sum(s.reached == STEPS for s in struck)
    redone = max(s.redone_steps for s in struck)
    rows = [
        (
            f"{label}, resumed run bit-identical after {STEPS} steps",
            sum(s.identical for s in struck),
            trials,
            f"{inside} inside a save, {late} after the last step; at most {redone} steps redone",
        )
    ]
    if number == signal.SIGTERM:
        slowest = max(s.end_s for s in struck)
        clean = sum(s.code == 0 and s.redone_steps == 0 for s in struck)
        rows.append(("SIGTERM, step saved, exit code 0", clean, trials, f"in {slowest:.1f} s"))
    return rows


def check_flips(work: Path, flips: int, seed: int) -> list[Row]:
    """Flip one bit in one of the newest checkpoint's files and resume, `flips` times."""
    folder = work / "flipped"
    shutil.copytree(work / "reference", folder)
    older, newest = ckpt.checkpoints(folder)[-2:]
    rng = random.Random(seed)
    held = {path.name: [0, 0] for path in newest.iterdir()}
    for _ in range(flips):
        name = rng.choice(sorted(held))
        path = newest / name
        place = rng.randrange(8 * path.stat().st_size)
        flip(path, place)
        loaded = ckpt.load_newest(folder)
        aside = list(folder.glob("*.quarantined"))
        held[name][0] += loaded is not None and loaded.path == older and len(aside) == 1
        held[name][1] += 1
        for path in aside:
            path.rename(newest)
        flip(newest / name, place)
    ckpt.verify(newest)
    return [(f"bit flip in {name}, the one before taken", *held[name], "") for name in sorted(held)]


def flip(path: Path, place: int) -> None:
    """Turn one bit of a file over."""
    with path.open("r+b") as file:
        file.seek(place // 8)
        byte = file.read(1)[0]
        file.seek(place // 8)
        file.write(bytes([byte ^ 1 << place % 8]))


def check_disk(work: Path) -> list[Row]:
    """Run `full_disk` in a user namespace of its own, on a small tmpfs."""
    newest = ckpt.checkpoints(work / "reference")[-1]
    size = sum(path.stat().st_size for path in newest.iterdir())
    place = work / "tmpfs"
    place.mkdir()
    script = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
    me = [sys.executable, __file__, "inner-disk", "--work", str(work)]
    command = ["unshare", "-Urm", "sh", "-c", script, "sh", str(5 * size), str(place), *me]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return [("full disk", 0, 1, "no user namespace with a tmpfs here, or it failed: see above")]
    return [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])]


def full_disk(work: Path) -> list[Row]:
    """Save onto a disk that is full at many points of the write, and train across a full disk."""
    place, reference = work / "tmpfs", work / "reference"
    loaded = ckpt.load(ckpt.checkpoints(reference)[-1])
    size = sum(path.stat().st_size for path in loaded.path.iterdir())
    ckpt.save(place / "cut", 1, loaded.tensors, loaded.state, {})
    shares = [i / 20 for i in range(20)] + [1 - 1 / size]
    said = []
    for share in shares:
        with_space = saved_with(place, int(share * size), loaded, wanted_factor=0.0)
        said.append(with_space is not None and "No space left on device" in with_space)
    early = saved_with(place, size // 2, loaded, wanted_factor=ckpt.FREE_SPACE_FACTOR) or ""
    intact = ckpt.load_newest(place / "cut")
    rows: list[Row] = [
        ("ENOSPC inside a save, clear error, old checkpoint intact", sum(said), len(said), ""),
        ("too little space is said before writing", int("bytes left" in early), 1, ""),
        ("old checkpoint loads after all of these", int(intact is not None), 1, ""),
    ]
    shutil.rmtree(place / "cut")
    filler, folder = place / "filler", place / "run"

    def fill(state: TrainState, _report: StepReport) -> None:
        if state.step == 2 * EVERY + 1:
            fill_up(filler, 0)
        if state.step == 3 * EVERY + 2:
            filler.unlink()

    across = finished(start(partial(train, folder, fill))) == 0
    identical = across and is_identical(folder, reference)
    rows.append(("training across a full disk is bit-identical", int(identical), 1, ""))
    shutil.rmtree(folder)

    def fill_for_good(state: TrainState, _report: StepReport) -> None:
        if state.step == 2 * EVERY + 1:
            fill_up(filler, 0)

    stops = finished(start(partial(train, folder, fill_for_good))) == 1
    filler.unlink()
    must_finish(folder)
    resumed = stops and is_identical(folder, reference)
    rows.append(("stopped by a full disk, resumed bit-identical", int(resumed), 1, ""))
    return rows


def saved_with(place: Path, free: int, loaded: ckpt.Loaded, *, wanted_factor: float) -> str | None:
    """Save with so many bytes free; return the error, None when there was none or harm was done.

    A factor of 0 leaves out the look at the free space, as if it went away after the look.
    """
    usual, ckpt.FREE_SPACE_FACTOR = ckpt.FREE_SPACE_FACTOR, wanted_factor
    fill_up(place / "filler", free)
    message = None
    try:
        ckpt.save(place / "cut", 2, loaded.tensors, loaded.state, {})
    except CheckpointError as error:
        message = str(error)
    finally:
        ckpt.FREE_SPACE_FACTOR = usual
        (place / "filler").unlink()
    left = sorted(path.name for path in (place / "cut").glob("step_*"))
    return message if left == ["step_00000001"] else None


def fill_up(filler: Path, free: int) -> None:
    """Write zeros until only about `free` bytes are left on the disk."""
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(filler.parent).free - free)


def main() -> int:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["kill", "term", "flip", "disk"])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="an existing folder to work in [a temporary one]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    identity(CONFIG)  # Once for all children: an edit while this runs is not other code.
    if args.what == ["inner-disk"]:
        print(json.dumps(full_disk(args.work)))
        return 0
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        work = Path(name)
        run_s = must_finish(work / "reference")
        print(f"undisturbed: {STEPS} steps in {run_s:.1f} s", flush=True)
        checks: dict[str, Callable[[], list[Row]]] = {
            "kill": lambda: check_signals(work, signal.SIGKILL, args.trials, run_s, args.seed),
            "term": lambda: check_signals(work, signal.SIGTERM, args.trials // 4, run_s, args.seed),
            "flip": lambda: check_flips(work, args.flips, args.seed),
            "disk": lambda: check_disk(work),
        }
        rows = [row for what in args.what for row in checks[what]()]
    print()
    for label, held, tried, remark in rows:
        print(f"{label:<62} {held:>4}/{tried:<4} {remark}")
    return int(any(held != tried for _, held, tried, _ in rows))


if __name__ == "__main__":
    raise SystemExit(main())
