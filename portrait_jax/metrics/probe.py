"""The probe: a small network that sees one image and says where the face's points are and whose face it is.

It measures results without seeing what drove them. It learns from procedural portraits, where both are known exactly,
on damaged images (`metrics.degrade`), so that it judges generated frames as it judges rendered ones. Trained by
`python -m launch.train --config configs/probe.py`; the use of a trained probe is `metrics.detector`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from portrait_jax.metrics import degrade
from portrait_jax.metrics.following import CHEEKS
from portrait_jax.metrics.points import POINTS, SMALL_PARTS
from portrait_jax.nn.norms import GroupNorm
from portrait_jax.settings import from_mapping
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Params, PRNGKeyArray, PyTree


@dataclass(frozen=True)
class ProbeConfig:
    """Hyper-parameters; the defaults are those of the committed weights."""

    attributes: int
    """Length of the identity vector (standardised: zero is the average person)."""
    size: int = 128
    """Images are seen at this height and width."""
    channels: tuple[int, ...] = (16, 32, 48, 64)
    """Width at 1/2, 1/4, 1/8 and 1/16 of `size`."""
    augment: bool = True


class ConvBlock(nn.Module):
    """3×3 convolution, group norm, SiLU; adds its input when the shape allows."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        y = nn.Conv(self.features, (3, 3), strides=(self.strides, self.strides), use_bias=False, name="conv")(x)
        y = nn.silu(GroupNorm(8, name="norm")(y))
        return x + y if x.shape == y.shape else y


class Probe(nn.Module):
    """Trunk to 1/16, back up to 1/4; a heat map per point, read at its centre of mass; identity from pooled maps and points."""

    config: ProbeConfig

    @nn.compact
    def __call__(
        self, image_01: Float[Array, "n h w 3"]
    ) -> tuple[Float[Array, "n p 2"], Float[Array, "n a"], Float[Array, "n h2 w2 p"]]:
        """Image 0..1 → points in 0..1 of width and height (x, y), standardised identity attributes, heat maps (logits)."""
        half, quarter, eighth, sixteenth = self.config.channels
        x = ConvBlock(half, strides=2, name="stem")(2 * image_01 - 1)
        fine = ConvBlock(quarter, name="fine_1")(ConvBlock(quarter, strides=2, name="fine_0")(x))
        middle = ConvBlock(eighth, name="middle_1")(ConvBlock(eighth, strides=2, name="middle_0")(fine))
        coarse = ConvBlock(sixteenth, strides=2, name="coarse_0")(middle)
        coarse = ConvBlock(sixteenth, name="coarse_2")(ConvBlock(sixteenth, name="coarse_1")(coarse))

        middle = ConvBlock(eighth, name="up_middle")(middle + _double(nn.Dense(eighth, name="to_middle")(coarse)))
        fine = ConvBlock(quarter, name="up_fine")(fine + _double(nn.Dense(quarter, name="to_fine")(middle)))
        heat = nn.Dense(len(POINTS), name="heat")(fine)

        points = centre_of_mass(heat)

        pooled = [part.mean(axis=(1, 2)) for part in (fine, middle, coarse)]
        seen = jnp.concatenate([*pooled, face_shape(points)], axis=-1)
        hidden = nn.silu(nn.Dense(2 * sixteenth, name="identity_0")(seen))
        return points, nn.Dense(self.config.attributes, name="identity_1")(hidden), heat


def face_shape(points: Float[Array, "n p 2"]) -> Float[Array, "n d"]:
    """The points without place and size, flat: what the identity head knows of proportions. Gives the points no gradient."""
    points = jax.lax.stop_gradient(points)
    centred = points - points.mean(axis=1, keepdims=True)
    size = jnp.sqrt((centred**2).sum(axis=(1, 2), keepdims=True) / len(POINTS)) + 1e-6
    return (centred / size).reshape(len(points), -1)


def centre_of_mass(heat: Float[Array, "n h w p"]) -> Float[Array, "n p 2"]:
    """Soft-argmax: softmax over space, then the mean position (x, y) in 0..1 (pixel centres at +0.5)."""
    h, w = heat.shape[1:3]
    weight = jax.nn.softmax(rearrange(heat, "n h w p -> n p (h w)").astype(jnp.float32), axis=-1)
    y, x = np.mgrid[:h, :w]
    place = np.stack([(x.ravel() + 0.5) / w, (y.ravel() + 0.5) / h], axis=-1).astype(np.float32)
    return weight @ place


