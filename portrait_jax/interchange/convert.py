"""Import, export and inspection: published checkpoints ⇄ this project's parameter files, tensor by tensor."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from portrait_jax.errors import CheckpointError, ConfigError, listed, nearest
from portrait_jax.interchange.layouts import Part, layout_named
from portrait_jax.interchange.matching import FLOATS, Match, assign, compare, refuse
from portrait_jax.interchange.rules import Link, fillers, join
from portrait_jax.interchange.safetensors_files import Spec, write, write_sharded
from portrait_jax.interchange.sources import MemorySource, Source, open_checkpoint
from portrait_jax.media.files import atomic_output
from portrait_jax.training.params import DTYPES, FILE, FORMAT, HEADER, load_params
from portrait_jax.training.state import flatten, unflatten
from portrait_jax.typing import PyTree

KEPT = "kept.safetensors"
"""Tensors that the network does not need but the release stores: an export of the import gives them back unchanged."""


@dataclass(frozen=True)
class Done:
    """What was written."""

    files: tuple[Path, ...]
    subnets: Mapping[str, int]
    """Sub-network → leaves or tensors."""
    notes: tuple[str, ...]


def import_checkpoint(
    names: Sequence[str],
    inputs: Sequence[str],
    output: Path,
    *,
    dtype: str = "",
    subnet: str | None = None,
    targets: Mapping[str, PyTree] | None = None,
    ignore_extra: bool = False,
) -> Done:
    """Turns published files into `output`/params.safetensors; about one tensor is in memory at a time.

    Args:
        names: layouts; several may complete each other's sub-networks (a UNet and its motion modules).
        inputs: files, indices of shards, or folders; `SUBNET=FILE` where a file's kind does not show.
        output: the folder, made if needed.
        dtype: of the leaves: float32, float16 or bfloat16; empty keeps the file's.
        subnet: another name for the one sub-network of the layouts.
        targets: parameter trees (arrays or shapes) by sub-network, for other sizes than the published ones.
        ignore_extra: pass over tensors that nobody knows.

    Raises:
        CheckpointError, ShapeError: see `matching.assign`; nothing is written then.
        ConfigError: for an unknown layout or dtype.
    """
    layouts = [layout_named(name) for name in names]
    chosen = chosen_dtype(dtype)
    matches, notes = assign(layouts, inputs, targets, subnet, extra_ok=ignore_extra)
    leaves: dict[str, tuple[Match, Link]] = {}
    for match in matches:
        for link in match.links:
            leaf = f"{match.subnet}/{link.path}"
            if leaf in leaves:
                raise CheckpointError(
                    f"{leaf} comes from {leaves[leaf][0].source.path} and {match.source.path}; leave one out"
                )
            leaves[leaf] = (match, link)
    specs = {leaf: Spec(link.shape, chosen or match.dtype(link)) for leaf, (match, link) in leaves.items()}

    def read(leaf: str) -> np.ndarray:
        match, link = leaves[leaf]
        return cast(match.read(link), specs[leaf].dtype, leaf)

    kept = {f"{match.subnet}/{name}": (match.source, own) for match in matches for name, own in match.kept.items()}
    info = {"format": FORMAT, "layout": list(names), "sources": sorted({match.source.path.name for match in matches})}
    with contextlib.ExitStack() as both:
        # Both files appear together, or neither does.
        if kept:
            kept_specs = {name: source.specs[own] for name, (source, own) in kept.items()}
            beside = both.enter_context(atomic_output(output / KEPT))
            write(beside, kept_specs, lambda name: kept[name][0].read(kept[name][1]))
        write(both.enter_context(atomic_output(output / FILE)), specs, read, {HEADER: json.dumps(info, sort_keys=True)})
    if not kept:
        (output / KEPT).unlink(missing_ok=True)
    return Done((output / FILE,), counted(leaves), tuple(notes))


def import_tree(part: Part, tensors: Mapping[str, np.ndarray], tree: PyTree) -> dict[str, PyTree]:
    """Published tensors in memory as the parameters of one module, in `tree`'s structure; dtypes stay.

    Raises:
        CheckpointError, ShapeError: for missing or misshapen tensors; unknown ones are passed over.
    """
    links, source = part.links(tree), MemorySource(tensors)
    found = compare(part, source, links)
    refuse(found, source, part, len(links))
    match = Match(part, source, part.subnet, links, found.known, found.kept)
    return unflatten({link.path: match.read(link) for link in links})


def export_checkpoint(
    names: Sequence[str],
    checkpoint: Path,
    output: Path,
    *,
    dtype: str = "",
    subnet: str | None = None,
    shard_bytes: int | None = None,
) -> Done:
    """Writes parameters under published names.

    Args:
        names: layouts; their parts that the checkpoint holds are written.
        checkpoint: an import's folder, a parameter file, or a training's workdir.
        output: a `.safetensors` file; or a folder, in which each part gets its published name.
        dtype: as in `import_checkpoint`.
        subnet: the sub-network to export, where it is not called as the layout calls it.
        shard_bytes: cut larger files into shards with an index.

    Raises:
        CheckpointError: for an unreadable checkpoint, one without these sub-networks, or an unwritable file.
    """
    layouts = [layout_named(name) for name in names]
    source, kept = open_params(checkpoint)
    groups: dict[str, Exported] = {}
    counts: dict[str, int] = {}
    for part in (part for layout in layouts for part in layout.parts):
        name = subnet or part.subnet
        paths = {
            leaf.removeprefix(f"{name}/"): spec for leaf, spec in source.specs.items() if leaf.startswith(f"{name}/")
        }
        links = part.links(unflatten(paths)) if paths else []
        if links:
            group = groups.setdefault(part.file, Exported(source, chosen_dtype(dtype)))
            counts[name] = counts.get(name, 0) + group.add(part, name, links, kept)
    if not groups:
        have = sorted({leaf.split("/")[0] for leaf in source.specs})
        wanted = [subnet] if subnet else sorted({part.subnet for layout in layouts for part in layout.parts})
        raise CheckpointError(
            f"{checkpoint} has none of the sub-networks {', '.join(wanted)} (it has: {listed(have)}); "
            "name another layout, or one of them with --subnet"
        )
    files: list[Path] = []
    try:
        for file, group in groups.items():
            path = destination(output, file, len(groups))
            files += write_sharded(path, group.specs, group.read, {"format": "pt"}, shard_bytes)
    except BaseException:
        for written in files:
            written.unlink(missing_ok=True)
        raise
    return Done(tuple(files), counts, ())


class Exported:
    """The tensors of one file to write."""

    def __init__(self, source: Source, dtype: np.dtype | None) -> None:
        self.source, self.dtype = source, dtype
        self.specs: dict[str, Spec] = {}
        self._makers: dict[str, Callable[[], np.ndarray]] = {}

    def add(self, part: Part, subnet: str, links: Sequence[Link], kept: Source | None) -> int:
        """Adds one part's tensors and fillers; returns how many."""
        before = len(self.specs)
        pieces: dict[str, list[Link]] = {}
        for link in links:
            for name in link.names:
                pieces.setdefault(name, []).append(link)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, sharing in pieces.items():
            taken = sorted(part for link in sharing for part in link.taken)
            if taken != list(range(sharing[0].parts)):
                raise CheckpointError(f"{self.source.path} has only {len(taken)} of the parts that make '{name}'")
            shapes[name] = sharing[0].published()[name]
            dtype = self.source.specs[f"{subnet}/{sharing[0].path}"].dtype
            if kept is None or f"{subnet}/{name}" not in kept.specs:
                self._put(
                    name, shapes[name], dtype, lambda name=name, sharing=sharing: self._joined(subnet, name, sharing)
                )
        if kept is not None:
            self._add_kept(part, subnet, kept, shapes)
            return len(self.specs) - before
        for name, (filler, shape) in fillers(part.table, shapes).items():
            made = filler.make(shape)
            self._put(name, made.shape, made.dtype, lambda filler=filler, shape=shape: filler.make(shape))
        return len(self.specs) - before

    def _add_kept(self, part: Part, subnet: str, kept: Source, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Of an import: what the published file held besides, no less and no more."""
        of_part = {*shapes, *fillers(part.table, shapes)}
        for own, spec in kept.specs.items():
            name = own.removeprefix(f"{subnet}/")
            if own.startswith(f"{subnet}/") and (name in of_part or part.table.spares(name)):
                self._put(name, spec.shape, spec.dtype, lambda own=own: kept.read(own))

    def _put(self, name: str, shape: tuple[int, ...], dtype: np.dtype, make: Callable[[], np.ndarray]) -> None:
        if name in self.specs:
            raise CheckpointError(f"two sub-networks would both be written as '{name}'; export them one by one")
        self.specs[name] = Spec(shape, self.dtype if self.dtype is not None and dtype in FLOATS else dtype)
        self._makers[name] = make

    def _joined(self, subnet: str, name: str, links: Sequence[Link]) -> np.ndarray:
        pieces: dict[int, np.ndarray] = {}
        for link in links:
            row = link.row(name)
            leaf = self.source.read(f"{subnet}/{link.path}", row)
            tensor = (link if row is None else link.layer(row)).to_torch(leaf)[name]
            pieces |= zip(link.taken, np.split(tensor, len(link.taken)))
        return join([pieces[part] for part in sorted(pieces)])

    def read(self, name: str) -> np.ndarray:
        """One tensor as it is written."""
        return cast(self._makers[name](), self.specs[name].dtype, name)


def destination(output: Path, file: str, groups: int) -> Path:
    """Where one file of an export goes."""
    if output.suffix == ".safetensors":
        if groups > 1:
            raise ConfigError(f"this layout is {groups} files; give a folder for --output, not {output}")
        return output
    if output.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise ConfigError(
            f"exports are safetensors, which torch reads without running code; name it {output.stem}.safetensors"
        )
    if Path(file).suffix:
        return output / Path(file).with_suffix(".safetensors")
    stem = "model" if file.endswith("_encoder") else "diffusion_pytorch_model"
    return output / file / f"{stem}.safetensors"


def open_params(checkpoint: Path) -> tuple[Source, Source | None]:
    """A parameter file, an import's folder (with what it kept, nothing at the least), or a workdir (without: None)."""
    path = Path(checkpoint)
    if path.is_dir() and not (path / FILE).is_file():
        params, _ = load_params(path)
        return MemorySource(
            {name: np.asarray(leaf) for name, leaf in flatten(params).items() if hasattr(leaf, "shape")}, path
        ), None
    folder = path if path.is_dir() else path.parent
    source = open_checkpoint(path / FILE if path.is_dir() else path)
    if HEADER not in source.metadata:
        raise CheckpointError(
            f"{source.path} is no parameter file of this project (`inspect` says what it is); "
            "give a training's workdir, an exported .safetensors file or an import's folder"
        )
    if source.path.name != FILE:
        return source, None
    return source, open_checkpoint(folder / KEPT) if (folder / KEPT).is_file() else MemorySource({}, folder)


def cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """To another floating dtype; raises CheckpointError where float16 cannot hold a value."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype == np.float16 and not np.isfinite(result).all():
        raise CheckpointError(f"'{name}' has values that float16 cannot hold; choose bfloat16 or float32")
    return result


def chosen_dtype(name: str) -> np.dtype | None:
    """A dtype by name, None for an empty one."""
    if name and name not in DTYPES:
        raise ConfigError(f"dtype '{name}' is not known{nearest(name, list(DTYPES))}")
    return np.dtype(DTYPES[name]) if name else None


def counted(leaves: Mapping[str, object]) -> dict[str, int]:
    """Sub-network → number of leaves."""
    subnets = [leaf.split("/")[0] for leaf in leaves]
    return {name: subnets.count(name) for name in dict.fromkeys(subnets)}


def parameters(source: Source) -> int:
    """Elements of all tensors."""
    return sum(math.prod(spec.shape) for spec in source.specs.values())
