"""The C structures of forward.cpp, field by field, and the weights of a model in them."""

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from openzaya.core.errors import ConfigError
from openzaya.model.config import ZayaConfig
from openzaya.model.config_keys import SLIDING
from openzaya.model.quantize import format_of
from openzaya.model.rope import rope_tables

STEP = 32
"""Every width that a product sums over is a multiple of this."""
MAX_HEAD_DIM = 256
MAX_CLASSES = 256
FP32, BF16, INT8, INT4 = range(4)
FORMATS = {torch.float32: FP32, torch.bfloat16: BF16}


class Matrix(ctypes.Structure):
    """Rows of weights in one of four formats."""

    _fields_ = (
        ("data", c_void_p),
        ("scales", c_void_p),
        ("rows", c_int64),
        ("cols", c_int64),
        ("format", c_int32),
        ("group", c_int32),
    )


class Scaling(ctypes.Structure):
    """The four vectors of a residual scaling."""

    _fields_ = tuple(
        (name, c_void_p) for name in ("branch_scale", "branch_bias", "stream_scale", "stream_bias")
    )


MATRICES = {
    "query": "self_attn.qkv_proj.q_proj.weight",
    "key": "self_attn.qkv_proj.k_proj.weight",
    "value_now": "self_attn.qkv_proj.v_proj_current.weight",
    "value_late": "self_attn.qkv_proj.v_proj_delayed.weight",
    "conv": "self_attn.qkv_proj.conv_qk_grouped.weight",
    "output": "self_attn.o_proj.weight",
    "router_down": "mlp.gate.down_proj.weight",
    "router_fc1": "mlp.gate.router_mlp.fc1.weight",
    "router_fc2": "mlp.gate.router_mlp.fc2.weight",
    "router_out": "mlp.gate.router_mlp.out_proj.weight",
    "gate_up": "mlp.experts.gate_up_proj",
    "down": "mlp.experts.down_proj",
}
VECTORS = {
    "norm_in": "input_layernorm.weight",
    "norm_post": "post_attention_layernorm.weight",
    "norm_router": "mlp.gate.router_mlp.norm.weight",
    "depthwise": "self_attn.qkv_proj.conv_qk_depthwise.weight",
    "depthwise_bias": "self_attn.qkv_proj.conv_qk_depthwise.bias",
    "conv_bias": "self_attn.qkv_proj.conv_qk_grouped.bias",
    "temperature": "self_attn.qk_norm.temp",
    "router_bias": "mlp.gate.down_proj.bias",
    "router_average": "mlp.gate.router_states_scale",
    "fc1_bias": "mlp.gate.router_mlp.fc1.bias",
    "fc2_bias": "mlp.gate.router_mlp.fc2.bias",
    "balance": "mlp.gate.balancing_biases",
}
SCALINGS = {
    "after_attention": "post_attention_residual_scale",
    "after_experts": "post_mlp_residual_scale",
}
SCALING_FIELDS = {
    "branch_scale": "hidden_states_scale",
    "branch_bias": "hidden_states_bias",
    "stream_scale": "residual_scale",
    "stream_bias": "residual_bias",
}
"""Fields of the C structures by the tensor names of a layer."""


class Layer(ctypes.Structure):
    """One decoder layer."""

    _fields_ = (
        *((name, Matrix) for name in MATRICES),
        *((name, c_void_p) for name in VECTORS),
        *((name, Scaling) for name in SCALINGS),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("window", c_int64),
    )


class Model(ctypes.Structure):
    """All weights and sizes."""

    _fields_ = (
        ("embedding", Matrix),
        ("stream_scale", c_void_p),
        ("stream_bias", c_void_p),
        ("norm", c_void_p),
        ("layers", POINTER(Layer)),
        *(
            (name, c_int64)
            for name in (
                "num_layers",
                "width",
                "heads",
                "key_heads",
                "head_dim",
                "router_width",
                "expert_width",
                "experts",
                "rotary_half",
                "vocab",
            )
        ),
        ("eps", c_float),
        ("head_eps", c_float),
        ("identity_skip", c_int32),
    )


class CacheLayer(ctypes.Structure):
    """Where one layer's blocks of keys and values are."""

    _fields_ = (("keys", c_void_p), ("values", c_void_p), ("table", c_void_p))


class Cache(ctypes.Structure):
    """The paged cache."""

    _fields_ = (
        ("layers", POINTER(CacheLayer)),
        ("conv", c_void_p),
        ("delayed", c_void_p),
        ("num_slots", c_int64),
        ("max_blocks", c_int64),
        ("is_bf16", c_int32),
    )


class Batch(ctypes.Structure):
    """One pass: what goes in and where the results go."""

    _fields_ = (
        *(
            (name, c_void_p)
            for name in (
                "ids",
                "starts",
                "slots",
                "past",
                "outputs",
                "snapshots",
                "logits",
                "experts",
                "snapshot_conv",
                "snapshot_delayed",
            )
        ),
        *(
            (name, c_int64)
            for name in ("num_tokens", "num_sequences", "num_outputs", "num_snapshots")
        ),
    )


