"""Checkpoints made up for tests: any layout at a hundredth of its size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from portrait_jax.interchange.layouts import Layout, Part
from portrait_jax.interchange.rules import KERNEL, POINTWISE, SAME
from portrait_jax.interchange.safetensors_files import Spec, write
from portrait_jax.interchange.sources import open_checkpoint
from portrait_jax.typing import PyTree

TYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
SIDE = 4
SMALL = "sd15_vae"


@cache
def shrunk(part: Part, side: int = SIDE) -> PyTree:
    """The part's published tree with no axis longer than `side`: names and ranks are all that a map looks at.

    Made once per part, since tracing a large network takes seconds; not to be changed.
    """
    leaves = traverse_util.flatten_dict(part.published(), sep="/")

    def small(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        plain = part.table.kind(path) in (KERNEL, SAME, POINTWISE)
        return tuple(min(axis, side) for axis in shape) if plain else shape

    made = {path: jax.ShapeDtypeStruct(small(path, leaf.shape), np.float32) for path, leaf in leaves.items()}
    for link in part.links(part.published()):
        # What takes several parts of a tensor keeps as many outputs of each.
        several = len(link.taken)
        if several > 1:
            shape = (*made[link.path].shape[:-1], several * min(link.shape[-1] // several, side))
            made[link.path] = jax.ShapeDtypeStruct(shape, np.float32)
    return traverse_util.unflatten_dict(made, sep="/")


def targets(layout: Layout) -> dict[str, PyTree]:
    """Small trees of all sub-networks of a layout."""
    return {part.subnet: shrunk(part) for part in layout.parts}


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0, dtypes=TYPES) -> dict[str, np.ndarray]:
    """A random tensor for each name, the dtypes in turn; names that differ in numbers alone, as layers do, share one."""
    rng = np.random.default_rng(seed)
    kinds = sorted({re.sub(r"\d+", "#", name) for name in shapes})
    chosen = {kind: dtypes[i % len(dtypes)] for i, kind in enumerate(kinds)}
    return {
        name: rng.standard_normal(shape, np.float32).astype(chosen[re.sub(r"\d+", "#", name)])
        for name, shape in sorted(shapes.items())
    }


def save(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """Writes tensors to a safetensors file."""
    write(path, {name: Spec(x.shape, x.dtype) for name, x in tensors.items()}, tensors.__getitem__, metadata)
    return path


def read_all(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint."""
    source = open_checkpoint(path)
    return {name: source.read(name) for name in source.specs}


def release(layout: Layout, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Writes a whole release at small size; returns the tensors of each of its files (by the layout's file name)."""
    files: dict[str, dict[str, np.ndarray]] = {}
    for i, part in enumerate(layout.parts):
        files.setdefault(part.file, {}).update(random_tensors(part.stored(shrunk(part)), i))
    for name, tensors in files.items():
        save(place(folder, name), tensors)
    return files


def place(folder: Path, name: str) -> Path:
    """Where `release` puts a file."""
    return folder / f"{Path(name).stem or 'single'}.safetensors"


def same_tensors(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    """Asserts equal names, dtypes and bits."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape), name
        assert tensor.tobytes() == other[name].tobytes(), name
