"""Where parameters lie: rules on their paths, and a fallback for the rest.

The tensor rules follow Megatron-LM (arXiv 1909.08053, section 3): the first matrix of a pair splits its outputs, the
second its inputs, so that one reduction per attention or feed-forward layer suffices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from portrait_jax.typing import PyTree

Rule = tuple[str, PartitionSpec]

RULES: tuple[Rule, ...] = (
    (r"/(to_(q|k|v)|(q|k|v)_proj|SelfAttention/(q|k|v)|norm[12]/linear)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"/(to_out_0|out_proj|SelfAttention/o)/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"/(ff/net_0/proj|mlp/fc1|DenseReluDense/wi_[01]|proj3)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"/(ff/net_2|mlp/fc2|DenseReluDense/wo|conv1)/kernel$", PartitionSpec("tensor", "fsdp")),
)
"""(regular expression searched in the path, sharding of the leaf's last axes); the first that matches wins.

Names are those of diffusers (`to_q`, `ff`) and of transformers (`q_proj`, `mlp`, T5's). Scanned layers have an axis more, in
front: it stays whole.
"""

SMALL = 2**14
"""Leaves with fewer elements are copied to every device: spreading them costs more than it saves."""


def path_name(path: tuple) -> str:
    """`a/b/c` for a key path of `jax.tree_util`, whatever its containers."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_spec(
    name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, rules: Sequence[Rule] = RULES
) -> PartitionSpec:
    """The sharding of one leaf.

    Small leaves are replicated. A rule's axes that do not divide the leaf are left out. Without a rule (or with nothing
    left of it) the largest axis that `fsdp` divides is split over `fsdp`; of a convolution's kernel, "space… in out", only
    the last two: XLA convolves wrongly with one that is split over space while another axis of the mesh has copies of it (jax
    0.10.2, on a processor).
    """
    if math.prod(shape) < SMALL:
        return PartitionSpec()
    for pattern, spec in rules:
        if re.search(pattern, name) and len(spec) in (len(shape), len(shape) - 1):
            last = shape[-len(spec) :]
            kept = [axis if size % mesh.shape[axis] == 0 else None for axis, size in zip(spec, last, strict=True)]
            kept = [None] * (len(shape) - len(spec)) + kept
            if any(kept):
                return PartitionSpec(*kept)
    first = len(shape) - 2 if name.endswith("/kernel") and len(shape) > 3 else 0
    divisible = [axis for axis in range(first, len(shape)) if shape[axis] % mesh.shape["fsdp"] == 0]
    if not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape))))


def shardings(tree: PyTree, mesh: Mesh | AbstractMesh, rules: Sequence[Rule] = RULES) -> PyTree:
    """A NamedSharding per leaf of a tree of arrays or shapes: parameters, or a whole train state.

    Optimizer moments and averages repeat the parameters' paths behind a prefix, so the same rules place them alike.
    """

    def place(path: tuple, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, leaf_spec(path_name(path), leaf.shape, mesh, rules))

    return jax.tree_util.tree_map_with_path(place, tree)
