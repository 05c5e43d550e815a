"""Published checkpoints as parameters in memory: what `--base` takes, without an import before it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange.layouts import Layout, Part, recognise
from portrait_jax.interchange.matching import Match, assign
from portrait_jax.interchange.placed import read_placed
from portrait_jax.interchange.releases import found_in, release_in
from portrait_jax.interchange.rules import Link
from portrait_jax.interchange.sources import open_checkpoint
from portrait_jax.media.files import digest
from portrait_jax.training import checkpoints
from portrait_jax.training.params import FILE, HEADER, cast, identify, load_params
from portrait_jax.training.state import unflatten
from portrait_jax.typing import Array, Params, PyTree


def is_own(path: Path) -> bool:
    """Whether a path is a parameter file of this project, an import's folder or a training's workdir."""
    if path.is_dir():
        runs = [path, *(inside for inside in path.iterdir() if inside.is_dir())]
        return (path / FILE).is_file() or any((run / checkpoints.FOLDER).is_dir() for run in runs)
    return path.suffix == ".safetensors" and path.is_file() and HEADER in open_checkpoint(path).metadata


def layout_of(path: Path) -> tuple[Layout, dict[Path, tuple[Part, ...]]]:
    """The layout of a published file or folder, and which parts of it each file holds.

    Raises:
        CheckpointError: if it is of no known layout, damaged, or not there.
    """
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}; give a file or folder")
    found = found_in(path) if path.is_dir() else []
    if release := release_in(found) if len(found) > 1 else None:
        if release.damaged:
            raise CheckpointError(f"{path / release.damaged[0].where} cannot be read: {release.damaged[0].problem}")
        return release.layout, {path / one.where: inside for one, inside in release.held}
    source = open_checkpoint(path / found[0].where if len(found) == 1 else path)
    known = recognise(source.specs)
    if not known:
        raise CheckpointError(
            f"{path} is of no known layout; `python -m launch.convert inspect {path}` says what it is like"
        )
    (layout, parts), *_ = known
    return layout, {source.path: parts}


def subnets_of(path: str | os.PathLike) -> set[str]:
    """Names of the sub-networks that `read_base` finds in a checkpoint."""
    path = Path(path)
    if not is_own(path):
        return {part.subnet for parts in layout_of(path)[1].values() for part in parts}
    file = path / FILE if path.is_dir() else path
    names = open_checkpoint(file).specs if file.is_file() else load_params(path)[0]
    return {name.split("/")[0] for name in names}


def read_base(path: str | os.PathLike, expected: PyTree, mesh: Mesh | None = None) -> dict[str, Params]:
    """Parameters of a checkpoint: one of this project's (`load_params`), or a published one of any known layout.

    Args:
        path: a parameter file, an import's folder or a workdir; or a published file (safetensors, or a pickle that is read
            without running it) or a folder as diffusers lays it out.
        expected: the system's tree (arrays or shapes) by sub-network, whose sizes a published checkpoint must have.
        mesh: where they shall lie, by `sharding.rules`: leaf after leaf goes to the devices as it is read, of a published stack of
            layers layer after layer, so that the host holds one at a time. None, or a workdir: on the host.

    Returns:
        float32 arrays by sub-network; of published ones only sub-networks that the system has.

    Raises:
        CheckpointError: for an unknown layout, or missing or unknown tensors.
        ShapeError: for other sizes.
    """
    path = Path(path)
    if is_own(path):
        return load_params(path, mesh=mesh)[0]
    layout, files = layout_of(path)
    wanted = {file: tuple(part for part in held if part.subnet in expected) for file, held in files.items()}
    parts, whole = (tuple(part for held in of.values() for part in held) for of in (wanted, files))
    if not parts:
        names = ", ".join(part.subnet for part in whole)
        raise CheckpointError(f"{path} ({layout.title}) has nothing that this system has: only {names}")
    asked = Layout(layout.name, layout.title, parts, extra_ok=layout.extra_ok or len(parts) < len(whole))
    # A file of one part is named for it, wherever in the folder it lies.
    inputs = [f"{held[0].subnet}={file}" if len(held) == 1 else str(file) for file, held in wanted.items() if held]
    matches, _ = assign([asked], inputs, expected)

    def read(match: Match, link: Link) -> np.ndarray | Array:
        wide = np.dtype(np.float32)
        return cast(match.read(link), wide) if mesh is None else read_placed(match, link, wide, mesh)

    return unflatten({f"{match.subnet}/{link.path}": read(match, link) for match in matches for link in match.links})


def identify_base(path: str | os.PathLike) -> dict[str, Any]:
    """What `read_base` reads, for a record: `identify`, or path, layout and the files' hashes."""
    path = Path(path)
    if is_own(path):
        return identify(path)
    layout, files = layout_of(path)
    if len(files) == 1:
        return {"path": str(path), "layout": layout.name, "sha256": digest(next(iter(files)))}
    return {
        "path": str(path),
        "layout": layout.name,
        "files": {file.relative_to(path).as_posix(): digest(file) for file in files},
    }
