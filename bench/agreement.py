"""How closely the engine's log-probabilities are those of the training forward (paper, figure 6).

    python bench/agreement.py                          the bundled nano model
    python bench/agreement.py --picture docs/pictures/agreement.png
    python bench/agreement.py --device cuda            the Triton kernels instead of the C++ ones

The engine samples at temperature 1 and records experts; the training forward scores the same tokens
with these experts replayed, and without. KL is that of the whole distributions, per token, engine
against trainer; r is Pearson's over the log-probabilities of the sampled tokens.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openzaya.cli.samplers import model_folder
from openzaya.engine.engine import Engine
from openzaya.engine.passes import Pass, make_pass
from openzaya.engine.request import Output, SamplingParams
from openzaya.eval.rollouts import Codec
from openzaya.model.checkpoint import load
from openzaya.model.zaya import Zaya
from openzaya.recipes.nano.tasks import held_out
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer


def sampled(model: Zaya, num_tokens: int) -> list[tuple[list[int], Output]]:
    """Return prompts of held-out problems with replies, `num_tokens` in all at least."""
    folder = model_folder("nano")
    codec = Codec(TextTokenizer.load(folder), ChatTemplate.load(folder))
    engine = Engine(model, max_slots=32, max_tokens=768)
    params = SamplingParams(
        max_tokens=320, seed=3, stop_token_ids=(codec.tokenizer.eos_id,), capture_experts=True
    )
    prompts = [codec.prompt(item.problem.prompt) for item in held_out()[5::11]]
    outputs = engine.generate(prompts, params)
    kept, total = [], 0
    for prompt, output in zip(prompts, outputs, strict=True):
        if total < num_tokens:
            kept.append((prompt, output))
            total += len(output.token_ids)
    return kept


@torch.no_grad()
def logits_of_trainer(model: Zaya, ids: list[int], replay_TL: Tensor | None) -> Tensor:
    """Return the training forward's logits at every input."""
    ids_T = torch.tensor(ids, device=model.device)
    if replay_TL is not None:
        replay_TL = replay_TL.to(model.device)
    return model.head(model.trunk(ids_T, replay_TL=replay_TL).hidden_TD).float().cpu()


def logits_of_engine(forward: Pass, ids: list[int]) -> Tensor:
    """Return the engine's logits at every input."""
    forward.cache.reset(0)
    out, _ = forward.run(np.array(ids), [len(ids)], [0], np.arange(len(ids)), want_experts=False)
    return out.float().cpu().clone()


def compare(
    model: Zaya, texts: list[tuple[list[int], Output]], replayed: bool
) -> dict[str, Tensor]:
    """Return per sampled token: both log-probabilities and the KL of the distributions."""
    forward = make_pass(model, 1, 1024)
    parts: dict[str, list[Tensor]] = {"engine": [], "trainer": [], "kl": []}
    for prompt, output in texts:
        ids = prompt + output.token_ids[:-1]
        replay_TL = torch.from_numpy(output.experts).long() if replayed else None
        places = slice(len(prompt) - 1, len(ids))
        engine_NV = logits_of_engine(forward, ids)[places].log_softmax(-1)
        trainer_NV = logits_of_trainer(model, ids, replay_TL)[places].log_softmax(-1)
        target_N1 = torch.tensor(output.token_ids).unsqueeze(-1)
        parts["engine"].append(torch.tensor(output.logprobs))
        parts["trainer"].append(trainer_NV.gather(-1, target_N1).squeeze(-1))
        wide_NV = engine_NV.double()
        parts["kl"].append((wide_NV.exp() * (wide_NV - trainer_NV.double())).sum(-1))
    return {name: torch.cat(values) for name, values in parts.items()}


def draw(found: dict[str, Tensor], target: Path) -> None:
    """Draw the trainer's log-probabilities over the engine's."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 4.4))
    axes.plot([-8, 0], [-8, 0], color="0.7", linewidth=1, zorder=0)
    axes.scatter(found["engine"], found["trainer"], s=6, alpha=0.5, linewidths=0)
    axes.set_xlabel("engine: log-probability of the sampled token")
    axes.set_ylabel("training forward, experts replayed")
    r = float(np.corrcoef(found["engine"], found["trainer"])[0, 1])
    axes.set_title(f"bf16 weights, {len(found['kl'])} tokens: r = {r:.6f}", fontsize=10)
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(model_folder("nano")))
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print("weights    experts    tokens          KL   Pearson r")
    for dtype in ("float32", "bfloat16"):
        model = load(args.model, dtype=dtype, precision="paper", device=args.device)
        texts = sampled(model, args.tokens)
        for replayed in (True, False):
            found = compare(model, texts, replayed)
            r = np.corrcoef(found["engine"], found["trainer"])[0, 1]
            name = "replayed" if replayed else "own"
            kl = float(found["kl"].mean())
            print(f"{dtype:10} {name:10} {len(found['kl']):6} {kl:11.2e} {r:11.7f}")
            if args.picture and replayed and dtype == "bfloat16":
                draw(found, args.picture)


if __name__ == "__main__":
    main()
