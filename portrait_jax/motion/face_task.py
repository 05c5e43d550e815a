"""Pre-training of the encoders that HunyuanPortrait reads motion with: what a face does, and how its head is turned.

The paper (arXiv 2503.18860, appendix C.2) takes MegaPortraits' motion encoder, trained beforehand, and says no more. Here an
expression's feature and the head's angles must suffice to redraw the driving face from another frame of the same person
(`adversarial.head`), or landmarks must be told by it, or by the tokens that a motion memory makes of it; the network of the angles
learns those of the landmarks, in degrees. All of it is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.adapters.motion_memory import MotionMemory, MotionMemoryConfig
from portrait_jax.adversarial.head import DualHead
from portrait_jax.encoders.face_motion import EXPRESSION, HEAD_POSE, head_pose
from portrait_jax.encoders.resnet import ResNet, ResNetConfig
from portrait_jax.errors import ConfigError
from portrait_jax.face.intensity import RELEASED, IntensityConfig
from portrait_jax.face.topology import NUM_LANDMARKS
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.training import aligned
from portrait_jax.training.augment import AugmentConfig
from portrait_jax.training.faces import motion_reading
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Params, PRNGKeyArray

DEGREES = 45.0
"""The generator is told angles in units of this."""

Batch = Mapping[str, Array]


@dataclass(frozen=True)
class FaceMotionLossConfig:
    """Beside the head's weights (`adversarial.head.HeadWeights`)."""

    redrawing: float = 1.0
    """Weight of the head's loss; 0 leaves the head out, and such a stage has no adversary."""
    landmarks: float = 0.0
    """Weight of how wrong landmarks are that are read linearly off how the feature differs from the reference's: what is small,
    a mouth, is learnt sooner than through pictures. Who it is makes no difference, and shall not be told. Where there is a memory
    (`model.motion_memory`), the same is asked of its tokens too, and it learns."""
    spread: float = 0.0
    """Weight of `spread_loss`, beside `landmarks`: how far features are from having the mean 0, and differences of the size 1;
    of tokens too, where there are any."""
    angles: float = 0.1
    """Weight of the mean error of yaw, pitch and roll, per degree."""


