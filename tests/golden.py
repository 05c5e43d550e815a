"""Golden data of the original implementations: what they computed, found, read, rebuilt at its size and compared.

One folder per system in `PORTRAIT_GOLDEN`, by default `shared/reference/golden` beside the repository; tests skip without
it. A case is a network or a computation there. Everything about it (sizes, seeds, shapes, options) is read from its files,
so that other data of the same form run through the same tests:

    CASE = GoldenCase("follow_your_emoji", "guider")
    module = LandmarkGuider(sizes of CASE.config)
    params = imported(tree_of(module, x), CASE.weights(), part_of("follow_your_emoji", "guider"))
    assert_close(module.apply(params, x), CASE.outputs["embedding"])
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT.parent / "shared" / "reference" / "golden"
INPUTS, OUTPUTS, WEIGHTS = ("inputs", "in"), ("outputs", "out"), ("weights", "w")
"""What the files put before the names of tensors of each kind, with a dot or a slash behind it."""


def golden_dir(system: str) -> Path:
    """Folder of one system's golden data; skips the calling test if it is absent."""
    folder = Path(os.environ.get("PORTRAIT_GOLDEN", DEFAULT)) / system
    if not folder.is_dir():
        pytest.skip(f"no golden data at {folder}; set PORTRAIT_GOLDEN")
    return folder


@dataclass(frozen=True)
class GoldenCase:
    """One case of a system: `config.json` describes it under its name, or a file NAME.json of its own.

    Its tensors lie in NAME.safetensors, or in NAME.io.safetensors and NAME.weights.safetensors.
    """

    system: str
    name: str

    @functools.cached_property
    def folder(self) -> Path:
        """Where its files are; skips the calling test if they are absent."""
        folder = golden_dir(self.system)
        if not any(folder.glob(f"{self.name}.*")):
            pytest.skip(f"{folder} has no case '{self.name}'")
        return folder

    @functools.cached_property
    def settings(self) -> dict:
        """What the files say about it: seeds, notes, and mostly a `config` with sizes."""
        own, common = self.folder / f"{self.name}.json", self.folder / "config.json"
        settings = json.loads((own if own.is_file() else common).read_text())
        return settings if own.is_file() else settings.get(self.name, settings)

    @property
    def config(self) -> dict:
        """The arguments of the original's constructor."""
        return self.settings["config"]

    @functools.cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """All but separately stored weights, under their full names."""
        files = [self.folder / f"{self.name}{ending}.safetensors" for ending in ("", ".io")]
        return {name: tensor for file in files if file.is_file() for name, tensor in load_file(file).items()}

    @functools.cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        """What went in."""
        return within(self.tensors, *INPUTS)

    @functools.cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """What came out."""
        return within(self.tensors, *OUTPUTS)

    def weights(self, group: str = "") -> dict[str, np.ndarray]:
        """Stored weights in float32 under the original names; `group` where one file holds those of several networks."""
        file = self.folder / f"{self.name}.weights.safetensors"
        stored = load_file(file) if file.is_file() else within(self.tensors, *WEIGHTS)
        stored = within(stored, group) if group else stored
        return {name: tensor.astype(np.float32) for name, tensor in stored.items()}


def within(tensors: Mapping[str, np.ndarray], *heads: str) -> dict[str, np.ndarray]:
    """The tensors whose names begin with one of `heads` and a dot or a slash, without that."""
    found = {}
    for begin in (head + mark for head in heads for mark in "./"):
        found |= {name.removeprefix(begin): tensor for name, tensor in tensors.items() if name.startswith(begin)}
    return found


Rule = Callable[[str, np.ndarray], np.ndarray]
"""(original name, standard normal draw of the tensor's shape) → the tensor: a system's recipe."""


def recipe_weights(shapes: Mapping[str, tuple[int, ...]], seed: int, rule: Rule) -> dict[str, np.ndarray]:
    """Weights by a recipe: names in byte order, the i-th drawn in float32 from PCG64(seed + i).

    Args:
        shapes: original shape of every name that counts, used by the network or not; see `Part.stored`.
    """
    draws = ((name, np.random.Generator(np.random.PCG64(seed + i))) for i, name in enumerate(sorted(shapes)))
    return {name: rule(name, g.standard_normal(shapes[name], dtype=np.float32)) for name, g in draws}


def assert_close(actual: jax.Array, expected: np.ndarray, relative: float = 1e-4) -> None:
    """Largest difference at most `relative` of the largest expected magnitude; `pytest -s` shows what it is."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    print(f"relative error {error:.1e}")
    assert error <= relative, f"relative error {error:.2e} > {relative:.0e}"


def channels_last(x: np.ndarray) -> np.ndarray:
    """b c f h w → b f h w c."""
    return np.moveaxis(x, 1, -1)


def manifest(file: str) -> dict:
    """A JSON manifest beside the golden folder: PyTorch names with shapes; skips the calling test if absent."""
    # Golden data of other sizes may lie alone: the manifests are those of the published sizes in any case.
    places = [Path(folder).parent / file for folder in (os.environ.get("PORTRAIT_GOLDEN", DEFAULT), DEFAULT)]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        pytest.skip(f"no manifest {file} beside the golden data; set PORTRAIT_GOLDEN")
    return json.loads(path.read_text())
