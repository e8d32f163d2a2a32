"""The report card of a nano run as markdown; every number comes from the run's own files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openzaya.recipes.nano.tasks import LEVELS

STAGES = ("pretrain", "midtrain", "sft", "rl")
ENTROPY_PICTURE = "load_entropy.svg"
"""Lies beside the report card; see `recipes.nano.picture`."""


def entropy_by_stage(metrics: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return every step's load entropy from the records of a run, by stage in their order."""
    found: dict[str, list[float]] = {}
    for record in metrics:
        value = record.get("train/load_entropy", record.get("rl/load_entropy"))
        if value is not None:
            found.setdefault(record["stage"], []).append(value)
    return found


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report_card(report: Mapping[str, Any]) -> str:
    """Return the report card of a finished run."""
    stages = {name: report["stages"][name] for name in STAGES}
    problems = report["problems"]
    parts = [
        "# Report card of the nano model",
        f"Made by `make speedrun`; settings hash {report['config hash'][:12]}. All scores are on "
        f"{problems['held out']} fixed held-out problems, mean +- standard error over problems.",
        "## pass@1 after each stage",
        _overview(stages),
        *(_by_task(stages, kind) for kind in ("temperature 1", "greedy")),
        "## Loss by source (nats a token, last steps of the stage)",
        _losses(stages),
        "## Router-load entropy (1 = even)",
        f"![load entropy by step]({ENTROPY_PICTURE})",
        "By layer, last steps of the stage:",
        _entropies(stages),
        "## Test-time compute",
        f"{problems['test-time compute']} held-out problems of the harder level; the vote spends, "
        "problem by problem, at most the generated tokens of Markovian RSA.",
        _ttc(report["test-time compute"]["rows"]),
        "## Reinforcement learning",
        _rewards(stages["rl"]["reward by step"]),
        "## Time",
        _times(stages),
    ]
    return "\n\n".join(parts) + "\n"


def _score(cell: Sequence[float]) -> str:
    return f"{cell[0]:.3f} +- {cell[1]:.3f}"


def _overview(stages: Mapping[str, Any]) -> str:
    columns = [(kind, level) for level in ("easy", "hard") for kind in ("temperature 1", "greedy")]
    rows = [
        [name, *(_score(result["pass@1"][kind][level]["all"]) for kind, level in columns)]
        for name, result in stages.items()
    ]
    return table(["stage", *(f"{level}, {kind}" for kind, level in columns)], rows)


def _by_task(stages: Mapping[str, Any], kind: str) -> str:
    rows = [
        [
            f"{task} ({level})",
            *(f"{result['pass@1'][kind][level][task][0]:.2f}" for result in stages.values()),
        ]
        for level in ("easy", "hard")
        for task in LEVELS
    ]
    return f"### By task, {kind}\n\n" + table(["task", *stages], rows)


def _losses(stages: Mapping[str, Any]) -> str:
    trained = {k: v for k, v in stages.items() if "loss by source" in v}
    sources = sorted({source for v in trained.values() for source in v["loss by source"]})
    rows = []
    for source in sources:
        cells = [v["loss by source"].get(source) for v in trained.values()]
        rows.append([source, *("-" if x is None else f"{x:.3f}" for x in cells)])
    return table(["source", *trained], rows)


def _entropies(stages: Mapping[str, Any]) -> str:
    key = "load entropy by layer"
    trained = {name: result[key] for name, result in stages.items() if key in result}
    depth = max(len(v) for v in trained.values())
    rows = [[str(layer), *(f"{v[layer]:.3f}" for v in trained.values())] for layer in range(depth)]
    return table(["layer", *trained], rows)


def _ttc(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [r["method"], f"{r['score']:.3f} +- {r['error']:.3f}", f"{r['tokens']:.0f}"] for r in rows
    ]
    return table(["method", "score", "generated tokens a problem"], cells)


def _rewards(rewards: Sequence[float]) -> str:
    width = max(1, len(rewards) // 6)
    chunks = [rewards[i : i + width] for i in range(0, len(rewards), width)]
    rows = [
        [f"{i * width + 1}-{i * width + len(chunk)}", f"{sum(chunk) / len(chunk):.3f}"]
        for i, chunk in enumerate(chunks)
    ]
    return table(["steps", "mean task reward of the training prompts"], rows)


def _times(stages: Mapping[str, Any]) -> str:
    rows = [
        [name, str(v.get("tokens", "-")), f"{v['train_s']:.0f}", f"{v['eval_s']:.0f}"]
        for name, v in stages.items()
    ]
    return table(["stage", "trained tokens", "training, s", "examination, s"], rows)
