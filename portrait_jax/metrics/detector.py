"""Using a trained probe: images in, landmarks in pixels and identity out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.errors import CheckpointError
from portrait_jax.metrics.points import scatter
from portrait_jax.metrics.probe import Probe, ProbeConfig, to_size
from portrait_jax.settings import from_mapping
from portrait_jax.training.checkpoints import compare
from portrait_jax.training.params import load_params
from portrait_jax.typing import Array, Float, Params, PyTree, UInt8

DEFAULT_WEIGHTS = Path(__file__).parent.parent / "assets" / "probe.safetensors"


@dataclass(frozen=True)
class Detection:
    """What the probe sees in `n` images."""

    landmarks_px: Float[np.ndarray, "n 478 2"]
    """In pixels of the given images; points that the probe does not know are NaN (known: `metrics.points.POINTS`)."""
    attributes: Float[np.ndarray, "n a"]
    """Standardised identity attributes: zero is the average person."""


class Detector:
    """A probe with its weights; judges any number of images of any one size."""

    def __init__(self, params: Params, config: ProbeConfig, batch: int = 16) -> None:
        """
        Args:
            params: `{"probe": …}` of a network with `config`.
            config: the probe's hyper-parameters.
            batch: images per call of the network.
        """
        self.config, self.batch = config, batch
        self._params = jax.tree.map(jnp.asarray, params["probe"])
        self._apply = jax.jit(self._network)

    @classmethod
    def load(cls, path: str | Path = DEFAULT_WEIGHTS) -> Detector:
        """Reads an exported file or a training's workdir; by default the weights shipped with the package.

        Raises:
            CheckpointError: if there is nothing to read, or it is not a probe of this code.
        """
        params, info = load_params(path)
        config = info.get("config", {})
        if config.get("task") != "probe":
            raise CheckpointError(f"{path} holds '{config.get('task')}', not a probe; train one by configs/probe.py")
        detector = cls(params, from_mapping(ProbeConfig, config["model"]))
        compare(params["probe"], jax.eval_shape(detector.fresh), str(path))
        return detector

    def fresh(self) -> Params:
        """Untrained parameters of the same network."""
        size = self.config.size
        return Probe(self.config).init(jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]

    def detect(self, images: UInt8[np.ndarray, "n h w 3"]) -> Detection:
        """Finds the points in every image by itself, without regard to its neighbours in time."""
        h, w = images.shape[1:3]
        found = [self._batch(images[start : start + self.batch]) for start in range(0, len(images), self.batch)]
        points, attributes = (np.concatenate(part) for part in zip(*found, strict=True))
        return Detection(scatter(points * np.array([w, h], np.float32)), attributes)

    def _batch(self, images: UInt8[np.ndarray, "n h w 3"]) -> tuple[np.ndarray, np.ndarray]:
        """Pads to the full batch, so that one compiled program serves all."""
        count = len(images)
        padded = np.concatenate([images, np.repeat(images[-1:], self.batch - count, axis=0)])
        points, attributes = self._apply(self._params, padded)
        return np.asarray(points)[:count], np.asarray(attributes)[:count]

    def _network(
        self, params: PyTree, images_u8: UInt8[Array, "n h w 3"]
    ) -> tuple[Float[Array, "n p 2"], Float[Array, "n a"]]:
        image_01 = to_size(images_u8.astype(jnp.float32) / 255, self.config.size)
        return Probe(self.config).apply({"params": params}, image_01)[:2]
