"""Safetensors shards: reading them without copying, writing them one tensor at a time.

safetensors has no checksum, so a flipped bit would load as a slightly different model; beside the
shards we keep the CRC-32 of every tensor.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openzaya.core.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CHECKSUMS = "checksums.json"
MAX_SHARD_BYTES = 5_000_000_000
FILE_MODE = 0o644
ALIGNMENT_BYTES = 8
HEADER_BYTES = 64
"""Headers are padded to a multiple of this, so that large tensors begin with a cache line."""

READ_BYTES = 64 << 10
"""Tensors up to this size are read: touching one in a mapped file reads megabytes around it."""

_DTYPE_NAMES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises CheckpointError when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}; expected a Hugging Face model folder"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: {error}; fetch the file again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then put it in place whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(FILE_MODE)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically and on disk."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())

    replace_file(path, write)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a CPU tensor without copying a contiguous one."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, dtypes, shapes and bytes of all tensors, in order of names.

    A gigabyte a second on a core; each tensor is hashed on its own, so all cores can help.
    """

    def line(name: str) -> str:
        tensor = state[name]
        digest = sha256(tensor_bytes(tensor.cpu())).hexdigest()
        return f"{name} {tensor.dtype} {tuple(tensor.shape)} {digest}\n"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sha256("".join(pool.map(line, sorted(state))).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a tensor lies in its shard."""

    dtype: str
    """Dtype in the header, such as BF16."""
    shape: tuple[int, ...]
    """Shape in the file."""
    start: int
    """First byte in the file."""
    num_bytes: int
    """Bytes in the file."""


class Shards:
    """The tensors of a folder by name, from memory-mapped files when asked for."""

    def __init__(self, folder: Path) -> None:
        """Find the shards; raises CheckpointError for a missing, unreadable or truncated one."""
        self.folder = folder
        self._places: dict[str, dict[str, Place]] = {}
        self._mapped: dict[str, Any] = {}
        self._shard_of: dict[str, str] = {}
        if (folder / INDEX).exists():
            index = read_json(folder / INDEX).get("weight_map")
            if not isinstance(index, dict) or not index:
                raise CheckpointError(
                    f"{folder / INDEX} has no weight_map; expected the shard file of each tensor"
                )
            self._shard_of = {str(name): str(shard) for name, shard in index.items()}
        elif (folder / SINGLE).exists():
            self._shard_of = dict.fromkeys(self._open(SINGLE), SINGLE)
        else:
            raise CheckpointError(
                f"{folder} has neither {INDEX} nor {SINGLE}; expected the weights of a model there"
            )
        for name, shard in self._shard_of.items():
            if name not in self._open(shard):
                raise CheckpointError(
                    f"{folder / INDEX} says that {shard} holds {name!r}, but it does not; index "
                    "and shards are of different saves, fetch or save the folder again"
                )

    def _open(self, shard: str) -> dict[str, Place]:
        """Return where the tensors of a shard lie."""
        if shard not in self._places:
            path = self.folder / shard
            try:
                with safe_open(path, framework="pt", device="cpu"):
                    pass  # compares the header with the file
                self._places[shard] = _places(path)
            except FileNotFoundError:
                raise CheckpointError(
                    f"shard {path} is missing, but the index names it; fetch it again"
                ) from None
            except (SafetensorError, OSError) as error:
                size = path.stat().st_size if path.exists() else 0
                raise CheckpointError(
                    f"shard {path} ({size:,} bytes) cannot be read: {error}; it is truncated or "
                    "not safetensors, fetch it again"
                ) from error
        return self._places[shard]

    @property
    def names(self) -> set[str]:
        """The tensors that exist."""
        return set(self._shard_of)

    @property
    def num_bytes(self) -> int:
        """Size of all shard files together."""
        return sum((self.folder / shard).stat().st_size for shard in self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor from the header alone."""
        return self._open(self._shard_of[name])[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor from the header; raises CheckpointError for unknown ones."""
        dtype = self._open(self._shard_of[name])[name].dtype
        if dtype not in _DTYPES:
            raise CheckpointError(
                f"tensor {name!r} in {self.folder} is {dtype}; expected {', '.join(_DTYPES)}"
            )
        return _DTYPES[dtype]

    def read(self, name: str) -> Tensor:
        """Return a copy of a tensor in memory; the file is not mapped for it.

        Raises CheckpointError when the file has become shorter than it was.
        """
        shard = self._shard_of[name]
        place = self._open(shard)[name]
        tensor = torch.empty(place.shape, dtype=self.dtype(name))
        with (self.folder / shard).open("rb") as file:
            file.seek(place.start)
            if file.readinto(tensor_bytes(tensor)) != place.num_bytes:
                raise CheckpointError(
                    f"shard {self.folder / shard} ends inside of {name!r}: it was cut while it was "
                    "read; wait until nobody writes it, and load it again"
                )
        return tensor

    def get(self, name: str) -> Tensor:
        """Return a tensor whose memory is the file, or a copy of a small or unaligned one.

        Raises CheckpointError when no shard has it, or when it is of a dtype that we do not know.
        """
        if name not in self._shard_of:
            raise CheckpointError(
                f"{self.folder} has no tensor {name!r}; the folder is incomplete or of another "
                "kind of model"
            )
        shard = self._shard_of[name]
        place, dtype = self._open(shard)[name], self.dtype(name)
        if place.num_bytes <= READ_BYTES or place.start % dtype.itemsize:
            return self.read(name)
        if shard not in self._mapped:
            path = self.folder / shard
            self._mapped[shard] = torch.UntypedStorage.from_file(
                str(path), shared=False, nbytes=path.stat().st_size
            )
        # safetensors' own get_tensor looks at the first element, and so reads megabytes around it.
        begin, count = place.start // dtype.itemsize, place.num_bytes // dtype.itemsize
        flat = torch.empty(0, dtype=dtype, device="cpu")
        return flat.set_(self._mapped[shard], begin, (count,), (1,)).view(place.shape)

    def has_checksums(self) -> bool:
        """Tell whether the folder was written with checksums."""
        return (self.folder / CHECKSUMS).exists()

    def verify(self) -> None:
        """Compare every tensor with its checksum; raises CheckpointError for the first that fails.

        Reads all shards once.
        """
        known = read_json(self.folder / CHECKSUMS).get("tensors")
        if not isinstance(known, dict) or set(known) != self.names:
            raise CheckpointError(
                f"{self.folder / CHECKSUMS} does not list the tensors of the shards; the files are "
                "of different saves: save again, or delete it to load without verification"
            )
        for name, expected in known.items():
            found = f"{zlib.crc32(tensor_bytes(self.read(name))):08x}"
            if found != expected:
                raise CheckpointError(
                    f"tensor {name!r} in {self.folder / self._shard_of[name]} has CRC-32 {found}, "
                    f"expected {expected}: the file is damaged; fetch or save it again"
                )


def _places(path: Path) -> dict[str, Place]:
    """Return where the tensors of a shard lie, by name; the header must have been checked."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    places = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        places[name] = Place(
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            start=8 + size + start,
            num_bytes=end - start,
        )
    return places


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A tensor to be written, made only when its turn comes."""

    name: str
    """Name in the file."""
    dtype: torch.dtype
    """Dtype in the file."""
    shape: tuple[int, ...]
    """Shape in the file."""
    make: Callable[[], Tensor]
    """Returns the tensor, on any device; called once."""

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


def write_shards(
    folder: Path, specs: Iterable[TensorSpec], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write tensors one at a time into shards, then index and checksums; old shards go last.

    Memory use is one tensor. A crash in between leaves a folder that `Shards.verify` refuses.
    """
    groups = list(_split(specs, max_shard_bytes))
    total = len(groups)
    checksums: dict[str, str] = {}
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        shard = SINGLE if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"
        replace_file(folder / shard, lambda path, part=group: _write(path, part, checksums))  # type: ignore[misc]
        weight_map |= {spec.name: shard for spec in group}
    if total == 1:
        (folder / INDEX).unlink(missing_ok=True)
    else:
        size = sum(spec.num_bytes for group in groups for spec in group)
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
    write_json(folder / CHECKSUMS, {"algorithm": "crc32", "tensors": checksums})
    for path in folder.glob("model*.safetensors"):
        if path.name not in weight_map.values():
            path.unlink()


def _split(specs: Iterable[TensorSpec], max_bytes: int) -> Iterator[list[TensorSpec]]:
    group: list[TensorSpec] = []
    size = 0
    for spec in specs:
        if group and size + spec.num_bytes > max_bytes:
            yield group
            group, size = [], 0
        group.append(spec)
        size += spec.num_bytes
    if group:
        yield group


def _alignment(spec: TensorSpec) -> tuple[bool, int]:
    odd = spec.num_bytes % ALIGNMENT_BYTES != 0
    return odd, -spec.dtype.itemsize if odd else 0


def _write(path: Path, specs: list[TensorSpec], checksums: dict[str, str]) -> None:
    """Write one shard in the order given, except for tensors of odd sizes.

    Those go last, wide dtypes first, so that every tensor is aligned to its item size.
    """
    ordered = sorted(specs, key=_alignment)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in ordered:
        header[spec.name] = {
            "dtype": _DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.num_bytes],
        }
        offset += spec.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % HEADER_BYTES)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for spec in ordered:
            tensor = spec.make().detach().to(device="cpu", dtype=spec.dtype)
            if tuple(tensor.shape) != spec.shape:
                raise CheckpointError(
                    f"tensor {spec.name!r} has shape {tuple(tensor.shape)}; expected {spec.shape}"
                )
            data = tensor_bytes(tensor)
            checksums[spec.name] = f"{zlib.crc32(data):08x}"
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
