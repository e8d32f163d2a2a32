"""Reading and writing model folders: the Hugging Face layout and the legacy one.

Tensors of a large folder stay memory-mapped: a parameter whose dtype is the file's is the file,
page by page, so an 8B model loads in seconds and experts that are never chosen stay on disk.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.checkpoint_legacy import (
    is_legacy,
    legacy_config,
    legacy_names,
    needs_exponential,
    to_legacy,
)
from openzaya.model.config import Precision, SkipMode, ZayaConfig
from openzaya.model.hub import resolve_folder
from openzaya.model.quantize import FORMATS, Format, dequantize, is_quantized
from openzaya.model.shards import (
    MAX_SHARD_BYTES,
    Shards,
    TensorSpec,
    read_json,
    write_json,
    write_shards,
)
from openzaya.model.zaya import Zaya

PREFIX = "model."
"""What the Hugging Face layout puts before our parameter names."""
HEAD = "lm_head.weight"
SCALES = ".scales"
"""Ends the name of the scales of a quantized tensor."""
QUANTIZATION = "quantization_config"
METHOD = "openzaya"
SMALL_BYTES = 1_000_000_000
"""Folders up to this size are verified and copied to memory; larger ones are mapped."""
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

Layout = Literal["native", "legacy"]


class Source:
    """A model folder in either layout, seen as the tensors of the current one."""

    def __init__(self, folder: str | Path) -> None:
        """Read config and headers; raises CheckpointError or ConfigError."""
        self.folder = resolve_folder(folder)
        raw = read_json(self.folder / "config.json")
        self.shards = Shards(self.folder)
        self.form = _format(self.folder, raw.pop(QUANTIZATION, None))
        self.layout: Layout = "legacy" if is_legacy(raw, self.shards.names) else "native"
        self._exponential = False
        try:
            self.config = (legacy_config if self.layout == "legacy" else ZayaConfig.from_hf)(raw)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{self.folder / 'config.json'} holds a value of the wrong kind: {error}; fetch "
                "the file again, or correct it"
            ) from error
        if self.layout == "legacy":
            self._parts = legacy_names(self.config)
            self._exponential = needs_exponential(raw)
        else:
            self._parts = {PREFIX + name: (PREFIX + name,) for name in expected_shapes(self.config)}
        self._check()

    def _check(self) -> None:
        """Raise CheckpointError for a tensor that is missing, unknown or of another kind."""
        needed = [part for parts in self._parts.values() for part in parts]
        needed += [name + SCALES for name in self._parts if self.form and is_quantized(name)]
        missing = sorted(set(needed) - self.shards.names)
        if missing:
            raise CheckpointError(
                f"{self.folder} lacks {len(missing)} of {len(needed)} tensors, for example "
                f"{missing[0]!r}; the folder is incomplete, or config.json is of another model"
            )
        unknown = sorted(self.shards.names - set(needed) - {HEAD})
        if unknown:
            raise CheckpointError(
                f"{self.folder} has {len(unknown)} tensors that the model does not know, for "
                f"example {unknown[0]!r}; config.json is of another model, or of a variant we "
                "cannot run"
            )
        for name, shape in expected_shapes(self.config).items():
            parts = self._parts[PREFIX + name]
            expected, dtypes = shape if len(parts) == 1 else shape[1:], set(DTYPES.values())
            if self.form and is_quantized(name):
                expected, scales = self.form.shapes(shape)
                self._check_part(PREFIX + name + SCALES, scales, {torch.bfloat16})
                dtypes = {self.form.dtype}
            for part in parts:
                self._check_part(part, expected, dtypes)
        if HEAD in self.shards.names and not torch.equal(
            self.shards.get(HEAD), self.shards.get(PREFIX + "embed_tokens.weight")
        ):
            raise CheckpointError(
                f"{self.folder} has a {HEAD} that differs from the embedding; only tied models "
                "are known"
            )

    def _check_part(
        self, part: str, expected: tuple[int, ...], dtypes: Collection[torch.dtype]
    ) -> None:
        found = self.shards.shape(part)
        if found != expected:
            raise CheckpointError(
                f"tensor {part!r} in {self.folder} has shape {found}; config.json asks for "
                f"{expected}: the two are of different models"
            )
        dtype = self.shards.dtype(part)
        if dtype not in dtypes:
            raise CheckpointError(
                f"tensor {part!r} in {self.folder} is {dtype}; expected "
                f"{' or '.join(sorted(map(str, dtypes)))}: the folder was quantized by another "
                "program, or config.json is of another save; fetch the original"
            )

    @property
    def is_small(self) -> bool:
        """Whether the folder is verified and copied: better so when files are replaced under it."""
        return self.shards.num_bytes <= SMALL_BYTES

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the final norm, and so of the folder; integers count as what they were."""
        return self.dtype_of("norm.weight")

    def dtype_of(self, name: str) -> torch.dtype:
        """Return the dtype that one of our parameters has in the folder."""
        return self.shards.get(self._parts[PREFIX + name][0]).dtype

    def get(self, name: str, *, copy: bool = False) -> Tensor:
        """Return one tensor by our parameter name, mapped from the file unless `copy`.

        A stack of legacy experts is copied, a quantized tensor comes back as fp32.
        """
        if self.form and is_quantized(name):
            return dequantize(*self.get_quantized(name))
        parts = self._parts[PREFIX + name]
        if len(parts) > 1:
            return torch.stack([self.shards.get(part) for part in parts])
        tensor = self.shards.read(parts[0]) if copy else self.shards.get(parts[0])
        if self._exponential and name.endswith("qk_norm.temp"):
            return tensor.float().clamp(1e-7, 2.0).exp().to(tensor.dtype)
        return tensor

    def get_quantized(self, name: str, *, copy: bool = False) -> tuple[Tensor, Tensor]:
        """Return integers and scales of a quantized tensor, mapped from the file unless `copy`."""
        get = self.shards.read if copy else self.shards.get
        return get(PREFIX + name), get(PREFIX + name + SCALES)


