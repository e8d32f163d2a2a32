"""What answer-preserving trimming is for: three ways to fit redundant traces into a short context.

    python bench/ap_trim_ablation.py --out runs/ablation          about 25 minutes on an idle core
    python bench/ap_trim_ablation.py --seeds 1 --steps 20 --sft-steps 5   to try the script
    python bench/ap_trim_ablation.py --documents 1500 --min-checks 2 --out runs/ablation-finite
                                                        where long traces are all there is

Worked problems of the nano recipe, whose reasoning is redundant as that of models is: a search with
wrong tries, then the whole work done again up to three times as a check. A small model is trained
on them in a context that half of them do not fit, with as many tokens in each arm:

    ap      the end of the reasoning goes, the answer stays (the paper's rule)
    naive   the document ends where the context does, mostly inside the reasoning
    drop    documents that do not fit are left out

Documents are made without end, so that an arm which drops many sees as many others; with
`--documents` all arms get the same ones and repeat what they keep of them as often as it takes.

Accuracy is that of greedy replies to the recipe's held-out problems. With --sft-steps every arm
then gets the same short fine-tuning on whole traces and is examined again. Prints one JSON object a
run and a table of means with standard errors over the seeds; a finished run is not done again.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from openzaya.core.records import Message
from openzaya.core.seeding import stream, stream_seed
from openzaya.data.mixture import Mixture
from openzaya.data.windows import build_windows
from openzaya.engine.engine import Engine
from openzaya.envs.base import Teacher
from openzaya.envs.teaching import trace
from openzaya.eval.rollouts import EvalConfig, pass_at_1, sample_and_judge
from openzaya.model.presets import preset
from openzaya.model.zaya import Zaya
from openzaya.recipes.nano.evaluation import judge_of
from openzaya.recipes.nano.s1_pretrain import BALANCE, OPTIM
from openzaya.recipes.nano.speedrun import nano_codec
from openzaya.recipes.nano.tasks import draw_training, held_out
from openzaya.text.document import Document
from openzaya.train.loop import run_stage
from openzaya.train.stages import StageConfig

CONTEXT, WHOLE_CONTEXT = 96, 512
TOKENS_PER_STEP = 8_192
REPLY_TOKENS = 384
MAX_CHECKS = 3
"""How often the work may be done again."""
ARMS = ("ap", "naive", "drop")
CODEC = nano_codec()


def redundant(rng: Random, min_checks: int = 0) -> Document:
    """Return a worked problem whose reasoning is repeated as a check."""
    item = draw_training(rng, 0.4)
    question, reply = trace(item.env, item.problem, rng, Teacher(patience=rng.randint(2, 10)))
    assert reply.reasoning is not None
    work = "~".join([reply.reasoning] * (1 + rng.randint(min_checks, MAX_CHECKS)))
    turns = (question, Message("assistant", reply.content, reasoning=work))
    return CODEC.chat.encode_turns(turns, CODEC.tokenizer, source="traces")


def cut_off(document: Document, context: int) -> Document:
    """Return the first tokens of a document, whatever they are."""
    segments = tuple(
        replace(segment, length=min(segment.length, context - segment.start))
        for segment in document.segments
        if segment.start < context
    )
    return Document(document.tokens[:context], segments, document.source)


def fitted(documents: Sequence[Document], arm: str, context: int) -> list[Document]:
    """Return what an arm trains on; AP-trimming itself is done by `build_windows`."""
    if arm == "naive":
        return [cut_off(document, context) for document in documents]
    if arm == "drop":
        return [document for document in documents if len(document.tokens) <= context]
    return list(documents)


def corpus(seed: int, name: str, tokens: int, keep: Callable[[Document], bool]) -> list[Document]:
    """Return documents with so many tokens that are kept."""
    documents: list[Document] = []
    total = index = 0
    while total < tokens:
        document = redundant(stream(seed, name, index))
        documents.append(document)
        total += min(len(document.tokens), CONTEXT) if keep(document) else 0
        index += 1
    return documents


def collection(seed: int, size: int, min_checks: int) -> list[Document]:
    """Return so many documents, the same for every arm."""
    return [redundant(stream(seed, "collection", i), min_checks) for i in range(size)]


def train(model: Zaya, documents: list[Document], context: int, steps: int, seed: int) -> float:
    """Train on documents; return the last steps' loss."""
    windows = build_windows(documents, context, window_tokens=max(context, 512), seed=seed)
    mixture = Mixture({"traces": windows}, {"traces": 1.0})
    stage = StageConfig(
        name="ablation",
        steps=steps,
        tokens_per_step=TOKENS_PER_STEP,
        context_tokens=context,
        warmup_steps=min(20, steps),
        decay_fraction=0.2,
        optim=OPTIM,
        balance=BALANCE,
        checkpoint_every_steps=steps,
        seed=stream_seed(seed, "order"),
    )
    with TemporaryDirectory() as folder:
        summary = run_stage(
            model,
            stage,
            lambda step: mixture.windows_for_step(stage.seed, step, TOKENS_PER_STEP),
            Path(folder) / "checkpoints",
        )
    return summary.loss_by_source()["traces"]


