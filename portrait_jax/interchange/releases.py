"""A release's folder: which checkpoints lie in it, and which layout they make up together."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from portrait_jax.errors import CheckpointError, listed
from portrait_jax.interchange.convert import KEPT
from portrait_jax.interchange.layouts import Layout, Part, layouts
from portrait_jax.interchange.safetensors_files import Spec
from portrait_jax.interchange.sources import ENDINGS, INDEX, STEMS, index_entries, open_checkpoint
from portrait_jax.training.params import FILE

FORMS = (*ENDINGS, ".ckpt", ".pth", ".pt", ".onnx")
"""Endings of what may be a checkpoint; of several forms of one, the first is opened."""
SHARD = re.compile(r"-\d+-of-\d+$")
DEPTH, LIMIT = 4, 100
"""Levels of folders that are looked through, and the most checkpoints that one release has."""


@dataclass(frozen=True)
class Header:
    """What is known of a checkpoint without holding it open: many of a folder's need not fit in memory together."""

    path: Path
    kind: str
    metadata: dict[str, str]
    specs: dict[str, Spec]

    def read(self, name: str, row: int | None = None) -> np.ndarray:
        """One tensor, or one row of it, from the file opened anew."""
        return open_checkpoint(self.path).read(name, row)


@dataclass(frozen=True)
class Found:
    """A checkpoint in a folder: its header, or why it cannot be read."""

    where: str
    """The file, or its index, relative to the folder."""
    header: Header | None
    problem: str = ""
    forms: tuple[str, ...] = ()
    """Names of other files beside it that hold the same in another form; they are not opened."""

    def lies_at(self, file: str) -> bool:
        """Whether this is where a part's file (or the one file in a part's folder) is expected, or beside the others."""
        folder, name = os.path.split("/" + self.where)
        here = folder + "/" + split_name(name)[0] if Path(file).suffix else folder
        spots = {spot.removesuffix(Path(spot).suffix) for spot in (file, Path(file).name)}
        return bool(file) and any(here.endswith("/" + spot) for spot in spots)

    def resemblance(self, parts: Sequence[Part]) -> float:
        """The best of the parts' scores, see `Part.recognises`."""
        return 0.0 if self.header is None else max(part.recognises(self.header.specs) for part in parts)


@dataclass(frozen=True)
class Release:
    """What a folder holds of one layout."""

    layout: Layout
    held: tuple[tuple[Found, tuple[Part, ...]], ...]
    damaged: tuple[Found, ...]
    """Unreadable files where the layout has one."""
    absent: tuple[Part, ...]
    rest: tuple[Found, ...]

    @property
    def rank(self) -> tuple[int, int, float, int]:
        """Of the layouts that a folder may be, the likeliest has the greatest: most files, right sizes, little missing."""
        scores = math.fsum(found.resemblance(parts) for found, parts in self.held)
        return len(self.held), len(self.damaged), scores, -len(self.absent)


def release_in(found: Sequence[Found]) -> Release | None:
    """The layout of which these are the files; None if no layout has several of them."""
    best = max((fitted(layout, found) for layout in layouts().values()), key=lambda release: release.rank)
    return best if len(best.held) + len(best.damaged) > 1 else None


def fitted(layout: Layout, found: Sequence[Found]) -> Release:
    """Gives each file of a layout the checkpoint that is it: by its names and, of several or a damaged one, by its place."""
    free, held, damaged, absent = list(found), [], [], []
    for file in dict.fromkeys(part.file for part in layout.parts):
        parts = [part for part in layout.parts if part.file == file]
        ranked = [
            (score > 0, one.lies_at(file), score, one)
            for one in free
            if (score := one.resemblance(parts)) or (one.header is None and one.lies_at(file))
        ]
        *_, chosen = max(ranked, key=lambda entry: entry[:3], default=(None,))
        if chosen is None:
            absent += parts
            continue
        free.remove(chosen)
        if chosen.header is None:
            damaged.append(chosen)
            continue
        inside = tuple(part for part in parts if part.recognises(chosen.header.specs))
        held.append((chosen, inside))
        absent += [part for part in parts if part not in inside]
    return Release(layout, tuple(held), tuple(damaged), tuple(absent), tuple(free))


def found_in(folder: Path) -> list[Found]:
    """Every checkpoint in a folder and the folders in it, opened one after the other.

    Raises:
        CheckpointError: for a folder with far more checkpoints than a release has.
    """
    groups = list(grouped(folder))
    if len(groups) > LIMIT:
        raise CheckpointError(f"{folder} holds {len(groups)} checkpoints; name the folder of one release, or a file")
    return [opened(folder, paths) for paths in groups]


def opened(folder: Path, paths: Sequence[Path]) -> Found:
    """The first of the forms of one checkpoint."""
    path, *others = paths
    where, forms = path.relative_to(folder).as_posix(), tuple(other.name for other in others)
    name, ending = split_name(path.name)
    if name != split_name(path.name, shards=False)[0]:
        index = f"{name}{ending}{INDEX}"
        return Found(where, None, f"of {len(paths)} shards the index {index} is missing; put it beside them", ())
    try:
        source = open_checkpoint(path)
    except CheckpointError as error:
        return Found(where, None, str(error), forms)
    return Found(where, Header(source.path, source.kind, source.metadata, source.specs), "", forms)


def grouped(folder: Path) -> Iterator[list[Path]]:
    """The files of each checkpoint: one or more forms of the same, the one to open first."""
    for directory, inside, names in os.walk(folder):
        here = Path(directory)
        deep = len(here.relative_to(folder).parts) >= DEPTH
        inside[:] = [] if deep else sorted(name for name in inside if not name.startswith("."))
        joined = {shard for name in names if name.endswith(INDEX) for shard in shards_of(here / name)}
        beside = {KEPT} if FILE in names else set()
        groups: dict[str, list[str]] = {}
        for name in sorted(set(names) - joined - beside):
            stem, ending = split_name(name)
            if ending:
                groups.setdefault("" if stem in STEMS else stem, []).append(name)
        yield from ([here / name for name in sorted(group, key=preference)] for group in groups.values())


def shards_of(index: Path) -> set[str]:
    """The files that an index joins; none if it is broken, which opening it will say."""
    try:
        return set(index_entries(index).values())
    except CheckpointError:
        return set()


def preference(name: str) -> tuple[bool, int, int]:
    """Sorts the forms of one checkpoint as `sources.checkpoint_in` does; shards without index come last."""
    stem, ending = split_name(name)
    shard = stem != split_name(name, shards=False)[0]
    return shard, STEMS.index(stem) if stem in STEMS else 0, FORMS.index(ending)


def split_name(name: str, *, shards: bool = True) -> tuple[str, str]:
    """(stem, ending) of a checkpoint's file; the ending is empty for other files. With `shards` their numbers go too."""
    ending = max((form for form in FORMS if name.endswith(form)), key=len, default="")
    stem = name.removesuffix(ending) if ending else name
    return (SHARD.sub("", stem) if shards else stem), ending


def place_of(part: Part) -> str:
    """Where a part that is not there belongs, in words."""
    if not part.file:
        return part.subnet
    return f"{part.subnet} ({part.file if Path(part.file).suffix else f'a checkpoint in {part.file}/'})"


def absentees(release: Release) -> list[str]:
    """A line on the parts that are not there."""
    return [f"  not here: {listed(place_of(part) for part in release.absent)}"] if release.absent else []