@dataclass(frozen=True, eq=False)
class FaceMotionTask:
    """Trains sub-networks `expression` and `head_pose`, and `motion_memory` if there is one; others are of no use afterwards."""

    expression_config: ResNetConfig
    head_pose_config: ResNetConfig
    head: DualHead
    loss_config: FaceMotionLossConfig
    augment_config: AugmentConfig
    stages: Mapping[str, Stage]
    face_size: int
    memory_config: MotionMemoryConfig | None = None
    """What makes tokens of the feature, where landmarks are read off these too."""
    intensity: IntensityConfig = RELEASED
    """How the levels that the memory is told are measured."""
    name: str = "face_motion"

    batch_keys: ClassVar[tuple[str, ...]] = ("frames", "reference", "landmarks", "reference_landmarks")
    """What `loss` reads of a batch; `driving` too if there is such a thing (`training.aligned`)."""

    @classmethod
    def from_config(cls, config: Any) -> FaceMotionTask:
        """Builds the task from `config.model`, `config.loss`, `config.augment` and `config.train`; raises `ConfigError`."""
        model, stage = config.model, Stage.from_config(config.train)
        expression = from_mapping(ResNetConfig, {**vars(EXPRESSION), **model.expression})
        head = DualHead.from_config(
            model.head, motion=expression.width + 3, dtype=compute_dtype(config.compute_dtype), sources=stage.init_from
        )
        chosen = from_mapping(FaceMotionLossConfig, config.loss)
        if stage.adversary is not None and not chosen.redrawing:
            raise ConfigError("loss.redrawing 0 leaves no pictures to judge; leave train.adversary out")
        if chosen.spread and not chosen.landmarks:
            raise ConfigError("loss.spread is asked of what landmarks are read off; set loss.landmarks too")
        memory = model.get("motion_memory")
        if memory is not None and not chosen.landmarks:
            raise ConfigError("model.motion_memory learns from landmarks; set loss.landmarks too, or leave it out")
        return cls(
            expression_config=expression,
            head_pose_config=from_mapping(ResNetConfig, {**vars(HEAD_POSE), **model.head_pose}),
            head=head,
            loss_config=chosen,
            augment_config=from_mapping(AugmentConfig, {**vars(aligned.COLOURS), **config.augment}),
            stages={config.stage: stage},
            face_size=model.face_size,
            memory_config=None if memory is None else from_mapping(MotionMemoryConfig, memory),
            intensity=from_mapping(IntensityConfig, model.intensity),
        )

    def __post_init__(self) -> None:
        """Raises ConfigError where the memory knows fewer levels than are told."""
        if self.memory_config is not None:
            self.intensity.check_known(self.memory_config.levels)

    @property
    def networks(self) -> dict[str, ResNet]:
        """The encoders by sub-network; float32, as the system runs them."""
        return {"expression": ResNet(self.expression_config), "head_pose": ResNet(self.head_pose_config)}

    @property
    def memory(self) -> MotionMemory:
        """What makes tokens of features; there must be a `memory_config`."""
        assert self.memory_config is not None
        return MotionMemory(self.memory_config)

    @property
    def landmark_reader(self) -> nn.Dense:
        """How features, or tokens, differ → how landmarks do (`training.faces.motion_reading`)."""
        return nn.Dense(2 * NUM_LANDMARKS, use_bias=False)

    def init(self, rng: PRNGKeyArray, stage: str = "") -> Params:
        """Fresh parameters of the encoders, and of what the loss reads them by."""
        keys, face = jax.random.split(rng, 4), jnp.zeros((1, self.face_size, self.face_size, 3))
        made = {name: net.init(key, face)["params"] for (name, net), key in zip(self.networks.items(), keys)}
        if self.loss_config.redrawing:
            made |= self.head.init(keys[2])
        if self.loss_config.landmarks:
            feature, level = jnp.zeros((1, 1, self.expression_config.width)), jnp.zeros((1, 1), jnp.int32)
            made["landmark_reader"] = self.landmark_reader.init(keys[3], feature)["params"]
            if self.memory_config is not None:
                own, other = jax.random.split(jax.random.fold_in(rng, 1))
                tokens, memory = self.memory.init_with_output(own, feature[:, :, None], level, level)
                made["motion_memory"] = memory["params"]
                made["token_reader"] = self.landmark_reader.init(other, flat(tokens))["params"]
        return made

    def loss(
        self, params: Params, batch: Batch, rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted sum of what `loss_config` names; the mean error of the angles in degrees (metric `angles`), and, where they
        are read, that of the landmarks (metric `landmarks`, in `training.faces.UNIT`s) and `spread_loss` (metric `spread`), of
        features and tokens together."""
        chosen, heads = self.loss_config, aligned.head_crops(batch, self.face_size)
        found, _ = head_pose(self._read(params, "head_pose", 2 * heads + 1))
        terms = {"angles": jnp.abs(found - aligned.head_angles(batch["landmarks"])).mean()}
        total = chosen.angles * terms["angles"]
        if chosen.redrawing:
            gan, more = self.head.loss(params, *self._redrawing(params, batch, rng))
            total, terms = total + chosen.redrawing * gan, terms | dict(more)
        if chosen.landmarks:
            feature = self._features(params, batch, rng)
            terms["landmarks"] = self._reading_error(params, "landmark_reader", feature, batch)
            terms["spread"] = spread_loss(feature)
            if self.memory_config is not None:
                tokens = self._tokens(params, feature, batch)
                terms["landmarks"] += self._reading_error(params, "token_reader", tokens, batch)
                terms["spread"] += spread_loss(tokens)
            total = total + chosen.landmarks * terms["landmarks"] + chosen.spread * terms["spread"]
        return total, terms

    def adversary_loss(
        self, params: Params, batch: Batch, rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """What the head's discriminator minimises, on the pictures that `loss` judged; see `training.task`."""
        return self.head.adversary_loss(params, *self._redrawing(params, batch, rng))

    def _read(self, params: Params, name: str, pictures: Float[Array, "b f s s 3"]) -> Float[Array, "b f e"]:
        clips = len(pictures)
        out = self.networks[name].apply({"params": params[name]}, rearrange(pictures, "b f h w c -> (b f) h w c"))
        return rearrange(out, "(b f) e -> b f e", b=clips)

    def _reading_error(
        self, params: Params, name: str, motion: Float[Array, "b n e"], batch: Batch
    ) -> Float[Array, ""]:
        """Of landmarks that reader `name` reads off how motion differs from the reference's, which comes first."""
        moved = motion[:, 1:] - motion[:, :1]
        return motion_reading(self.landmark_reader.apply({"params": params[name]}, moved), batch)

    def _features(self, params: Params, batch: Batch, rng: PRNGKeyArray) -> Float[Array, "b n e"]:
        """Of the reference and of each frame."""
        size, config = self.face_size, self.augment_config
        moving, still = aligned.face_crops(batch, size), aligned.reference_crops(batch, size)[:, None]
        # One clip, so that both have the same colours.
        crops = aligned.jittered(rng, jnp.concatenate([still, moving], axis=1), config)
        return self._read(params, "expression", crops)

    def _tokens(self, params: Params, feature: Float[Array, "b n e"], batch: Batch) -> Float[Array, "b n t"]:
        """All numbers of the tokens that the memory makes of each feature; what they lack the features are not blamed for."""
        found = aligned.levels(aligned.five(batch["landmarks"]), self.intensity)
        levels = (jnp.broadcast_to(level[:, :1], feature.shape[:2]) for level in found)
        given = jax.lax.stop_gradient(feature)[:, :, None]
        return flat(self.memory.apply({"params": params["motion_memory"]}, given, *levels))

    def _redrawing(self, params: Params, batch: Batch, rng: PRNGKeyArray) -> tuple[Array, Array, Array]:
        """What is told of the driving faces, the reference faces, and the driving faces as they are."""
        size = self.head.pictures.size
        crops = aligned.jittered(rng, aligned.face_crops(batch, self.face_size), self.augment_config)
        # The true angles: what they say the feature need not, and their network is not judged by pictures.
        angles = aligned.head_angles(batch["landmarks"]) / DEGREES
        motion = jnp.concatenate([self._read(params, "expression", crops), angles], axis=-1)
        target = aligned.face_crops(batch, size)
        return (
            rearrange(motion, "b f e -> (b f) e"),
            aligned.reference_crops(batch, size),
            rearrange(target, "b f h w c -> (b f) h w c"),
        )


def flat(tokens: Float[Array, "b n k d"]) -> Float[Array, "b n e"]:
    """The tokens of a frame in one row."""
    return rearrange(tokens, "b n k d -> b n (k d)")


def spread_loss(motion: Float[Array, "b n e"]) -> Float[Array, ""]:
    """Mean square of the mean over a batch of what moves, and by how much its differences from each clip's first fall short of
    deviation 1.

    Landmarks are read linearly off differences, whatever these are beside what stays: what moves by a hundredth of its size is
    read as well, and tells a network that takes it as it is nothing. After the variance term of VICReg (arXiv 2105.04906,
    equation 1), of what a face does and not of who it is.
    """
    deviation = jnp.sqrt((motion[:, 1:] - motion[:, :1]).var((0, 1)) + 1e-4)
    return jnp.square(motion.mean((0, 1))).mean() + jax.nn.relu(1 - deviation).mean()
