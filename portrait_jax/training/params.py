"""Parameters as one file: exported from a workdir, loaded by people and by later stages.

The file is safetensors with names `subnet/path/to/leaf`; its header holds the config, so that it describes itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from portrait_jax.errors import CheckpointError, ConfigError, listed, nearest
from portrait_jax.media.files import atomic_output, digest
from portrait_jax.sharding.placing import from_host
from portrait_jax.sharding.rules import leaf_spec
from portrait_jax.training import checkpoints
from portrait_jax.training.state import flatten, matches, merge, unflatten
from portrait_jax.typing import Params, PyTree

ASSETS = Path(__file__).parent.parent / "assets"
"""Files that come with the package."""
FORMAT = "portrait-jax-params-1"
FILE = "params.safetensors"
"""What a folder of imported parameters holds (`portrait_jax.interchange`)."""
HEADER = "portrait_jax"
"""The header's entry that holds `Info` as JSON."""
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
Info = dict[str, Any]
"""`{"format", "config", "stage", "step", "weights", …}`."""


def save_params(path: Path, params: Params, info: Info, dtype: str = "float32") -> None:
    """Writes parameters to one safetensors file, which appears only when it is whole.

    Args:
        path: the file; its folder is made.
        params: arrays by sub-network.
        info: JSON-able facts for the header, `config` above all.
        dtype: of floating leaves in the file: float32, float16 or bfloat16.

    Raises:
        ConfigError: for an unknown dtype.
        CheckpointError: if float16 cannot hold a value, or the file cannot be written.
        InputFileError: if its folder cannot be made.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype '{dtype}' is not known{nearest(dtype, list(DTYPES))}")
    path = Path(path)
    leaves = {name: leaf for name, leaf in flatten(params).items() if leaf is not traverse_util.empty_node}
    tensors = {name: cast(np.asarray(leaf), DTYPES[dtype]) for name, leaf in leaves.items()}
    broken = [name for name, leaf in tensors.items() if not np.all(np.isfinite(leaf.astype(np.float32)))]
    if broken:
        raise CheckpointError(f"{len(broken)} leaves are not finite in {dtype}: {listed(broken)}")
    # One header entry: safetensors shuffles several, and equal parameters should give equal files.
    header = {HEADER: json.dumps({**info, "format": FORMAT}, sort_keys=True)}
    try:
        with atomic_output(path) as partial:
            save_file(tensors, partial, metadata=header)
            partial.chmod(0o644)  # safetensors makes private files
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error


def cast(array: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Floating arrays to `dtype`, in row-major order; others stay. safetensors writes raw memory, hence the order."""
    floating = np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16
    with np.errstate(over="ignore"):
        return np.array(array, dtype=dtype if floating else array.dtype, order="C")


def load_params(
    path: str | os.PathLike, *, average: bool = True, mesh: Mesh | None = None
) -> tuple[dict[str, Params], Info]:
    """Reads parameters from a safetensors file, from the folder of an import or from a training's workdir.

    Args:
        path: a file written by `save_params`; a folder with such a `params.safetensors`; or a workdir (`resolve` says
            which run it stands for).
        average: from a workdir, take the moving average of trainable leaves where one is kept.
        mesh: see `read_file`; a workdir's stay on the host.

    Returns:
        float32 arrays by sub-network, and the facts stored with them.

    Raises:
        CheckpointError: if there is nothing to read, or it is damaged.
    """
    path = Path(path)
    if (path / FILE).is_file():
        return read_file(path / FILE, mesh)
    if path.is_dir():
        run = resolve(path)
        stored, meta, step = checkpoints.read_params(run)
        use_average = average and bool(stored["ema"])
        params = merge(stored["ema"] if use_average else stored["trainable"], stored["frozen"])
        info = {"config": meta["config"], "stage": meta["stage"], "step": step}
        return jax.tree.map(np.asarray, params), {**info, "weights": "average" if use_average else "raw"}
    return read_file(path, mesh)


