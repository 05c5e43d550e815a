"""Golden data of the original implementations, and the PyTorch → Flax names that the tests on them need.

The folder is `PORTRAIT_GOLDEN`, by default `shared/reference/golden` beside the repository; tests skip without it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT.parent / "shared" / "reference" / "golden"


def golden_dir(system: str) -> Path:
    """Folder of one system's golden data; skips the calling test if it is absent."""
    folder = Path(os.environ.get("PORTRAIT_GOLDEN", DEFAULT)) / system
    if not (folder / "config.json").is_file():
        pytest.skip(f"no golden data at {folder}; set PORTRAIT_GOLDEN")
    return folder


def golden_config(system: str) -> dict:
    """The parsed config.json of a system's golden data."""
    return json.loads((golden_dir(system) / "config.json").read_text())


def golden_tensors(system: str, name: str) -> dict[str, np.ndarray]:
    """Tensors of one golden file, named `inputs.*`, `outputs.*`, `weights.*`."""
    return load_file(golden_dir(system) / f"{name}.safetensors")


def manifest(file: str) -> dict:
    """A JSON manifest beside the golden folder: PyTorch names with shapes; skips the calling test if absent."""
    path = golden_dir("follow_your_emoji").parents[1] / file
    if not path.is_file():
        pytest.skip(f"no manifest at {path}")
    return json.loads(path.read_text())


def flax_name(name: str, ndim: int) -> str:
    """PyTorch parameter name to Flax path: numbers join the segment before them, weights become kernels or scales."""
    segments: list[str] = []
    for segment in name.split("."):
        if segment.isdigit():
            segments[-1] += f"_{segment}"
        else:
            segments.append(segment)
    if segments[-1] == "weight":
        segments[-1] = "scale" if ndim == 1 else "embedding" if "embedding" in segments[-2] and ndim == 2 else "kernel"
    return "/".join(segments)


def flax_array(name: str, value: np.ndarray) -> np.ndarray:
    """Linear (out, in) → (in, out); convolution (out, in, *space) → (*space, in, out); the rest unchanged."""
    return value.transpose(*range(2, value.ndim), 1, 0) if name.endswith("kernel") else value


def flax_params(weights: Mapping[str, np.ndarray]) -> dict:
    """PyTorch weights as the variables of a Flax module; position tables, which are computed here, are left out."""
    flat = {}
    for name, value in weights.items():
        if not name.endswith("pos_encoder.pe"):
            path = flax_name(name, value.ndim)
            flat[path] = jax.numpy.asarray(flax_array(path, value))
    return {"params": traverse_util.unflatten_dict(flat, sep="/")}


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Flax path and shape to PyTorch name (numbers as own segments) and shape."""
    segments = []
    for segment in path.split("/"):
        head, numbers = re.fullmatch(r"(.+?)((?:_\d+)*)", segment).groups()
        segments += [segment] if head == "linear" else [head, *numbers.split("_")[1:]]
    last = segments[-1]
    segments[-1] = "weight" if last in ("kernel", "scale", "embedding") else last
    if last == "kernel":
        shape = (*shape[:-3:-1], *shape[:-2])
    return ".".join(segments), tuple(shape)


def torch_shapes(variables: dict) -> dict[str, tuple[int, ...]]:
    """PyTorch names and shapes of a Flax module's variables (arrays or shape structs)."""
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    return dict(torch_shape(path, leaf.shape) for path, leaf in flat.items())


def recipe_weights(shapes: Mapping[str, tuple[int, ...]], seed: int, unused: Iterable = ()) -> dict[str, np.ndarray]:
    """Weights by the recipe of config.json; `unused` names parameters of the original that exist but do nothing."""
    weights = {}
    for i, name in enumerate(sorted([*shapes, *unused])):
        if name not in shapes:
            continue
        shape = shapes[name]
        g = np.random.Generator(np.random.PCG64(seed + i)).standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            weights[name] = np.float32(1) + np.float32(0.1) * g if name.endswith("weight") else np.float32(0.1) * g
        else:
            weights[name] = g / np.sqrt(np.float32(np.prod(shape[1:])))
    return weights


def random_params(module, *args, seed: int = 0, **kwargs) -> dict:
    """Random variables of a Flax module without compiling its initialisers; none is zero, so that every branch shows."""
    shapes = jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jax.numpy.asarray(rng.normal(size=leaf.shape, scale=0.3), leaf.dtype), shapes)


def assert_close(actual: jax.Array, expected: np.ndarray, relative: float = 1e-4) -> None:
    """Largest difference at most `relative` of the largest expected magnitude."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error <= relative, f"relative error {error:.2e} > {relative:.0e}"


def channels_last(x: np.ndarray) -> np.ndarray:
    """b c f h w → b f h w c."""
    return np.moveaxis(x, 1, -1)
