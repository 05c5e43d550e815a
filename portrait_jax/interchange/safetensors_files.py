"""Safetensors files, read and written one tensor at a time: nothing but the tensor in hand is in memory.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, a JSON header of names with
dtype, shape and byte range, then the bytes. It is parsed here, not by the library, so that a file from the network is
checked before it is believed and a broken one is told apart from a truncated one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from portrait_jax.errors import CheckpointError
from portrait_jax.media.files import atomic_output

HEADER_LIMIT = 64 << 20
"""Bytes of header that are read; the largest published one has one or two."""
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8), "U64": np.dtype(np.uint64), "U32": np.dtype(np.uint32), "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip
"""The format's names of the dtypes."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
METADATA = "__metadata__"


@dataclass(frozen=True)
class Spec:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in a file and in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsFile:
    """One file, opened: `specs` by name, `metadata`, and `read`.

    Raises:
        CheckpointError: for a file that is truncated, whose header is broken, or that names an unknown dtype.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind = "safetensors"
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER_LIMIT:
                raise CheckpointError(f"{path} is no safetensors file: its header would have {length} bytes")
            text = file.read(length)
        if len(text) < length:
            raise truncated(path, size, 8 + length)
        self._start = 8 + length
        header = parsed_header(path, text)
        self.metadata: dict[str, str] = header.pop(METADATA, None) or {}
        if not isinstance(self.metadata, dict):
            raise broken(path, "its metadata is no mapping")
        self._ranges: dict[str, int] = {}
        self.specs: dict[str, Spec] = {}
        for name, entry in header.items():
            self.specs[name], self._ranges[name] = checked_entry(path, name, entry)
        self._check_ranges(size)

    def _check_ranges(self, size: int) -> None:
        """Byte ranges follow each other without holes or overlaps to the file's end, as the format demands."""
        end = 0
        for name in sorted(self.specs, key=lambda name: (self._ranges[name], self.specs[name].nbytes)):
            if self._ranges[name] != end:
                raise broken(self.path, f"the bytes of '{name}' do not follow those before")
            end += self.specs[name].nbytes
        if size < self._start + end:
            raise truncated(self.path, size, self._start + end)
        if size > self._start + end:
            raise broken(self.path, f"{size - self._start - end} bytes follow its last tensor")

    def read(self, name: str, row: int | None = None) -> np.ndarray:
        """One tensor in its own dtype, or one entry of its first axis."""
        spec = self.specs[name]
        shape = spec.shape if row is None else spec.shape[1:]
        count = math.prod(shape)
        with self.path.open("rb") as file:
            file.seek(self._start + self._ranges[name] + (row or 0) * count * spec.dtype.itemsize)
            flat = np.fromfile(file, spec.dtype, count)
        if flat.size < count:
            raise CheckpointError(f"{self.path} changed while it was read: '{name}' ends early; try again")
        return flat.reshape(shape)


def parsed_header(path: Path, text: bytes) -> dict[str, Any]:
    """The header as a mapping; a name that comes twice is an error, since JSON would keep the last in silence."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name comes twice")
        return found

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise broken(path, str(error)[:200]) from error
    if not isinstance(header, dict):
        raise broken(path, "it is no mapping")
    return header


def checked_entry(path: Path, name: str, entry: Any) -> tuple[Spec, int]:
    """A header entry as spec and first byte."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (whole_numbers(shape) and whole_numbers(span) and len(span) == 2):
        raise broken(path, f"the entry of '{name}' has no shape or byte range")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: '{name}' has the dtype {str(dtype)[:20]!r}, which is not known; give float32, float16 or bfloat16"
        )
    spec = Spec(tuple(shape), DTYPES[dtype])
    if span[1] - span[0] != spec.nbytes:
        raise broken(
            path, f"'{name}' of shape {spec.shape} in {dtype} has {spec.nbytes} bytes, not {span[1] - span[0]}"
        )
    return spec, span[0]


def whole_numbers(values: Any) -> bool:
    """Whether this is a list of integers from 0 up."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def truncated(path: Path, size: int, needed: int) -> CheckpointError:
    """The message for a file that ends early."""
    return CheckpointError(f"{path} is truncated: it has {size} of at least {needed} bytes; fetch it again")


def broken(path: Path, reason: str) -> CheckpointError:
    """The message for a header that makes no sense."""
    return CheckpointError(f"{path} has a broken safetensors header ({reason}); fetch it again")


def write(
    path: Path, specs: Mapping[str, Spec], read: Callable[[str], np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a file tensor by tensor, under a temporary name first; equal tensors give equal bytes.

    Args:
        path: the file; its folder is made.
        specs: shape and dtype of every tensor.
        read: called once per name, in the file's order; must return what the spec says.
        metadata: texts for the header.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    # Wide types first keeps every tensor aligned, as the library's own writer does.
    names = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    start = 0
    for name in names:
        spec = specs[name]
        span = [start, start + spec.nbytes]
        header[name] = {"dtype": NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": span}
        start += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with atomic_output(path) as temporary, temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                array = read(name)
                if (array.shape, array.dtype) != (specs[name].shape, specs[name].dtype):
                    raise AssertionError(f"'{name}' is {array.dtype}{array.shape}, announced {specs[name]}")
                np.ascontiguousarray(array).tofile(file)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}; free some space or choose another folder") from error


def write_sharded(
    path: Path,
    specs: Mapping[str, Spec],
    read: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[Path]:
    """Writes one file, or where `limit` bytes of tensors are exceeded several and an index, named as the hubs name them.

    `model.safetensors` becomes `model-00001-of-00003.safetensors` … and `model.safetensors.index.json`, which is written
    last and names every tensor's file.

    Returns:
        what a reader is given: the file, or the index; then the shards.

    Raises:
        CheckpointError: if a file cannot be written; the shards before it are removed.
    """
    groups = shards(specs, limit) if limit else [list(specs)]
    if len(groups) == 1:
        write(path, specs, read, metadata)
        # Readers take an index first: one of an earlier, larger export would hide this file.
        path.with_name(path.name + ".index.json").unlink(missing_ok=True)
        return [path]
    files = [
        path.with_name(f"{path.stem}-{i:05d}-of-{len(groups):05d}{path.suffix}") for i in range(1, len(groups) + 1)
    ]
    index = path.with_name(path.name + ".index.json")
    written: list[Path] = []
    try:
        for file, names in zip(files, groups):
            write(file, {name: specs[name] for name in names}, read, metadata)
            written.append(file)
        entries = {name: file.name for file, names in zip(files, groups) for name in names}
        total = sum(spec.nbytes for spec in specs.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": entries}, indent=2, sort_keys=True)
        with atomic_output(index) as temporary:
            temporary.write_text(text)
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        raise
    return [index, *files]


def shards(specs: Mapping[str, Spec], limit: int) -> list[list[str]]:
    """Names cut into groups of at most `limit` bytes, in their order; a larger tensor stands alone."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, spec in specs.items():
        if groups[-1] and filled + spec.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += spec.nbytes
    return groups
