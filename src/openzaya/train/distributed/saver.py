"""Checkpoints that all ranks write together and any number of ranks reads.

    step_00000120/
        shard-00001-model-00001-of-00001.safetensors    what rank 0 holds
        shard-00002-...                                 rank 1, and so on
        state.json, MANIFEST.json                       as in `train.ckpt`

torch.distributed.checkpoint plans and writes, as safetensors, so nothing is pickled to disk. Each
rank syncs and hashes its own file; rank 0 writes the manifest last and renames the folder. All this
happens in a thread of every rank, over a process group of its own, while training goes on.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist
from torch import Tensor

from openzaya.core.errors import CheckpointError
from openzaya.core.files import sync
from openzaya.train import ckpt
from openzaya.train.distributed.mesh import Ranks
from openzaya.train.distributed.planner import write_parts
from openzaya.train.distributed.shard import Part
from openzaya.train.distributed.talk import all_values, first_error
from openzaya.train.lineage import refuse_changes
from openzaya.train.manifest import (
    MANIFEST,
    DamagedCheckpoint,
    check_file,
    check_names,
    check_schema,
    decode,
    describe,
    write_manifest,
)
from openzaya.train.saver import Saver, Saving
from openzaya.train.tensor_files import PATTERN, TensorFiles

PATIENCE = timedelta(minutes=30)
"""How long ranks wait for each other while a checkpoint is written."""

log = logging.getLogger(__name__)


class DividedSaver(Saver):
    """`Saver` for a state that is divided over ranks; every method is called by all of them.

    The folder must be the same for all: a shared file system.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        saving: Saving,
        ranks: Ranks,
        parts: Mapping[str, Part],
    ) -> None:
        machine = {**identity.get("machine", {}), "mesh": str(ranks.config)}
        super().__init__(folder, {**identity, "machine": machine}, saving)
        self.ranks = ranks
        self.parts = parts
        self.is_first = ranks.rank == 0
        # One for the thread, one for the caller: collectives of one group must not interleave.
        self._writers = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._readers = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.run_id = str(all_values(self.run_id, self._readers)[0])

    def __enter__(self) -> Self:
        """Take the folder; raises the same CheckpointError on every rank when it is in use."""
        error = ""
        if self.is_first:
            try:
                super().__enter__()
            except CheckpointError as caught:
                error = str(caught)
        found = first_error(error, self._readers)
        if found:
            raise CheckpointError(found.partition(": ")[2])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Finish the write in flight and let go of the folder."""
        if self.is_first:
            super().__exit__(kind, error, where)
        else:
            self._collect(is_fatal=kind is None)

    def load(self) -> ckpt.Loaded | None:
        """Return this rank's parts of the newest checkpoint that verifies, whoever wrote it.

        Every rank hashes its share of the files. A checkpoint of another mesh is resharded; the
        log says so. Errors as those of `ckpt.load_newest`, alike on every rank.
        """
        damaged: list[str] = []
        while True:
            paths = ckpt.checkpoints(self.folder) if self.is_first else []
            name = all_values(paths[-1].name if paths else "", self._readers)[0]
            if not name:
                break
            path = self.folder / name
            manifest, flaw = self._examine(path)
            if not flaw:
                return self._read(path, manifest)
            if self.is_first:
                log.warning("%s; moved aside, trying the one before", flaw)
                ckpt.quarantine(path)
            damaged.append(name)
            dist.barrier(self._readers)
        if damaged:
            raise CheckpointError(
                f"all {len(damaged)} checkpoints in {self.folder} are damaged and were moved aside "
                f"({damaged[0]}); put back an intact copy, or start again to train from the "
                "beginning"
            )
        return None

    def _examine(self, path: Path) -> tuple[dict[str, Any], str]:
        """Return the manifest and what is damaged, "" for nothing; raises for other troubles."""
        manifest: dict[str, Any] = {}
        flaw, trouble = "", self._unseen(path)
        try:
            manifest = decode(path / MANIFEST)
            check_schema(path, manifest)
            check_names(path, manifest)
            names = sorted(manifest["files"])
            for name in names[self.ranks.rank :: self.ranks.config.size]:
                check_file(path / name, manifest["files"][name], "crc32")
        except (DamagedCheckpoint, FileNotFoundError) as error:
            flaw = str(error)
        except (CheckpointError, OSError) as error:
            trouble = str(error)
        found = first_error(trouble, self._readers)
        if found:
            raise CheckpointError(found)
        return manifest, first_error(flaw, self._readers)

    def _read(self, path: Path, manifest: dict[str, Any]) -> ckpt.Loaded:
        wanted = dict(self.identity)
        if not self.is_first:
            wanted["machine"] = manifest["meta"].get("machine")  # One rank says what changed.
        refuse_changes(path, manifest["meta"], wanted, self.saving.allow_changed)
        files = TensorFiles(path)
        tensors: dict[str, Tensor] = {}
        for name in files.names:
            shape = files.shape(name)
            part = self.part_of(name, shape)
            tensors[name] = (
                files.read(name, (0,) * len(shape), shape)
                if part is None
                else files.read(name, part.offsets, part.sizes)
            )
        self.run_id = manifest["meta"].get("run_id", self.run_id)
        self.parent = {"step": manifest["step"], "digest": manifest["digest"]}
        state = json.loads((path / ckpt.STATE).read_text(encoding="utf-8"))
        return ckpt.Loaded(
            step=int(manifest["step"]),
            tensors=tensors,
            state=state,
            meta=manifest["meta"],
            path=path,
            digest=manifest["digest"],
        )

    def part_of(self, name: str, shape: tuple[int, ...] | None = None) -> Part | None:
        """Return the part that a tensor of the state is divided like; None for whole ones.

        Such are "model/PARAMETER" and "optim/OPTIMIZER/PARAMETER/WHAT".
        """
        for piece in name.split("/"):
            part = self.parts.get(piece)
            if part is not None and (shape is None or shape == part.shape):
                return part
        return None

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        *,
        is_last: bool = False,
    ) -> None:
        """Copy this rank's parts and start to write them; see `Saver.save`."""
        local = {name: t.to_local() if hasattr(t, "to_local") else t for name, t in tensors.items()}
        super().save(step, local, state, is_last=is_last)

    def _commit(
        self, step: int, tensors: dict[str, Tensor], state_text: str, meta: dict[str, Any]
    ) -> str:
        """Write a checkpoint together; return its digest. Raises alike on every rank."""
        work = self._begin(step, tensors)
        error, described = "", {}
        try:
            write_parts(work, self._owned(tensors), self._writers)
            own = f"shard-{self.ranks.rank + 1:05d}-{PATTERN}"
            for path in work.glob(own):
                sync(path)
                described[path.name] = describe(path)
        except Exception as caught:  # noqa: BLE001 - told to all ranks
            about = f"{type(caught).__name__}: {caught}"
            error = ckpt.not_written(self.folder, step, about)
        self._refuse(error, work)
        known = {k: v for part in all_values(described, self._writers) for k, v in part.items()}
        digest = ""
        if self.is_first:
            try:
                (work / ckpt.STATE).write_text(state_text, encoding="utf-8")
                digest = write_manifest(work, step, meta, known)
                ckpt.commit(work, self.folder / ckpt.name_of(step), self.saving.keep)
            except OSError as caught:
                error = ckpt.not_written(self.folder, step, caught)
        self._refuse(error, work)
        return str(all_values(digest, self._writers)[0])

    def _begin(self, step: int, tensors: Mapping[str, Tensor]) -> Path:
        """Make the temporary folder; return it."""
        error = ""
        sizes = all_values(
            sum(t.numel() * t.element_size() for t in tensors.values()), self._writers
        )
        work = ckpt.work_folder(self.folder, step)
        try:
            ckpt.check_finite(tensors)
            if self.is_first:
                ckpt.remove_leftovers(self.folder)
                ckpt.check_space(self.folder, sum(sizes))
                work.mkdir()
        except CheckpointError as caught:
            error = str(caught)
        except OSError as caught:
            error = ckpt.not_written(self.folder, step, caught)
        work = self.folder / str(all_values(work.name, self._writers)[0])
        self._refuse(error, work)
        self._refuse(self._unseen(work), work)
        return work

    def _unseen(self, path: Path) -> str:
        """Return what is wrong when a folder that rank 0 sees does not exist here; "" if it does.

        A shard on a disk of its own would be missing in the checkpoint, and a checkpoint on one
        of rank 0's would seem damaged.
        """
        if path.is_dir():
            return ""
        return f"{path} is not there; {self.folder} must be on a file system that all ranks share"

    def _refuse(self, error: str, work: Path) -> None:
        """Raise CheckpointError on every rank when any has an error; rank 0 clears up."""
        found = first_error(error, self._writers)
        if found:
            if self.is_first:
                shutil.rmtree(work, ignore_errors=True)
            raise CheckpointError(found)

    def _owned(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Part]]:
        """Return what this rank writes: its parts in replica 0; rank 0 also what is whole."""
        is_in_first_replica = self.ranks.rank < self.ranks.dense.size(1)
        owned: dict[str, tuple[Tensor, Part]] = {}
        for name, tensor in tensors.items():
            part = self.part_of(name)
            if part is not None and tuple(tensor.shape) == part.sizes and tensor.ndim:
                if is_in_first_replica and tensor.numel():
                    owned[name] = (tensor, part)
            elif self.is_first:
                shape = tuple(tensor.shape)
                owned[name] = (tensor, Part(shape, (0,) * len(shape), shape))
        return owned
