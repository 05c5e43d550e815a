"""What a checkpoint, or a folder of them, is: its layout, what it holds, what is missing or does not belong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from portrait_jax.errors import listed
from portrait_jax.interchange.convert import counted, parameters
from portrait_jax.interchange.layouts import Layout, Part, layouts, recognise
from portrait_jax.interchange.matching import compare
from portrait_jax.interchange.releases import Found, absentees, found_in, release_in
from portrait_jax.interchange.sources import Source, open_checkpoint
from portrait_jax.training.params import HEADER

PREFIXES = 10


def inspect(path: Path) -> str:
    """Describes a checkpoint, or a folder of them, in a few lines; at most ten names of each kind are listed.

    Of a release's folder it says which layout its files make up, what each holds, which are missing, unreadable or no part
    of it.

    Raises:
        CheckpointError: if it cannot be read.
    """
    path = Path(path)
    found = found_in(path) if path.is_dir() else []
    if len(found) > 1:
        return "\n".join(folder(path, found))
    source = open_checkpoint(path / found[0].where if found else path)
    return "\n".join([heading(str(source.path), source), *body(source)])


def folder(path: Path, found: Sequence[Found]) -> list[str]:
    """A folder of several checkpoints: a release, or each by itself."""
    lines = [f"{path}: a folder with {len(found)} checkpoints"]
    release = release_in(found)
    if release is None:
        return [*lines, "layout: none that several of them share", *indented(each(found))]
    lines.append(f"layout: {release.layout.name}, {release.layout.title}")
    for one, parts in release.held:
        if one.header is not None:
            lines += indented([title(one), *described(one.header, parts)])
    lines += [*indented(each(release.damaged)), *absentees(release)]
    return lines + (["no part of it:", *indented(each(release.rest))] if release.rest else [])


def each(found: Sequence[Found]) -> list[str]:
    """Checkpoints by themselves."""
    return [line for one in found for line in [title(one), *(indented(body(one.header)) if one.header else [])]]


def title(found: Found) -> str:
    """The first line on a checkpoint of a folder."""
    if found.header is None:
        return f"{found.where}: cannot be read: {found.problem}"
    beside = f" (beside it, not read: {listed(found.forms)})" if found.forms else ""
    return heading(found.where, found.header) + beside


def indented(lines: Sequence[str]) -> list[str]:
    """One level deeper."""
    return [f"  {line}" for line in lines]


def heading(name: str, source: Source) -> str:
    """The first line on a checkpoint: its kind and how much it holds."""
    dtypes = Counter(spec.dtype.name for spec in source.specs.values())
    kinds = ", ".join(f"{dtype} ×{count}" if len(dtypes) > 1 else dtype for dtype, count in dtypes.most_common())
    return f"{name}: {source.kind}, {len(source.specs)} tensors, {parameters(source):,} elements, {kinds}"


def body(source: Source) -> list[str]:
    """The layout of one checkpoint and what it has of it."""
    if HEADER in source.metadata:
        return own_format(source)
    known = recognise(source.specs)
    if not known:
        lines = ["layout: none of the known ones", f"  beginnings of names: {beginnings(source)}"]
        if closest := likeliest(source):
            layout, part = closest
            lines += [f"  closest: {layout.name}, {layout.title}", *described(source, (part,))]
        return lines
    (layout, parts), *others = known
    also = [other.name for other, _ in others]
    return [
        f"layout: {layout.name}, {layout.title}",
        *([f"  could be part of: {', '.join(also)}"] if also else []),
        *described(source, parts),
        *(f"  not in this file: {part.subnet}" for part in layout.parts if part not in parts),
    ]


def own_format(source: Source) -> list[str]:
    """A parameter file of this project."""
    try:
        info = json.loads(source.metadata[HEADER])
    except ValueError:
        info = {}
    facts = ", ".join(f"{name} {info[name]}" for name in ("layout", "stage", "step") if name in info)
    subnets = ", ".join(f"{name} ({count} leaves)" for name, count in counted(source.specs).items())
    return ["layout: parameters of this project" + (f" ({facts})" if facts else ""), f"  sub-networks: {subnets}"]


def likeliest(source: Source) -> tuple[Layout, Part] | None:
    """The network that has most of an unrecognised file's names and fewest others, if it shares half of them."""
    best = 0.5
    found: tuple[Layout, Part] | None = None
    for layout in sorted(layouts().values(), key=lambda layout: len(layout.parts)):
        for part in (part for part in layout.parts if part.resembles(source.specs)):
            expected, have = set(part.expected()), {part.table.canonical(name) for name in source.specs}
            share = len(expected & have) / len(expected | have)
            if share > best:  # Of equals the one that stands alone, as in `recognise`.
                best, found = share, (layout, part)
    return found


def described(source: Source, parts: Sequence[Part]) -> list[str]:
    """Part by part what is there, then what belongs to none."""
    lines, unknown = [], set(source.specs)
    for part in parts:
        links = part.links(part.published())
        found = compare(part, source, links)
        unknown -= {*found.known.values(), *found.kept.values(), *found.passed_over}
        state = "complete" if found.complete else "incomplete"
        lines.append(f"  {part.subnet}: {state}, {len(found.known)} of {len(found.known) + len(found.missing)} tensors")
        for what, names in (
            ("missing", found.missing),
            ("not of the published size", found.shapes),
            ("wrong dtype", found.dtypes),
        ):
            lines += [f"    {len(names)} {what}: {listed(names)}"] if names else []
        spare = {*found.kept.values(), *found.passed_over} - {*found.known.values()}
        lines += [f"    {len(spare)} not needed: {listed(spare)}"] if spare else []
    lines += [f"  {len(unknown)} unknown: {listed(unknown)}"] if unknown else []
    return lines


def beginnings(source: Source) -> str:
    """The commonest first segments of names, with counts."""
    found = Counter(name.split(".")[0] for name in source.specs)
    rest = len(found) - PREFIXES
    shown = ", ".join(f"{name} ({count})" for name, count in found.most_common(PREFIXES))
    return shown + (f" … and {rest} more" if rest > 0 else "")
