"""Legacy PyTorch files (`.ckpt`, `.pt`, `.pth`, `.bin`), read by `torch.load(weights_only=True)` alone.

That mode builds tensors and plain containers and refuses everything else, so that no code of a file runs. torch is
imported here only, and only when such a file is opened.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange.safetensors_files import Spec

WRAPPERS = ("state_dict", "module")
"""Levels that hold the tensors and say nothing: trainers' names for "the network"."""
PICKLE_LIMIT = 64 << 20
"""Bytes of the pickle itself, without tensors; the largest published one has one or two."""
DEPTH = 8


class PickleFile:
    """One legacy file, opened: `specs` by name and `read`. Nested dictionaries become dotted names.

    Raises:
        CheckpointError: without torch; for a file that is truncated, damaged, or wants to run code.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind = "PyTorch pickle"
        self.metadata: dict[str, str] = {}
        torch = imported_torch(path)
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            check_archive(path)
        try:
            # Mapped files are read when a tensor is; the old format without zip cannot be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except Exception as error:  # torch raises a dozen types for a file that it cannot read
            raise unreadable(path, error) from error
        self._tensors = dict(tensors(content, torch))
        if not self._tensors:
            raise CheckpointError(f"{path} holds no tensors by name; give the file with the network's state dict")
        self.specs = {name: Spec(tuple(t.shape), numpy_dtype(t.dtype, torch)) for name, t in self._tensors.items()}

    def read(self, name: str, row: int | None = None) -> np.ndarray:
        """One tensor in its own dtype, or one entry of its first axis."""
        tensor = self._tensors[name].detach()
        tensor = (tensor if row is None else tensor[row]).contiguous()
        dtype = self.specs[name].dtype
        if dtype == ml_dtypes.bfloat16 or dtype.name.startswith("float8"):
            integers = {2: "int16", 1: "uint8"}[dtype.itemsize]
            return tensor.view(getattr(imported_torch(self.path), integers)).numpy().view(dtype)
        return tensor.numpy()


def imported_torch(path: Path) -> Any:
    """The module torch, or a message that says how to do without it."""
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a PyTorch pickle, which only torch reads: pip install 'portrait-jax[interchange]', or give "
            "the .safetensors file that most publishers offer beside it"
        ) from error
    return torch


def check_archive(path: Path) -> None:
    """Refuses archives that are larger inside than outside: torch stores, it never compresses."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    inside = sum(entry.file_size for entry in entries)
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if inside > path.stat().st_size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path} is compressed inside, as no PyTorch file is; it is not read")
    if not pickles:
        raise CheckpointError(f"{path} is a zip archive, but no PyTorch checkpoint; unpack it and give the file inside")
    if any(entry.file_size > PICKLE_LIMIT for entry in pickles):
        raise CheckpointError(
            f"{path} has a pickle of more than {PICKLE_LIMIT >> 20} MiB beside its tensors; it is not read"
        )


def tensors(content: Any, torch: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields the tensors of nested dictionaries by dotted name, without levels that say nothing."""
    if not isinstance(content, Mapping) or depth > DEPTH:
        return
    inner = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None) if not prefix else None
    if inner is not None:
        yield from tensors(content[inner], torch, prefix, depth + 1)
        return
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from tensors(value, torch, f"{prefix}{name}.", depth + 1)


def numpy_dtype(dtype: Any, torch: Any) -> np.dtype:
    """torch's dtype in numpy."""
    name = str(dtype).removeprefix("torch.")
    special = {"bfloat16": ml_dtypes.bfloat16, "float8_e4m3fn": ml_dtypes.float8_e4m3fn}
    special["float8_e5m2"] = ml_dtypes.float8_e5m2
    try:
        return np.dtype(special.get(name, name))
    except TypeError as error:
        raise CheckpointError(
            f"the dtype {name} of a tensor is not known; give float32, float16 or bfloat16"
        ) from error


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Tells a pickle with code in it from a broken one."""
    text = " ".join(str(error).split())
    if "weights_only" in text or "Unsupported" in text:
        culprit = re.search(r"GLOBAL:? ([\w.]+)", text)
        return CheckpointError(
            f"{path} holds more than tensors{f' ({culprit[1]})' if culprit else ''}: loading it would run its code, so it is "
            "refused; give a .safetensors file, or one that holds the state dict alone"
        )
    reason = re.split(r"\. ", text)[0][:150]
    return CheckpointError(f"{path} is truncated or damaged ({reason}); fetch it again")