def examine(model: Zaya, per_level: int) -> dict[str, float]:
    """Return accuracy of greedy replies by level, and mean tokens of a reply."""
    seen: dict[tuple[str, str], int] = {}
    items = []
    for item in held_out():
        key = (item.env.name, item.level)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= per_level:
            items.append(item)
    engine = Engine(model.eval(), max_slots=128, max_tokens=REPLY_TOKENS + 96)
    settings = EvalConfig(num_samples=1, temperature=0.0, max_tokens=REPLY_TOKENS)
    questions = [item.problem.prompt for item in items]
    outcomes = sample_and_judge(engine, CODEC, questions, judge_of(items), settings)
    pairs = list(zip(items, outcomes, strict=True))
    found = {
        level: pass_at_1([o for i, o in pairs if i.level == level]).mean
        for level in ("easy", "hard")
    }
    return {**found, "reply tokens": statistics.mean(o.num_tokens for o in outcomes)}


def run(arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and examine one arm with one seed."""
    tokenizer = CODEC.tokenizer
    model = Zaya(preset("nano", eos_token_id=tokenizer.eos_id, pad_token_id=0))
    model.init_weights(torch.Generator().manual_seed(stream_seed(seed, "init")))
    wanted = args.steps * TOKENS_PER_STEP * 3 // 4

    def keep(document: Document) -> bool:
        return arm != "drop" or len(document.tokens) <= CONTEXT

    if args.documents:
        made = collection(seed, args.documents, args.min_checks)
    else:
        made = corpus(seed, "pretrain", wanted, keep)
    documents = fitted(made, arm, CONTEXT)
    result: dict[str, Any] = {"arm": arm, "seed": seed, "documents": len(documents)}
    result["loss"] = train(model, documents, CONTEXT, args.steps, seed)
    result["pretrained"] = examine(model, args.per_level)
    if args.sft_steps:
        whole = corpus(seed, "sft", args.sft_steps * TOKENS_PER_STEP // 2, lambda _: True)
        result["sft loss"] = train(model, whole, WHOLE_CONTEXT, args.sft_steps, seed + 1000)
        result["fine-tuned"] = examine(model, args.per_level)
    return result


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return means and standard errors by arm as Markdown."""
    stages = [name for name in ("pretrained", "fine-tuned") if name in results[0]]
    columns = [(stage, key) for stage in stages for key in ("easy", "hard", "reply tokens")]
    lines = ["| arm | " + " | ".join(f"{s}, {k}" for s, k in columns) + " |"]
    lines.append("|" + " --- |" * (len(columns) + 1))
    for arm in dict.fromkeys(r["arm"] for r in results):
        mine = [r for r in results if r["arm"] == arm]
        cells = []
        for stage, level in columns:
            values = [r[stage][level] for r in mine]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.3f} ± {error:.3f}" if values else "-")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ap_trim_ablation"))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--sft-steps", type=int, default=0)
    parser.add_argument("--per-level", type=int, default=20, help="held-out problems a task [20]")
    parser.add_argument("--documents", type=int, default=0, help="all there are; 0 = no end [0]")
    parser.add_argument("--min-checks", type=int, default=0, help="of these documents [0]")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"[{','.join(ARMS)}]")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in range(args.seeds):
        for arm in args.arms.split(","):
            path = args.out / f"{arm}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(run(arm, seed, args)), encoding="utf-8")
            results.append(json.loads(path.read_text(encoding="utf-8")))
            print(json.dumps(results[-1]), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
