"""Files against layouts: which file holds which part, and whether it holds all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from portrait_jax.errors import CheckpointError, ConfigError, ShapeError, listed, nearest, plural
from portrait_jax.interchange.layouts import Layout, Part, recognise
from portrait_jax.interchange.rules import Link, fillers, fits
from portrait_jax.interchange.safetensors_files import DTYPES
from portrait_jax.interchange.sources import Source, open_checkpoint
from portrait_jax.typing import PyTree

FLOATS = tuple(DTYPES[name] for name in ("F32", "F16", "BF16"))


@dataclass(frozen=True)
class Match:
    """One part and the file that holds it."""

    part: Part
    source: Source
    subnet: str
    links: list[Link]
    names: Mapping[str, str]
    """Canonical name → the file's own, of all tensors the part knows."""
    kept: Mapping[str, str]
    """The same for tensors that an export cannot make from the leaves: those the network does not need."""

    def read(self, link: Link) -> np.ndarray:
        """A leaf, in the file's dtype; of a stack one layer after the other, so that it is in memory once."""
        if link.layers:
            stack = np.empty(link.shape, self.dtype(link))
            for i in range(link.layers):
                stack[i] = self.read(link.layer(i))
            return stack
        leaf = link.to_flax(*(self.source.read(self.names[name]) for name in link.names))
        return leaf.reshape(link.shape)

    def dtype(self, link: Link) -> np.dtype:
        """Of a leaf: the file's, and of a stack whose layers differ the widest."""
        kinds = {self.source.specs[self.names[name]].dtype for name in link.names[:: link.each]}
        return kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)


@dataclass
class Findings:
    """What a comparison of a file with a part came to."""

    missing: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    """Canonical name → the file's own."""
    kept: dict[str, str] = field(default_factory=dict)
    passed_over: set[str] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        """Whether the part can be read."""
        return not (self.missing or self.shapes or self.dtypes)


def compare(part: Part, source: Source, links: Sequence[Link]) -> Findings:
    """Looks for every published tensor of some leaves in a file.

    Raises:
        CheckpointError: if two names of the file mean the same tensor.
    """
    found = Findings()
    names: dict[str, str] = {}
    for name in source.specs:
        canonical = part.table.canonical(name)
        if canonical in names:
            raise CheckpointError(f"{source.path} holds '{canonical}' twice, as '{names[canonical]}' and '{name}'")
        names[canonical] = name
    wanted = {name: shape for link in links for name, shape in link.published().items()}
    for name, shape in wanted.items():
        if name not in names:
            found.missing.append(name)
            continue
        found.known[name] = names[name]
        spec = source.specs[names[name]]
        if not fits(spec, shape):
            found.shapes.append(f"{name}: file {spec.shape}, network {shape}")
        if spec.dtype not in FLOATS:
            found.dtypes.append(f"{name}: {spec.dtype.name}")
    # What folds several tensors into one leaf (weight norm) cannot be undone to the bit.
    folded = {name for link in links if link.each > 1 for name in link.names}
    spare = {name for name in names if part.table.spares(name)}
    found.kept = {name: names[name] for name in (*fillers(part.table, wanted), *folded, *spare) if name in names}
    found.passed_over = {name for canonical, name in names.items() if part.table.ignores(canonical)}
    return found


def assign(
    layouts: Sequence[Layout],
    inputs: Sequence[str],
    targets: Mapping[str, PyTree] | None = None,
    subnet: str | None = None,
    *,
    extra_ok: bool = False,
) -> tuple[list[Match], list[str]]:
    """Gives every input file to the parts of the layouts that it holds, and checks that it holds all of them.

    Args:
        inputs: files or folders, or `SUBNET=FILE` where the kind of a file does not show.
        targets: parameter trees (arrays or shapes) by sub-network; default the published sizes.
        subnet: another name for the sub-network, for layouts with one part.
        extra_ok: pass over tensors that nobody knows.

    Returns:
        the matches, and notes on what was passed over or is not there.

    Raises:
        CheckpointError: for another layout than named (which one is said), missing or unknown tensors (counted, ten of
            each named), or a wrong dtype.
        ShapeError: for other shapes.
    """
    parts = [part for layout in layouts for part in layout.parts]
    if subnet and len({part.subnet for part in parts}) > 1:
        raise ConfigError(
            "these layouts hold several sub-networks, which cannot all be called the same; leave --subnet out"
        )
    extra_ok = extra_ok or any(layout.extra_ok for layout in layouts)
    matches: list[Match] = []
    notes: list[str] = []
    for wanted, path in expanded(inputs, parts):
        source = open_checkpoint(path)
        free = [part for part in parts if part not in {match.part for match in matches}]
        chosen = parts_of(source, free, parts, wanted, layouts)
        unknown = set(source.specs)
        for part in chosen:
            name = subnet or part.subnet
            links = part.links(target_of(name, targets) if targets else part.published())
            found = compare(part, source, links)
            refuse(found, source, part, len(links))
            unknown -= {*found.known.values(), *found.kept.values(), *found.passed_over}
            matches.append(Match(part, source, name, links, found.known, found.kept))
        if unknown and not extra_ok:
            raise CheckpointError(
                f"{source.path} holds {plural(len(unknown), 'tensor')} that {chosen[0].subnet} does not have ({listed(unknown)}); "
                "name another layout, or pass over them with --ignore_extra"
            )
        if unknown:
            notes.append(
                f"{source.path.name}: passed over {plural(len(unknown), 'unknown tensor')} ({listed(unknown)})"
            )
    absent = [part for part in parts if part not in {match.part for match in matches}]
    notes += [f"not given: {part.subnet}" + (f" ({part.file})" if part.file else "") for part in absent]
    return matches, notes