def reason_against(config: ZayaConfig) -> str:
    """Return why the C++ pass cannot run a model of this shape; empty when it can."""
    widths = {
        "hidden_size": config.hidden_size,
        "moe_intermediate_size": config.moe_intermediate_size,
        "router_hidden_size": config.router_hidden_size,
        "head_dim": config.head_dim,
    }
    for name, width in widths.items():
        if width % STEP:
            return f"{name} is {width}, expected a multiple of {STEP}"
    if config.head_dim > MAX_HEAD_DIM:
        return f"head_dim is {config.head_dim}, expected at most {MAX_HEAD_DIM}"
    if config.num_choices > MAX_CLASSES:
        return f"the router has {config.num_choices} classes, expected at most {MAX_CLASSES}"
    return ""


class Weights:
    """A model's tensors as the C++ pass sees them, and what keeps them alive.

    A quantized matrix is a pair of integers and bf16 scales. Matrices are used where they lie, and
    vectors too if they are fp32: make a new object after any other change. `thetas` is the rotary
    base of each layer type and `positions` the longest context.

    Raises ConfigError for a shape or a dtype that the C++ pass does not know.
    """

    def __init__(
        self,
        config: ZayaConfig,
        tensors: Mapping[str, Tensor | tuple[Tensor, Tensor]],
        thetas: Mapping[str, float],
        positions: int,
    ) -> None:
        reason = reason_against(config)
        if reason:
            raise ConfigError(f'the C++ kernels do not fit: {reason}; choose kernels="torch"')
        self._tensors = tensors
        self._keep: list[Tensor] = []
        self.layers = (Layer * config.num_hidden_layers)()
        ropes = {
            kind: [
                self._pointer(table)
                for table in rope_tables(torch.arange(positions), theta, config.rotary_dim)
            ]
            for kind, theta in thetas.items()
        }
        for index, kind in enumerate(config.layer_types):
            self._fill_layer(self.layers[index], index)
            self.layers[index].cos, self.layers[index].sin = ropes[kind]
            self.layers[index].window = config.sliding_window or 0 if kind == SLIDING else 0
        low = config.precision == "hf" and self._is_low()
        self.model = Model(
            embedding=self._matrix("embed_tokens.weight"),
            stream_scale=self._vector("input_hidden_states_scale"),
            stream_bias=self._vector("input_hidden_states_bias"),
            norm=self._vector("norm.weight"),
            layers=self.layers,
            num_layers=config.num_hidden_layers,
            width=config.hidden_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            router_width=config.router_hidden_size,
            expert_width=config.moe_intermediate_size,
            experts=config.num_experts,
            rotary_half=config.rotary_dim // 2,
            vocab=config.vocab_size,
            eps=config.rms_norm_eps,
            # transformers' floor under a head's length is the epsilon of the weights' dtype.
            head_eps=torch.finfo(torch.bfloat16 if low else torch.float32).eps,
            identity_skip=config.skip_mode == "identity",
        )

    def _is_low(self) -> bool:
        norm = self._tensors["norm.weight"]
        return isinstance(norm, Tensor) and norm.dtype is torch.bfloat16

    def _fill_layer(self, layer: Layer, index: int) -> None:
        prefix = f"layers.{index}."
        for field, name in MATRICES.items():
            setattr(layer, field, self._matrix(prefix + name))
        for field, name in VECTORS.items():
            averages = field != "router_average" or index > 0
            setattr(layer, field, self._vector(prefix + name) if averages else None)
        for field, name in SCALINGS.items():
            scaling = getattr(layer, field)
            for part, tensor in SCALING_FIELDS.items():
                setattr(scaling, part, self._vector(f"{prefix}{name}.{tensor}"))

    def _matrix(self, name: str) -> Matrix:
        found = self._tensors[name]
        if isinstance(found, tuple):
            return self._quantized(*found)
        if found.dtype not in FORMATS:
            raise ConfigError(
                f"{name} is {found.dtype}, expected float32 or bfloat16; load the model in one of "
                'these or choose kernels="torch"'
            )
        rows = found.shape[0] * (found.shape[1] if found.ndim == 3 and "experts" in name else 1)
        return Matrix(
            data=self._pointer(found),
            rows=rows,
            cols=found.numel() // rows,
            format=FORMATS[found.dtype],
        )

    def _quantized(self, data: Tensor, scales: Tensor) -> Matrix:
        form = format_of(data)
        return Matrix(
            data=self._pointer(data),
            scales=self._pointer(scales),
            rows=data.numel() // data.shape[-1],
            cols=scales.shape[-1] * form.group_size,
            format=INT4 if form.bits == 4 else INT8,
            group=form.group_size,
        )

    def _vector(self, name: str) -> int:
        found = self._tensors[name]
        if isinstance(found, tuple):
            raise ConfigError(f"{name} is quantized; vectors stay in full precision")
        return self._pointer(found.float())

    def _pointer(self, tensor: Tensor) -> int:
        """Return the address of a tensor's data, contiguous, and keep it alive."""
        whole = tensor.detach().contiguous()
        self._keep.append(whole)
        return whole.data_ptr()
