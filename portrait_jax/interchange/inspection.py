"""What a checkpoint is: its layout, what it holds, what is missing or does not belong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from portrait_jax.errors import listed
from portrait_jax.interchange.convert import counted, parameters
from portrait_jax.interchange.layouts import Layout, Part, layouts, recognise
from portrait_jax.interchange.matching import compare
from portrait_jax.interchange.sources import Source, open_checkpoint
from portrait_jax.training.params import HEADER

PREFIXES = 10


def inspect(path: Path) -> str:
    """Describes a checkpoint in a few lines; at most ten names of each kind are listed.

    Raises:
        CheckpointError: if it cannot be read.
    """
    source = open_checkpoint(path)
    dtypes = Counter(spec.dtype.name for spec in source.specs.values())
    kinds = ", ".join(f"{name} ×{count}" if len(dtypes) > 1 else name for name, count in dtypes.most_common())
    lines = [f"{source.path}: {source.kind}, {len(source.specs)} tensors, {parameters(source):,} elements, {kinds}"]
    if HEADER in source.metadata:
        return "\n".join([*lines, *own_format(source)])
    known = recognise(source.specs)
    if not known:
        lines += ["layout: none of the known ones", f"  beginnings of names: {beginnings(source)}"]
        if closest := likeliest(source):
            layout, part = closest
            lines += [f"  closest: {layout.name}, {layout.title}", *described(source, layout, (part,), others=False)]
        return "\n".join(lines)
    (layout, parts), *others = known
    lines.append(f"layout: {layout.name}, {layout.title}")
    if also := [other.name for other, _ in others]:
        lines.append(f"  could be part of: {', '.join(also)}")
    return "\n".join([*lines, *described(source, layout, parts)])


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


def described(source: Source, layout: Layout, parts: tuple[Part, ...], *, others: bool = True) -> list[str]:
    """Part by part what is there, then the layout's `others`, and what belongs to none."""
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
    lines += [f"  not in this file: {part.subnet}" for part in layout.parts if part not in parts and others]
    lines += [f"  {len(unknown)} unknown: {listed(unknown)}"] if unknown else []
    return lines


def beginnings(source: Source) -> str:
    """The commonest first segments of names, with counts."""
    found = Counter(name.split(".")[0] for name in source.specs)
    rest = len(found) - PREFIXES
    shown = ", ".join(f"{name} ({count})" for name, count in found.most_common(PREFIXES))
    return shown + (f" … and {rest} more" if rest > 0 else "")