def target_of(subnet: str, targets: Mapping[str, PyTree]) -> PyTree:
    """The tree of one sub-network; raises ConfigError with the nearest name."""
    if subnet not in targets:
        raise ConfigError(f"the config's system has no sub-network '{subnet}'{nearest(subnet, list(targets))}")
    return targets[subnet]


def expanded(inputs: Sequence[str], parts: Sequence[Part]) -> list[tuple[str, Path]]:
    """(sub-network or "", path) of every checkpoint; a release's folder becomes the files in it."""
    result: list[tuple[str, Path]] = []
    subnets = {part.subnet for part in parts}
    for text in inputs:
        head, _, tail = text.partition("=")
        wanted, path = (head, Path(tail)) if head in subnets else ("", Path(text))
        inside: list[tuple[str, Path]] = []
        for part in parts:
            if path.is_dir() and part.file and not wanted:
                inside += [(part.subnet, place) for place in places(path, part.file) if place.exists()][:1]
        result += inside or [(wanted, path)]
    return result


def places(folder: Path, file: str) -> list[Path]:
    """Where a part of a release may lie in a folder: where its program expects it, or with others side by side."""
    spots = [folder / name for name in dict.fromkeys((file, Path(file).name))]
    return [place for spot in spots for place in (spot.with_suffix(".safetensors"), spot)]


def parts_of(
    source: Source, free: Sequence[Part], parts: Sequence[Part], wanted: str, layouts: Sequence[Layout]
) -> list[Part]:
    """The parts that a file holds; raises CheckpointError if there is none."""
    candidates = [part for part in free if not wanted or part.subnet == wanted]
    scores = {part: part.recognises(source.specs) for part in candidates}
    best = max(scores.values(), default=0.0)
    chosen = [part for part, score in scores.items() if score and (score == best or part.table.prefix)]
    if chosen:
        return chosen
    if any(part.recognises(source.specs) for part in parts):
        raise CheckpointError(
            f"{source.path} is a second file for a network that another input holds already; give one"
        )
    asked = ",".join(layout.name for layout in layouts)
    if known := recognise(source.specs):
        raise CheckpointError(
            f"{source.path} is no {asked}: it looks like {known[0][0].name} ({known[0][0].title}); "
            f"give --layout {known[0][0].name}"
        )
    if len(candidates) == 1:
        return list(candidates)  # Its findings say more than "unknown" does.
    raise CheckpointError(
        f"{source.path} is no {asked} and none of the known layouts: {plural(len(source.specs), 'tensor')} "
        f"({listed(source.specs)}); `inspect` says more"
    )


def refuse(found: Findings, source: Source, part: Part, count: int) -> None:
    """Raises what a file cannot be read for."""
    if found.missing:
        raise CheckpointError(
            f"{source.path} lacks {len(found.missing)} of the {count} tensors of {part.subnet} ({listed(found.missing)}); "
            "it is incomplete, or of another size or layout"
        )
    if found.shapes:
        raise ShapeError(
            f"{source.path} has other shapes in {plural(len(found.shapes), 'tensor')} ({listed(found.shapes)}); "
            "for another size than the published one give its --config"
        )
    if found.dtypes:
        raise CheckpointError(
            f"{source.path} has the wrong dtype in {plural(len(found.dtypes), 'tensor')} ({listed(found.dtypes)}); "
            "give a file in float32, float16 or bfloat16, not a quantised one"
        )
