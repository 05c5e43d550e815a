"""Opening a checkpoint, whatever its form: one file, a sharded one, or a folder as the hubs lay it out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from portrait_jax.errors import CheckpointError, listed, plural
from portrait_jax.interchange.onnx_faces import OnnxFaces
from portrait_jax.interchange.pickles import PickleFile
from portrait_jax.interchange.safetensors_files import SafetensorsFile, Spec

INDEX = ".index.json"
INDEX_LIMIT = 64 << 20
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "params")
"""What the hubs call the one checkpoint in a folder, and what an import writes."""
ENDINGS = (
    ".safetensors" + INDEX, ".safetensors", ".fp16.safetensors" + INDEX, ".fp16.safetensors", ".bin" + INDEX, ".bin",
    ".fp16.bin",
)  # fmt: skip
"""In this order: no pickle where there is a choice, full precision before half."""


@runtime_checkable
class Source(Protocol):
    """An opened checkpoint: names, shapes and dtypes at once, tensors one by one."""

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> str: ...

    @property
    def metadata(self) -> dict[str, str]: ...

    @property
    def specs(self) -> dict[str, Spec]: ...

    def read(self, name: str, row: int | None = None) -> np.ndarray:
        """One tensor in its own dtype, or one entry of its first axis."""
        ...


class MemorySource:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, np.ndarray], path: Path = Path("memory")) -> None:
        self.path, self.kind, self._tensors = path, "arrays", tensors
        self.metadata: dict[str, str] = {}
        self.specs = {name: Spec(tuple(array.shape), np.dtype(array.dtype)) for name, array in tensors.items()}

    def read(self, name: str, row: int | None = None) -> np.ndarray:
        """One tensor, or one entry of its first axis."""
        tensor = np.asarray(self._tensors[name])
        return tensor if row is None else tensor[row]


class ShardedSource:
    """Several files that an index joins.

    Raises:
        CheckpointError: for a broken index, missing shards (all are listed), or shards that lack what the index says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        entries = index_entries(path)
        files = {name: path.parent / name for name in sorted(set(entries.values()))}
        if missing := [name for name, file in files.items() if not file.is_file()]:
            raise CheckpointError(
                f"{path} lacks {len(missing)} of its {len(files)} shards ({listed(missing)}); put them into {path.parent}"
            )
        shards = {name: open_file(file) for name, file in files.items()}
        self.kind = f"{len(shards)} shards, {next(iter(shards.values())).kind}"
        if lost := [name for name, file in entries.items() if name not in shards[file].specs]:
            raise CheckpointError(
                f"{path} names {plural(len(lost), 'tensor')} that its shards do not hold ({listed(lost)}); fetch all anew"
            )
        self._shard = {name: shards[file] for name, file in entries.items()}
        self.specs = {name: shard.specs[name] for name, shard in self._shard.items()}

    def read(self, name: str, row: int | None = None) -> np.ndarray:
        """One tensor in its own dtype, or one entry of its first axis."""
        return self._shard[name].read(name, row)


def index_entries(path: Path) -> dict[str, str]:
    """Tensor → shard of an index file; shards lie beside the index, nowhere else."""
    if path.stat().st_size > INDEX_LIMIT:
        raise CheckpointError(f"{path} is no index of a sharded checkpoint: it has more than {INDEX_LIMIT >> 20} MiB")
    try:
        content: Any = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no index of a sharded checkpoint ({str(error)[:100]}); fetch it again"
        ) from error
    entries = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(file, str) for file in entries.values()) or not entries:
        raise CheckpointError(f"{path} has no 'weight_map': it is no index of a sharded checkpoint")
    if outside := {file for file in entries.values() if Path(file).name != file}:
        raise CheckpointError(f"{path} names shards outside its folder ({listed(outside)}); they are not read")
    return entries


def open_checkpoint(path: Path) -> Source:
    """Opens a file, an index of shards, or a folder that holds one of them.

    Raises:
        CheckpointError: if there is nothing, or it is no checkpoint, truncated, damaged or unsafe.
    """
    path = Path(path)
    if path.is_dir():
        path = checkpoint_in(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; check the path")
    return ShardedSource(path) if path.name.endswith(INDEX) else open_file(path)


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint of a folder: by the hubs' names, or the only one there."""
    for stem in STEMS:
        for ending in ENDINGS:
            if (folder / (stem + ending)).is_file():
                return folder / (stem + ending)
    found = sorted(
        file for ending in (".safetensors", ".bin", ".ckpt", ".pth", ".pt") for file in folder.glob(f"*{ending}")
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(f"{folder} holds several checkpoints ({listed(f.name for f in found)}); name one of them")
    raise CheckpointError(
        f"{folder} holds no checkpoint; it should have e.g. {STEMS[0]}.safetensors or {STEMS[1]}.safetensors"
    )


def open_file(path: Path) -> Source:
    """Opens one file by what it begins with, not by its name."""
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes); fetch it again")
    if reason := impostor(head):
        raise CheckpointError(f"{path} is {reason}")
    if head[8:9] == b"{":
        return SafetensorsFile(path)
    if head[:2] == b"PK" or (
        head[:1] == b"\x80" and head[1:2] <= b"\x05"
    ):  # torch's archives; any pickle from protocol 2
        return PickleFile(path)
    if head[:1] == b"\x08" and path.suffix == ".onnx":  # a protocol buffer's first field; nothing else tells them
        return OnnxFaces(path)
    raise CheckpointError(
        f"{path} is no checkpoint: neither safetensors nor a PyTorch or ONNX file (it begins with {head[:8]!r})"
    )


def impostor(head: bytes) -> str:
    """What a file that passes for a checkpoint really is, and what to do; empty for none of the known ones."""
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page: the download went wrong (an address that needs a login?); fetch it again"
    if text.startswith(b"{"):
        return "a JSON file, no checkpoint; of a sharded checkpoint give the file that ends in .index.json"
    return ""
