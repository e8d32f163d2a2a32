"""The architecture settings of a ZAYA model, free of torch.

Field names are those of the Hugging Face `zaya` config, so that a folder's config.json reads as
documentation of this file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from openzaya.core.errors import ConfigError
from openzaya.model.config_keys import FIXED, FULL, IGNORED, SLIDING, read_rope, unknown_key

SkipMode = Literal["zero", "identity"]
Precision = Literal["hf", "paper"]
MAX_SIZE = 2**20
"""Above any width, count or vocabulary; what is larger comes from a damaged config.json."""
MAX_POSITIONS = 2**31
"""Above any context, in tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZayaConfig:
    """The shape of one model; the defaults are ZAYA1-8B.

    Raises ConfigError when the fields do not fit each other.

    Paper: II.
    Deviation: D-001.
    """

    vocab_size: int = 262_272
    """V: rows of the embedding, which is also the LM head."""
    hidden_size: int = 2_048
    """D: width of the residual stream."""
    num_hidden_layers: int = 40
    """L: decoder layers; each is one CCA attention and one mixture of experts."""
    num_attention_heads: int = 8
    """H: query heads in the compressed space."""
    num_key_value_heads: int = 2
    """K: key and value heads in the compressed space."""
    head_dim: int = 128
    """P: channels per head."""
    moe_intermediate_size: int = 2_048
    """F: hidden width of one expert."""
    num_experts: int = 16
    """E: experts per layer; the router has one more class, which skips the layer."""
    router_hidden_size: int = 256
    """R: width of the router's latent state."""
    layer_types: tuple[str, ...] = ()
    """One of `hybrid` or `hybrid_sliding` per layer; empty means `hybrid` everywhere."""
    sliding_window: int | None = None
    """Tokens a sliding layer sees, the current one included; None without sliding layers."""
    rope_theta: float = 5_000_000.0
    """Base of the rotary angles in `hybrid` layers."""
    sliding_rope_theta: float = 10_000.0
    """Base of the rotary angles in `hybrid_sliding` layers."""
    partial_rotary_factor: float = 0.5
    """Share of each head's channels that rotate."""
    max_position_embeddings: int = 131_072
    """Longest context, in tokens, that the model is meant for."""
    rms_norm_eps: float = 1e-5
    """Added to the mean square in every RMSNorm."""
    pad_token_id: int | None = 0
    """Token that stands for padding; its embedding row starts at zero."""
    bos_token_id: int | None = 2
    """Token that starts a document; None when the tokenizer has none."""
    eos_token_id: int | tuple[int, ...] | None = 106
    """Token or tokens that end a turn."""
    skip_mode: SkipMode = "zero"
    """What the router's skip class adds: nothing, or the gate times the layer's normed input."""
    precision: Precision = "hf"
    """`hf`: rounding as transformers does it. `paper`: the paper's list of fp32 operations."""

    def __post_init__(self) -> None:
        """Fill in the layer types and check that the fields fit each other."""
        self._check_sizes()
        types = tuple(self.layer_types) or (FULL,) * self.num_hidden_layers
        object.__setattr__(self, "layer_types", types)
        self._check_layers()
        self._check_choices()
        self._check_tokens()

    def _check_sizes(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "moe_intermediate_size",
            "num_experts",
            "router_hidden_size",
            "max_position_embeddings",
        ):
            value = getattr(self, name)
            most = MAX_POSITIONS if name == "max_position_embeddings" else MAX_SIZE
            if type(value) is not int or not 1 <= value <= most:
                raise ConfigError(
                    f"{name} is {value!r:.40}; it must be a whole number from 1 to {most}"
                )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads is {self.num_attention_heads}, which num_key_value_heads = "
                f"{self.num_key_value_heads} does not divide; each key/value head serves the same "
                "number of query heads"
            )
        if self.kv_channels % 2:
            raise ConfigError(
                f"num_key_value_heads * head_dim is {self.kv_channels}; it must be even, because "
                "half of the value channels are delayed by one token"
            )
        if self.rotary_dim % 2 or not 0 <= self.partial_rotary_factor <= 1:
            raise ConfigError(
                f"partial_rotary_factor = {self.partial_rotary_factor} rotates {self.rotary_dim} "
                f"of head_dim = {self.head_dim} channels; choose a factor in [0, 1] that gives an "
                "even number"
            )

    def _check_layers(self) -> None:
        if len(self.layer_types) != self.num_hidden_layers:
            raise ConfigError(
                f"layer_types names {len(self.layer_types)} layers, but num_hidden_layers is "
                f"{self.num_hidden_layers}; give one type per layer or leave layer_types empty"
            )
        for index, name in enumerate(self.layer_types):
            if name not in (FULL, SLIDING):
                raise ConfigError(
                    f"layer_types[{index}] is {name!r}; known types: {FULL!r}, {SLIDING!r}"
                )
        if SLIDING in self.layer_types and not (self.sliding_window and self.sliding_window > 0):
            raise ConfigError(
                f"layer_types has {SLIDING!r} layers, but sliding_window is "
                f"{self.sliding_window!r}; set the number of tokens such a layer sees"
            )

    def _check_choices(self) -> None:
        if self.skip_mode not in ("zero", "identity"):
            raise ConfigError(f"skip_mode is {self.skip_mode!r}; choose 'zero' or 'identity'")
        if self.precision not in ("hf", "paper"):
            raise ConfigError(f"precision is {self.precision!r}; choose 'hf' or 'paper'")
        for name in ("rope_theta", "sliding_rope_theta", "rms_norm_eps"):
            value: object = getattr(self, name)
            if not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"{name} is {value!r}; it must be a number > 0")

    def _check_tokens(self) -> None:
        for name in ("pad_token_id", "bos_token_id"):
            value: object = getattr(self, name)
            if value is not None and type(value) is not int:
                raise ConfigError(f"{name} is {value!r:.40}; it must be a token's number or null")
        eos = self.eos_token_id
        ends: tuple[object, ...] = eos if isinstance(eos, tuple) else () if eos is None else (eos,)
        if not all(type(end) is int and end >= 0 for end in ends):
            raise ConfigError(
                f"eos_token_id is {eos!r:.40}; it must be the number of a token, a list of such, "
                "or null"
            )

    @property
    def conv_channels(self) -> int:
        """C: query and key channels together, which the convolutions mix."""
        return (self.num_attention_heads + self.num_key_value_heads) * self.head_dim

    @property
    def kv_channels(self) -> int:
        """K*P: channels of all value heads."""
        return self.num_key_value_heads * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Channels of each head that rotate."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def num_choices(self) -> int:
        """X = E + 1: router classes, the skip class last."""
        return self.num_experts + 1

    @property
    def rope_thetas(self) -> dict[str, float]:
        """The rotary base of each layer type that occurs."""
        both = {FULL: self.rope_theta, SLIDING: self.sliding_rope_theta}
        return {name: theta for name, theta in both.items() if name in self.layer_types}

    def num_parameters(self) -> int:
        """Return how many numbers the checkpoint stores, the tied head once, buffers excluded."""
        return self._count(self.num_experts)

    def num_active_parameters(self, *, with_head: bool = True) -> int:
        """Return how many parameters one token meets; the input embedding is not counted."""
        active = self._count(1) - self.vocab_size * self.hidden_size
        return active + (self.vocab_size * self.hidden_size if with_head else 0)

    def _count(self, experts: int) -> int:
        d, c, r, p = self.hidden_size, self.conv_channels, self.router_hidden_size, self.head_dim
        q = self.num_attention_heads * p
        attention = (
            d * c + d * self.kv_channels + 4 * c + 2 * c * p + self.num_key_value_heads + q * d
        )
        router = d * r + r + r + 2 * (r * r + r) + self.num_choices * r
        layer = attention + router + experts * 3 * d * self.moe_intermediate_size + 2 * d + 8 * d
        eda = (self.num_hidden_layers - 1) * r
        return self.vocab_size * d + 3 * d + self.num_hidden_layers * layer + eda

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a Hugging Face config.json.

        Raises ConfigError for a key we do not know or a value we cannot honor. A `rope_type`
        beside the nested rotary settings, as the released config has it, is dropped.
        """
        names = {field.name for field in fields(cls)}
        known: dict[str, Any] = {}
        for key, value in raw.items():
            if key == "rope_parameters":
                known.update(read_rope(value))
            elif key in FIXED:
                if value not in FIXED[key]:
                    raise ConfigError(
                        f"config key {key!r} is {value!r}; this model needs {FIXED[key][0]!r}"
                    )
            elif key in ("layer_types", "eos_token_id") and isinstance(value, list):
                known[key] = tuple(value)
            elif key == "layer_types" and value is None:
                continue
            elif key in names:
                known[key] = value
            elif key not in IGNORED:
                raise ConfigError(unknown_key(key, names | set(FIXED) | {"rope_parameters"}))
        return cls(**known)

    def to_hf(self) -> dict[str, Any]:
        """Return the config.json that transformers' `ZayaConfig` and `from_hf` read.

        `precision` is a choice of the reader and is not written; `skip_mode` is written only when
        it is not transformers' own.
        """
        raw: dict[str, Any] = {"architectures": ["ZayaForCausalLM"], "model_type": "zaya"}
        ours = {"rope_theta", "sliding_rope_theta", "partial_rotary_factor", "precision"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ours:
                raw[field.name] = list(value) if isinstance(value, tuple) else value
        if self.skip_mode == "zero":
            del raw["skip_mode"]
        thetas = {FULL: self.rope_theta, SLIDING: self.sliding_rope_theta}
        raw["rope_parameters"] = {
            name: {
                "rope_type": "default",
                "rope_theta": theta,
                "partial_rotary_factor": self.partial_rotary_factor,
            }
            for name, theta in thetas.items()
        }
        single = {key: values[0] for key, values in FIXED.items() if key != "is_encoder_decoder"}
        return raw | single | {"attention_dropout": 0.0}
