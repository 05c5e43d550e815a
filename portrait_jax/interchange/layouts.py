"""Layouts: what a published release consists of, file by file, and how to recognise one.

A layout is data. Each file in `tables/` holds the layouts of one family in a tuple `LAYOUTS`; adding a file adds them.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.interchange.rules import KeyMap, Link, fillers
from portrait_jax.interchange.safetensors_files import Spec
from portrait_jax.typing import PyTree

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Signature:
    """What gives a checkpoint away."""

    has: tuple[str, ...]
    """Names that it must hold, as the part's map spells them."""
    lacks: tuple[str, ...] = ()
    """Regular expressions that match none of its names."""
    shapes: Shapes = field(default_factory=dict)
    """Shapes that tell apart layouts with equal names; those of names that a file lacks say nothing."""


@dataclass(frozen=True, eq=False)
class Part:
    """One network of a release: one file, one folder, or the names with one prefix in a common file."""

    subnet: str
    """Sub-network of the result."""
    table: KeyMap
    published: Callable[[], PyTree]
    """The parameter tree at published size, shapes only."""
    signature: Signature
    file: str = ""
    """Its file or folder in the release; several parts with the same one share it."""
    select: str = ""
    """Regular expression on Flax paths: the leaves of the sub-network that belong to it; empty: all."""

    def links(self, tree: PyTree) -> list[Link]:
        """What the leaves of a tree (arrays or shapes) are made of."""
        leaves = traverse_util.flatten_dict(tree, sep="/")
        chosen = {path: leaf for path, leaf in leaves.items() if re.match(self.select, path)}
        return [self.table.link(path, leaf.shape) for path, leaf in sorted(chosen.items())]

    def expected(self, tree: PyTree | None = None) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all published tensors that are read, at published size or of a given tree."""
        links = self.links(self.published() if tree is None else tree)
        return {name: shape for link in links for name, shape in link.published().items()}

    def stored(self, tree: PyTree | None = None) -> dict[str, tuple[int, ...]]:
        """`expected`, and the fillers that a file of this layout holds besides."""
        read = self.expected(tree)
        return read | {name: filler.make(shape).shape for name, (filler, shape) in fillers(self.table, read).items()}

    def resembles(self, specs: Mapping[str, Spec]) -> bool:
        """Whether a checkpoint that is nobody's may be a damaged or foreign one of these."""
        names = {self.table.canonical(name) for name in specs}
        return any(name in names for name in self.signature.has)

    def recognises(self, specs: Mapping[str, Spec]) -> float:
        """0 if this is something else; otherwise more than 0, and 2 if the sizes are the published ones too."""
        names = {self.table.canonical(name): spec for name, spec in specs.items()}
        if not all(name in names for name in self.signature.has):
            return 0.0
        if any(re.match(pattern, name) for pattern in self.signature.lacks for name in names):
            return 0.0
        shapes = self.signature.shapes
        return 1.0 + all(names[name].shape == shape for name, shape in shapes.items() if name in names)


@dataclass(frozen=True, eq=False)
class Layout:
    """A named release."""

    name: str
    title: str
    """What it is, in a few words."""
    parts: tuple[Part, ...]
    manifest: tuple[str, ...] = ()
    """The entries of the reference manifests that list its tensors, part by part: what the tests compare with."""
    extra_ok: bool = False
    """Files of this kind are full of other things (optimizer twins, merges' notes): they are counted and passed over."""


@functools.cache
def layouts() -> dict[str, Layout]:
    """Every layout by name, from all files in `tables/`."""
    from portrait_jax.interchange import tables

    found: dict[str, Layout] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(tables.__path__)):
        for layout in importlib.import_module(f"{tables.__name__}.{module}").LAYOUTS:
            assert layout.name not in found, f"two layouts are called {layout.name}"
            found[layout.name] = layout
    return found


def layout_named(name: str) -> Layout:
    """Looks a layout up; raises ConfigError with the nearest name."""
    if name not in layouts():
        raise ConfigError(f"layout '{name}' does not exist{nearest(name, list(layouts()))}")
    return layouts()[name]


def recognise(specs: Mapping[str, Spec]) -> list[tuple[Layout, tuple[Part, ...]]]:
    """Layouts that a checkpoint may be, with the parts it holds; the likeliest first.

    Sizes decide first, then how many parts it holds, then the layout that has no others.
    """
    found = []
    for layout in layouts().values():
        scores = {part: part.recognises(specs) for part in layout.parts}
        parts = tuple(part for part, score in zip(layout.parts, scores.values()) if score)
        if parts:
            found.append((max(scores.values()), len(parts), -len(layout.parts), layout, parts))
    found.sort(key=lambda entry: entry[:3], reverse=True)
    return [(layout, parts) for *_, layout, parts in found]


def shapes_of(module: nn.Module, make: Callable[[], Iterable[Any]], **options: Any) -> PyTree:
    """The parameter tree of a module as shapes, from inputs that `make` gives; nothing is computed or allocated."""
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *make(), **options)["params"])
