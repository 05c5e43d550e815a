"""Variables for tests: random ones, and those that the real key maps make of published tensors."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from portrait_jax.interchange import import_tree, layout_named
from portrait_jax.interchange.layouts import Part
from portrait_jax.typing import PyTree


def part_of(layout: str, subnet: str = "") -> Part:
    """The part of a layout that holds one sub-network; without a name its only part."""
    (part,) = (part for part in layout_named(layout).parts if subnet in ("", part.subnet))
    return part


def tree_of(module: nn.Module, *args, **kwargs) -> PyTree:
    """The parameters of a module as shapes; nothing is computed."""
    args = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, args)
    return jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0))["params"]


def random_params(module: nn.Module, *args, seed: int = 0, **kwargs) -> dict:
    """Random variables of a Flax module without compiling its initialisers; none is zero, so that every branch shows.

    Variances are positive, as only such exist.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        value = rng.normal(size=leaf.shape, scale=0.3)
        positive = jax.tree_util.keystr(path[-1:], simple=True) == "running_var"
        return jnp.asarray(0.5 + np.abs(value) if positive else value, leaf.dtype)

    return {"params": jax.tree_util.tree_map_with_path(draw, tree_of(module, *args, **kwargs))}


def nested(tree: PyTree, at: str) -> PyTree:
    """A tree as the branch `at` (segments with `/` between them) of a larger one."""
    for segment in reversed(at.split("/") if at else ()):
        tree = {segment: tree}
    return tree


def branch(tree: PyTree, at: str) -> PyTree:
    """The branch `at` of a tree: undoes `nested`."""
    for segment in at.split("/") if at else ():
        tree = tree[segment]
    return tree


def imported(tree: PyTree, tensors: Mapping[str, np.ndarray], *parts: Part, at: str = "", prefix: str = "") -> dict:
    """Published tensors as variables of a module, through the key maps of layouts and nothing else.

    Args:
        tree: the module's parameters (arrays or shapes).
        tensors: names as published, with what the map ignores or not.
        parts: they share the leaves between them, as a UNet and its motion modules do.
        at: path of the module in the sub-network that the parts describe, if it is only a piece of it.
        prefix: put before every name (and before the name of `at`): what published files have there and these have not.

    Fails if a leaf or a tensor has no counterpart, or two.
    """
    whole = nested(tree, at)
    begin = prefix + (parts[0].table.name(f"{at}/_").removesuffix("_") if at else "")
    tensors = {begin + name: tensor for name, tensor in tensors.items()}
    unknown, leaves = set(tensors), {}
    for part in parts:
        made = traverse_util.flatten_dict(import_tree(part, tensors, whole))
        assert not made.keys() & leaves.keys()
        leaves |= made
        stored, table = part.stored(whole), part.table
        names = {name: table.canonical(name) for name in unknown}
        unknown -= {name for name, own in names.items() if own in stored or table.ignores(own) or table.spares(own)}
    assert not unknown, f"{len(unknown)} tensors are nobody's: {sorted(unknown)[:10]}"
    params = branch(traverse_util.unflatten_dict(leaves), at)
    assert shapes(params) == shapes(tree)
    return {"params": jax.tree.map(jnp.asarray, params)}


def exported(part: Part, tree: PyTree) -> dict[str, np.ndarray]:
    """A module's parameters, or their gradients, as published tensors."""
    leaves = traverse_util.flatten_dict(tree, sep="/")
    links = [(link, np.asarray(leaves[link.path])) for link in part.links(tree)]
    pieces: dict[str, dict[int, np.ndarray]] = {}
    for link, leaf in links:
        for name, tensor in link.to_torch(leaf).items():
            pieces.setdefault(name, {}).update(zip(link.taken, np.split(tensor, len(link.taken))))
    return {name: np.concatenate([parts[i] for i in sorted(parts)]) for name, parts in pieces.items()}


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Path → shape of every leaf."""
    return {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}
