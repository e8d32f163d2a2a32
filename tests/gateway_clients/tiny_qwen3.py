"""A Qwen3 that thinks a few letters and answers a digit: a model that vLLM serves in no time.

Its layers add nothing, so the next token depends on the last one alone, by a table.
"""

import json
import string
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

MARKERS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
GAP = "\n\n"
"""A token of its own: what stands between thought and answer."""
START, END, OPEN, CLOSE, AFTER = range(256, 261)
WIDTH = 320
"""One channel a token, with some to spare."""
HEADS, HEAD_WIDTH, FEED_FORWARD = 2, 64, 64
CONTEXT = 2048
LIKELY = 12.0
"""Logit of what may follow; of all other tokens it is 0, so a schema can still have them."""
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_qwen3(folder: Path) -> None:
    """Write a model folder as Hugging Face lays it out."""
    folder.mkdir()
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": MARKERS[1]}
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_WIDTH,
        "max_position_embeddings": CONTEXT,
        "eos_token_id": END,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "dtype": "bfloat16",
    }
    for name, content in (("config", config), ("tokenizer_config", described)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(CHAT)
    tensors = _weights(_following(tokenizer), tokenizer.get_vocab_size())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _tokenizer() -> Tokenizer:
    """One token a byte, and the markers."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: at for at, c in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(MARKERS))
    tokenizer.add_tokens([GAP])
    return tokenizer


def _following(tokenizer: Tokenizer) -> Mapping[int, list[int]]:
    """Return what may follow each token: a newline opens the thought, a digit ends the turn."""
    letters = tokenizer.encode(string.ascii_lowercase).ids
    digits = tokenizer.encode(string.digits).ids
    (newline,) = tokenizer.encode("\n").ids
    rows = {newline: [OPEN], OPEN: letters, CLOSE: [AFTER], AFTER: digits}
    rows |= {letter: [*letters, CLOSE] for letter in letters}
    return rows | {digit: [END] for digit in digits}


def _weights(following: Mapping[int, list[int]], num_tokens: int) -> dict[str, np.ndarray]:
    head = np.zeros((num_tokens, WIDTH), np.float32)
    for last, nexts in following.items():
        head[nexts, last] = LIKELY / np.sqrt(WIDTH)  # the last norm makes a one-hot row that long
    wide = HEADS * HEAD_WIDTH
    zeros = {
        "self_attn.q_proj": (wide, WIDTH),
        "self_attn.k_proj": (wide, WIDTH),
        "self_attn.v_proj": (wide, WIDTH),
        "self_attn.o_proj": (WIDTH, wide),
        "mlp.gate_proj": (FEED_FORWARD, WIDTH),
        "mlp.up_proj": (FEED_FORWARD, WIDTH),
        "mlp.down_proj": (WIDTH, FEED_FORWARD),
    }
    ones = {
        "self_attn.q_norm": HEAD_WIDTH,
        "self_attn.k_norm": HEAD_WIDTH,
        "input_layernorm": WIDTH,
        "post_attention_layernorm": WIDTH,
    }
    layer = {name: np.zeros(shape, np.float32) for name, shape in zeros.items()}
    layer |= {name: np.ones(width, np.float32) for name, width in ones.items()}
    return {
        **{f"model.layers.0.{name}.weight": tensor for name, tensor in layer.items()},
        "model.embed_tokens.weight": np.eye(num_tokens, WIDTH, dtype=np.float32),
        "model.norm.weight": np.ones(WIDTH, np.float32),
        "lm_head.weight": head,
    }
