"""What 8- and 4-bit weights cost: perplexity and agreement with full precision.

    python bench/quantization.py                        the bundled nano model on held-out problems
    python bench/quantization.py --model DIR --texts FILE

Both are teacher-forced on the full-precision model's own greedy replies: at each position the
quantized model sees the same prefix. `--texts` takes a file of token ids, one text a line, for a
model that is not nano.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openzaya.cli.samplers import model_folder
from openzaya.engine.engine import Engine
from openzaya.engine.native.forward import NativePass
from openzaya.engine.request import SamplingParams
from openzaya.eval.rollouts import Codec
from openzaya.model.checkpoint import Source, load
from openzaya.model.convert import convert
from openzaya.model.quantize import FORMATS
from openzaya.model.quantized import QuantizedZaya, load_quantized
from openzaya.model.zaya import Zaya
from openzaya.recipes.nano.tasks import held_out
from openzaya.text.chat import ChatTemplate
from openzaya.text.tokenizer import TextTokenizer


def nano_texts(model: Zaya, count: int) -> list[tuple[list[int], list[int]]]:
    """Return prompts of held-out problems, hardest last, with the model's greedy replies."""
    folder = model_folder("nano")
    codec = Codec(TextTokenizer.load(folder), ChatTemplate.load(folder))
    items = held_out()
    chosen = [items[i] for i in np.linspace(0, len(items) - 1, count).astype(int)]
    prompts = [codec.prompt(item.problem.prompt) for item in chosen]
    params = SamplingParams(
        max_tokens=320, temperature=0.0, stop_token_ids=(codec.tokenizer.eos_id,)
    )
    outputs = Engine(model, max_slots=64, max_tokens=768).generate(prompts, params)
    return [(p, o.token_ids) for p, o in zip(prompts, outputs, strict=True)]


def scores(
    model: Zaya | QuantizedZaya, texts: list[tuple[list[int], list[int]]]
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of every reply token, and the likeliest token in its place."""
    forward = NativePass(model, 1, 1024, torch.get_num_threads())
    chosen, best = [], []
    for prompt, reply in texts:
        ids = np.array(prompt + reply)
        places = np.arange(len(prompt) - 1, len(ids) - 1)
        logits_NV, _ = forward.run(ids, [len(ids)], [0], places, want_experts=False)
        forward.cache.reset(0)
        target_N1 = torch.tensor(reply).unsqueeze(-1)
        chosen.append(logits_NV.log_softmax(-1).gather(-1, target_N1).squeeze(-1))
        best.append(logits_NV.argmax(-1))
    return torch.cat(chosen), torch.cat(best)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(model_folder("nano")))
    parser.add_argument("--texts", help="file of token ids, one text a line")
    parser.add_argument("--count", type=int, default=200, help="held-out problems of nano")
    args = parser.parse_args()
    model = load(args.model)
    if args.texts:
        lines = Path(args.texts).read_text().splitlines()
        rows = [[int(word) for word in line.split()] for line in lines]
        texts = [(row[:1], row[1:]) for row in rows]
    else:
        texts = nano_texts(model, args.count)
    logprobs_N, best_N = scores(model, texts)
    print(f"{len(texts)} texts, {len(best_N)} tokens")
    print("weights    MB   perplexity   greedy tokens that agree")
    size = sum(p.nbytes for p in model.state_dict().values())
    print(f"full  {size / 1e6:7.2f} {float((-logprobs_N.mean()).exp()):12.5f}")
    for name, form in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / name
            convert(Source(args.model), target, "native", form=form)
            size = sum(f.stat().st_size for f in target.glob("*.safetensors"))
            found_N, other_N = scores(load_quantized(target), texts)
        agree = float((other_N == best_N).float().mean())
        print(f"{name}  {size / 1e6:7.2f} {float((-found_N.mean()).exp()):12.5f} {agree:12.2%}")


if __name__ == "__main__":
    main()
