"""Rewriting a model folder: the other layout, or integers for the large matrices."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from openzaya.core.errors import CheckpointError, ConfigError
from openzaya.model.checkpoint import (
    PREFIX,
    SCALES,
    Layout,
    Source,
    expected_shapes,
    write_folder,
)
from openzaya.model.checkpoint_legacy import legacy_names
from openzaya.model.quantize import Format, is_quantized, quantize
from openzaya.model.shards import MAX_SHARD_BYTES, TensorSpec


def convert(
    source: Source,
    folder: Path,
    layout: Layout,
    *,
    form: Format | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder's tensors in another layout, one tensor at a time, dtypes unchanged.

    With `form` the large matrices are written as integers; that is for the native layout only. A
    source with checksums is verified first: its damage would get checksums that fit.
    """
    if folder.resolve() == source.folder.resolve():
        raise CheckpointError(f"{folder} is both source and target; name another target folder")
    if source.form is not None:
        raise CheckpointError(f"{source.folder} is quantized; convert the original instead")
    if form is not None and layout == "legacy":
        raise ConfigError("the legacy layout has no quantized form; choose the native layout")
    if source.shards.has_checksums():
        source.shards.verify()
    specs = _legacy_specs(source) if layout == "legacy" else _native_specs(source, form)
    write_folder(
        folder,
        source.config,
        specs,
        source.dtype,
        layout=layout,
        form=form,
        max_shard_bytes=max_shard_bytes,
    )


def _legacy_specs(source: Source) -> Iterator[TensorSpec]:
    names = legacy_names(source.config)
    for name, shape in expected_shapes(source.config).items():
        parts = names[PREFIX + name]
        for place, part in enumerate(parts):
            stacked = len(parts) > 1
            yield TensorSpec(
                name=part,
                dtype=source.dtype_of(name),
                shape=shape[1:] if stacked else shape,
                make=lambda n=name, i=place, s=stacked: (  # type: ignore[misc]
                    source.get(n)[i] if s else source.get(n)
                ),
            )


def _native_specs(source: Source, form: Format | None) -> Iterator[TensorSpec]:
    for name, shape in expected_shapes(source.config).items():
        if form is None or not is_quantized(name):
            yield TensorSpec(
                name=PREFIX + name,
                dtype=source.dtype_of(name),
                shape=shape,
                make=lambda n=name: source.get(n),  # type: ignore[misc]
            )
            continue
        pair = _Pair(source, name, form)
        shapes = form.shapes(shape)
        yield TensorSpec(name=PREFIX + name, dtype=form.dtype, shape=shapes[0], make=pair.data)
        yield TensorSpec(
            name=PREFIX + name + SCALES, dtype=torch.bfloat16, shape=shapes[1], make=pair.scales
        )


class _Pair:
    """Integers and scales of one tensor, made together when the first of them is written."""

    def __init__(self, source: Source, name: str, form: Format) -> None:
        self._source, self._name, self._form = source, name, form
        self._made: dict[str, Tensor] = {}

    def data(self) -> Tensor:
        return self._take("data")

    def scales(self) -> Tensor:
        return self._take("scales")

    def _take(self, part: str) -> Tensor:
        if part not in self._made:
            pair = quantize(self._source.get(self._name), self._form)
            self._made = dict(zip(("data", "scales"), pair, strict=True))
        return self._made.pop(part)