def heat_error(heat: Float[Array, "n h w p"], points: Float[Array, "n p 2"]) -> Float[Array, "n p"]:
    """Divergence (nats) of the heat maps from a bell one cell wide around the true points; 0 for points off the image.

    The centre of mass alone says little about where the heat should be, and learns slowly: Nibali et al. 2018 (DSNT).
    """
    h, w = heat.shape[1:3]
    y, x = np.mgrid[:h, :w]
    cells = np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)
    place = points * np.array([w, h], np.float32) - 0.5
    logits = -((cells[:, None] - place[:, None]) ** 2).sum(-1) / 2
    wanted = jax.nn.log_softmax(logits, axis=1)
    found = jax.nn.log_softmax(rearrange(heat, "n h w p -> n (h w) p").astype(jnp.float32), axis=1)
    inside = ((points > 0) & (points < 1)).all(-1)
    return inside * (jnp.exp(wanted) * (wanted - found)).sum(1)


def _double(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def to_size(image_01: Float[Array, "n h w 3"], size: int) -> Float[Array, "n s s 3"]:
    """Bilinear with antialiasing; the same image if it has the size already."""
    if image_01.shape[1:3] == (size, size):
        return image_01
    return jax.image.resize(image_01, (image_01.shape[0], size, size, 3), "bilinear", antialias=True)


def point_weights() -> np.ndarray:
    """Weight of each point in the loss, mean 1: eyes, pupils and mouth are small and count double."""
    weight = np.array([2.0 if index in SMALL_PARTS else 1.0 for index in POINTS], np.float32)
    return weight / weight.mean()


@dataclass(frozen=True)
class ProbeTask:
    """How the probe is trained: distance of the points in face widths, their heat, squared error of the identity traits."""

    config: ProbeConfig
    stages: Mapping[str, Stage]
    name: str = "probe"
    identity_weight: float = 0.03
    heat_weight: float = 0.05
    batch_keys: ClassVar[tuple[str, ...]] = ("image", "landmarks", "attributes")

    @classmethod
    def from_config(cls, config: Any) -> ProbeTask:
        """Built from `configs/probe.py`; raises `ConfigError` for an unknown key."""
        model, stage = from_mapping(ProbeConfig, dict(config.model)), Stage.from_config(dict(config.train))
        return cls(model, {config.stage: stage})

    def init(self, rng: PRNGKeyArray, stage: str = "train") -> Params:
        image = jnp.zeros((1, self.config.size, self.config.size, 3))
        return {"probe": jax.jit(Probe(self.config).init)(rng, image)["params"]}

    def loss(
        self, params: Params, batch: Mapping[str, PyTree], rng: PRNGKeyArray, stage: str = "train"
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Batch: `image` u8 "b h w 3", `landmarks` px "b 478 3" (in that image), `attributes` "b a"."""
        image = jnp.asarray(batch["image"], jnp.float32) / 255
        h, w = image.shape[1:3]
        points = batch["landmarks"][..., :2] / jnp.array([w, h], jnp.float32)
        image = to_size(image, self.config.size)
        if self.config.augment:
            keys = jax.random.split(rng, (2, image.shape[0]))
            image, points = jax.vmap(degrade.rescale)(keys[0], image, points)
            image = jax.vmap(degrade.degrade)(keys[1], image)
        found, attributes, heat = Probe(self.config).apply({"params": params["probe"]}, image)
        width = jnp.linalg.norm(points[:, CHEEKS[0]] - points[:, CHEEKS[1]], axis=-1)[:, None]
        wanted = points[:, np.array(POINTS)]
        offset = (found - wanted) / width[..., None]
        distance = jnp.sqrt((offset**2).sum(-1) + 0.003**2)
        identity = ((attributes - batch["attributes"]) ** 2).mean()
        heat_map = heat_error(heat, wanted)
        point = distance + self.heat_weight * heat_map
        loss = (point * point_weights()).mean() + self.identity_weight * identity
        return loss, {"points_error": distance.mean(), "heat_error": heat_map.mean(), "identity_error": identity}