def read_file(path: Path, mesh: Mesh | None = None) -> tuple[dict[str, Params], Info]:
    """Reads a safetensors file written by `save_params`; half-precision leaves come back as float32.

    With a `mesh` each leaf goes to its place by `sharding.rules` as it is read, so that the host holds one at a time.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; give a training's workdir or a .safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            leaves = {name: on_mesh(name, cast(file.get_tensor(name), np.float32), mesh) for name in names}
            header = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}); export or fetch it anew") from error
    try:
        info = json.loads(header.get(HEADER, "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path}: its header is no JSON ({error}); export or fetch it anew") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not in the format {FORMAT}; convert it first")
    return unflatten(leaves), info


def on_mesh(name: str, leaf: np.ndarray, mesh: Mesh | None) -> Any:
    """A leaf on the devices of a mesh; without one as it is."""
    if mesh is None:
        return leaf
    return from_host(leaf, NamedSharding(mesh, leaf_spec(name, leaf.shape, mesh)))


def identify(path: str | os.PathLike) -> dict[str, Any]:
    """What `load_params` reads from `path`, for a record: `{"path", "sha256"}`, and the `step` of a workdir's run.

    A run's hash is that of its newest checkpoint's parameter files, names included.

    Raises:
        CheckpointError: if there is nothing to read.
    """
    path = Path(path)
    if path.is_dir() and not (path / FILE).is_file():
        run = resolve(path)
        step = checkpoints.latest_step(run)
        folder = run / checkpoints.FOLDER / str(step) / "params"
        files = {file.relative_to(folder).as_posix(): digest(file) for file in folder.rglob("*") if file.is_file()}
        total = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        return {"path": str(run), "step": step, "sha256": total}
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint {file}; give a training's workdir or a .safetensors file")
    return {"path": str(file), "sha256": digest(file)}


def resolve(path: Path) -> Path:
    """The run that a directory stands for: itself, or its sub-directory (a stage) that was saved last.

    Raises:
        CheckpointError: if neither it nor a sub-directory holds a checkpoint.
    """
    runs = [run for run in [path, *sorted(path.iterdir())] if (run / checkpoints.FOLDER).is_dir()]
    steps = {run: [step for step in (run / checkpoints.FOLDER).iterdir() if step.name.isdigit()] for run in runs}
    saved = {run: max(step.stat().st_mtime for step in found) for run, found in steps.items() if found}
    if not saved:
        raise CheckpointError(f"{path} holds no checkpoint; give a training's workdir or a .safetensors file")
    return path if path in saved else max(saved, key=lambda run: saved[run])


def export(
    workdir: Path, path: Path, *, dtype: str = "float32", average: bool = True, subnets: Sequence[str] = ()
) -> Info:
    """Exports a workdir's newest parameters to one file; see `save_params` and `load_params`.

    Args:
        subnets: only these sub-networks; none named: all.

    Raises:
        ConfigError: for an unknown sub-network.
    """
    params, info = load_params(workdir, average=average)
    for name in subnets:
        if name not in params:
            raise ConfigError(f"{workdir} has no sub-network '{name}'{nearest(name, list(params))}")
    params = {name: params[name] for name in subnets or params}
    save_params(path, params, info, dtype)
    return info


def initialise(
    params: Params, sources: Mapping[str, str], allow_missing: Sequence[str] = (), *, root: str | os.PathLike = "."
) -> Params:
    """Replaces fresh parameters by those of earlier stages: `read_sources`, then `overlay`; see both."""
    return overlay(params, read_sources(params, sources, allow_missing, root=root))


def read_sources(
    expected: PyTree,
    sources: Mapping[str, str],
    allow_missing: Sequence[str] = (),
    *,
    root: str | os.PathLike = ".",
    allow_unused: Sequence[str] = (),
    fit_inputs: Sequence[str] = (),
    rename: Mapping[str, str] = MappingProxyType({}),
    restore: Sequence[str] = (),
    restore_from: str = "",
) -> dict[str, Params]:
    """What a stage starts from, read and checked before any fresh parameter is computed.

    Args:
        expected: arrays or shapes by sub-network, what `task.init` gives.
        sources: sub-network → file or workdir; `*` stands for each sub-network that both have and no entry names. One that is a
            system of its own takes the sub-networks of the source, under the names that they have there.
        allow_missing: patterns of leaves that a source may lack.
        root: what `{workdir}` in a source stands for; see `locate`.
        allow_unused: patterns of leaves that a source may have beyond the model's.
        fit_inputs: patterns of kernels with possibly other numbers of input channels in a source; see `with_inputs`.
        rename: parts of leaves' names in a source → what they are called here.
        restore: patterns of leaves that `restore_from` gives whatever `sources` say; it must have all of them.
        restore_from: a file or workdir.

    Returns:
        by sub-network, the leaves that replace fresh ones.

    Raises:
        ConfigError: for a sub-network that the model does not have.
        CheckpointError: for missing or unknown leaves (at most ten of each are listed), or an unreadable source.
        ShapeError: for other shapes.
    """
    result: dict[str, Params] = {}
    loaded: dict[str, dict[str, Params]] = {}
    for subnet, source in sorted(sources.items(), key=lambda item: item[0] != "*"):
        if subnet != "*" and subnet not in expected:
            raise ConfigError(f"init_from names the sub-network '{subnet}'{nearest(subnet, list(expected))}")
        source = locate(source, Path(root))
        if source not in loaded:
            loaded[source] = load_source(subnet, source)
        found = loaded[source]
        whole = subnet not in found and subnet != "*" and expected[subnet].keys() <= found.keys()
        if whole:
            found = {subnet: {name: found[name] for name in expected[subnet]}}
        if subnet != "*" and subnet not in found:
            raise CheckpointError(f"{source} has no sub-network '{subnet}'{nearest(subnet, list(found))}")
        chosen = sorted(found.keys() & expected.keys() - sources.keys()) if subnet == "*" else [subnet]
        for name in chosen:
            renamed = with_names({name: found[name]}, {} if whole else rename)
            fitting = fitted(renamed, {name: expected[name]}, allow_unused, fit_inputs)
            check_leaves(fitting, {name: expected[name]}, allow_missing, source)
            result[name] = fitting[name]
    if not restore:
        return result
    return unflatten(flatten(result) | restored(expected, restore, locate(restore_from, Path(root))))


def restored(expected: PyTree, patterns: Sequence[str], source: str) -> dict[str, PyTree]:
    """The leaves of `source` that the patterns name, by path."""
    wanted = {name: leaf for name, leaf in flatten(expected).items() if matches(name, patterns)}
    for pattern in patterns:
        if not any(matches(name, (pattern,)) for name in wanted):
            raise ConfigError(f"train.restore, pattern '{pattern}', matches no parameter (from its start)")
    have = flatten(load_source("restore", source))
    found = {name: have[name] for name in wanted if name in have}
    checkpoints.compare(unflatten(found), unflatten(wanted), source)
    return found


def with_names(found: Params, rename: Mapping[str, str]) -> Params:
    """The same leaves, each part of a name that `rename` has replaced by what it stands for."""
    if not rename:
        return found
    leaves = flatten(found)
    for old, new in rename.items():
        leaves = {name.replace(old, new): leaf for name, leaf in leaves.items()}
    return unflatten(leaves)


def fitted(
    found: Params, expected: PyTree, allow_unused: Sequence[str], fit_inputs: Sequence[str]
) -> dict[str, Params]:
    """What was found, without leaves that need not be used, with the model's input channels where that is allowed, and with
    convolutions of one pixel as linear layers where the model has these."""
    want, have = flatten(expected), flatten(found)
    kept = {name: leaf for name, leaf in have.items() if name in want or not matches(name, allow_unused)}
    kept |= {name: as_linear(kept[name], want[name]) for name in kept.keys() & want}
    fit = {name: with_inputs(kept[name], want[name].shape) for name in kept.keys() & want if matches(name, fit_inputs)}
    return unflatten({**kept, **fit})


def as_linear(kernel: Any, wanted: Any) -> Any:
    """The kernel of a convolution of one pixel as that of a linear layer, if that is `wanted`: both compute the same."""
    shapes = getattr(kernel, "shape", None), getattr(wanted, "shape", None)
    return kernel[0, 0] if None not in shapes and shapes[0] == (1, 1, *shapes[1]) else kernel


def with_inputs(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel "… in out" with zeros for the input channels that it lacks, and without those beyond `shape`'s; itself where
    `shape` differs otherwise."""
    comparable = kernel.ndim == len(shape) > 1
    if not comparable or (*kernel.shape[:-2], kernel.shape[-1]) != (*shape[:-2], shape[-1]):
        return kernel
    kept = kernel[..., : shape[-2], :]
    return np.concatenate([kept, np.zeros((*shape[:-2], shape[-2] - kept.shape[-2], shape[-1]), kernel.dtype)], axis=-2)


