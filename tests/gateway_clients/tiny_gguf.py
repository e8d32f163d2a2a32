"""A llama of one layer with random weights in GGUF: a model that llama.cpp serves in no time.

Its words are lower-case letters and digits; the package gguf writes the file.
"""

import string
from pathlib import Path

import numpy as np

WIDTH = 32
HEADS = 2
FEED_FORWARD = 64
CONTEXT = 2048
MARKERS = ("<unk>", "<s>", "</s>")
UNKNOWN, CONTROL, NORMAL, BYTE = 2, 3, 1, 6
"""Kinds of tokens, as GGUF counts them."""
CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_tiny_llama(path: Path, seed: int = 0) -> None:
    """Write the model; equal seeds give equal files."""
    import gguf

    letters = [*string.ascii_letters, *string.digits, *".,:;!?()[]{}<>/\\=+-*'\"", "\u2581"]
    words = [*letters, *(f"\u2581{letter}" for letter in string.ascii_lowercase + string.digits)]
    tokens = [*MARKERS, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(words)]
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("tiny")
    out.add_context_length(CONTEXT)
    out.add_embedding_length(WIDTH)
    out.add_block_count(1)
    out.add_feed_forward_length(FEED_FORWARD)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores([-float(at) for at in range(len(tokens))])
    out.add_token_types(kinds)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_chat_template(CHAT)
    for name, value in weights(len(tokens), np.random.default_rng(seed)).items():
        out.add_tensor(name, value.astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def weights(num_tokens: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return every tensor; bytes and markers get logits of zero, which letters stay above."""
    output = rng.normal(size=(num_tokens, WIDTH)) * 0.6
    output[: len(MARKERS) + 256] = 0.0
    shapes = {
        "token_embd": (num_tokens, WIDTH),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (WIDTH, WIDTH),
        "blk.0.attn_v": (WIDTH, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (FEED_FORWARD, WIDTH),
        "blk.0.ffn_up": (FEED_FORWARD, WIDTH),
        "blk.0.ffn_down": (WIDTH, FEED_FORWARD),
    }
    made = {f"{name}.weight": rng.normal(size=shape) * 0.3 for name, shape in shapes.items()}
    norms = ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")
    return {**made, **{f"{n}.weight": np.ones(WIDTH) for n in norms}, "output.weight": output}