def _format(folder: Path, raw: Any) -> Format | None:
    """Return how a folder's weights are quantized, None if they are not."""
    if raw is None:
        return None
    method = raw.get("quant_method") if isinstance(raw, dict) else raw
    form = FORMATS.get(str(raw.get("format"))) if method == METHOD else None
    if form is None or raw.get("group_size") != form.group_size:
        raise CheckpointError(
            f"{folder} is quantized as {raw}; expected quant_method {METHOD!r} with format "
            f"{' or '.join(FORMATS)}: quantize the original with `openzaya convert --weights int4`"
        )
    return form


def expected_shapes(config: ZayaConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a model."""
    with torch.device("meta"):
        state = Zaya(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def load(
    path: str | Path,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    precision: Precision = "hf",
    *,
    skip_mode: SkipMode | None = None,
    verify: Literal["auto", "always", "never"] = "auto",
) -> Zaya:
    """Load a model folder or hub id, current or legacy layout.

    `dtype` may be "auto": the folder's own. `skip_mode` overrides the folder's. `verify` compares
    checksums where the folder has them: "auto" does so up to a gigabyte, "always" also demands
    that there are some. Balancing biases are fp32 in any case. On CPU, tensors of a large folder
    whose dtype is kept are not read but mapped; legacy experts are stacked in memory, so convert
    a large legacy folder first.

    Raises CheckpointError for a folder that cannot be read whole and ConfigError for a config or
    an option that is not known.

    Deviation: D-006.
    """
    source = Source(path)
    target = _dtype_named(dtype, source)
    check_sums(source, verify)
    config = replace(source.config, precision=precision)
    if skip_mode is not None:
        config = replace(config, skip_mode=skip_mode)
    with torch.device("meta"):
        model = Zaya(config)
    state: dict[str, Tensor] = {}
    for name in model.state_dict():
        tensor = source.get(name, copy=source.is_small)
        wanted = torch.float32 if name.endswith("balancing_biases") else target
        state[name] = tensor.to(device=device, dtype=wanted)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _dtype_named(name: str, source: Source) -> torch.dtype:
    if name == "auto":
        return source.dtype
    if name not in DTYPES:
        raise ConfigError(f"dtype is {name!r}; choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def check_sums(source: Source, verify: str = "auto") -> None:
    """Compare a folder's checksums as `load` says. Raises CheckpointError for damage."""
    if verify not in ("auto", "always", "never"):
        raise ConfigError(f"verify is {verify!r}; choose auto, always or never")
    known = source.shards.has_checksums()
    if verify == "always" and not known:
        raise CheckpointError(
            f"{source.folder} has no checksums.json to verify against; load it with verify='auto' "
            "and save it again to get one"
        )
    if known and (verify == "always" or (verify == "auto" and source.is_small)):
        source.shards.verify()


def save_model(model: Zaya, folder: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write a folder that `load` and transformers' ZayaForCausalLM read.

    Shards hold at most `max_shard_bytes` (one larger tensor gets its own); files appear whole or
    not at all and are readable by everyone. transformers 5.23 sets the skip class's balancing
    bias to -1 when it loads, whatever the file says; that is where ours is frozen.

    Deviation: D-005.
    """
    specs = (
        TensorSpec(
            name=PREFIX + name,
            dtype=tensor.dtype,
            shape=tuple(tensor.shape),
            make=lambda kept=tensor: kept,  # type: ignore[misc]
        )
        for name, tensor in model.state_dict().items()
    )
    write_folder(
        Path(folder), running_config(model), specs, model.dtype, max_shard_bytes=max_shard_bytes
    )


def running_config(model: Zaya) -> ZayaConfig:
    """Return the config of a model with the rotary bases it uses now."""
    full, sliding = (
        model.rope_thetas.get(kind, default)
        for kind, default in (
            ("hybrid", model.config.rope_theta),
            ("hybrid_sliding", model.config.sliding_rope_theta),
        )
    )
    return replace(model.config, rope_theta=full, sliding_rope_theta=sliding)


def write_folder(
    folder: Path,
    config: ZayaConfig,
    specs: Iterator[TensorSpec],
    dtype: torch.dtype,
    *,
    layout: Layout = "native",
    form: Format | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write shards, config.json and generation_config.json of either layout.

    `form` is how the large matrices among `specs` are quantized.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(folder, specs, max_shard_bytes)
    raw: dict[str, Any] = config.to_hf() if layout == "native" else to_legacy(config)
    name = str(dtype).removeprefix("torch.")
    entries: dict[str, Any] = {"dtype": name, "torch_dtype": name}
    if form is not None:
        entries[QUANTIZATION] = {
            "quant_method": METHOD,
            "format": form.name,
            "group_size": form.group_size,
        }
    write_json(folder / "config.json", raw | entries)
    tokens = {
        key: raw[key]
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if raw[key] is not None
    }
    write_json(folder / "generation_config.json", {"_from_model_config": True} | tokens)