def load_source(subnet: str, source: str) -> dict[str, Params]:
    """Reads one source of `init_from`; what is wrong with it is said together with the entry that named it."""
    try:
        return load_params(source)[0]
    except CheckpointError as error:
        hint = "" if Path(source).exists() else ", or train the stage before first"
        raise CheckpointError(f"train.init_from, entry '{subnet}': {error}{hint}") from error


def locate(source: str, root: Path) -> str:
    """Fills in `{assets}`, what comes with the package, and `{workdir}`: `root`, or the directory around it where only
    that has such an entry.

    So stages may share one workdir (`runs/demo` for all) or lie beside each other (`runs/stage1`, `runs/stage2`).
    """
    source = source.replace("{assets}", str(ASSETS))
    places = [source.replace("{workdir}", str(base)) for base in (root, root.absolute().parent)]
    return next((place for place in places if Path(place).exists()), places[0])


def check_leaves(found: Params, expected: PyTree, allow_missing: Sequence[str], source: str) -> None:
    """Compares leaves and shapes, but for leaves that may be missing; raises as `checkpoints.compare`."""
    want, have = flatten(expected), flatten(found)
    absent = want.keys() - have.keys()
    needed = {name: leaf for name, leaf in want.items() if name not in absent or not matches(name, allow_missing)}
    checkpoints.compare(found, unflatten(needed), source)


def overlay(fresh: Params, found: Params) -> Params:
    """`fresh` with the leaves that `found` has, in `fresh`'s dtypes and placement."""
    have = {name: leaf for name, leaf in flatten(found).items() if leaf is not traverse_util.empty_node}
    placed = {
        name: jax.device_put(have[name].astype(leaf.dtype), leaf.sharding) if name in have else leaf
        for name, leaf in flatten(fresh).items()
    }
    return unflatten(placed)
