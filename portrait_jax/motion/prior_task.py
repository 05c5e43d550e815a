"""The motion prior: what follows in a sequence of motion codes, learnt by a GPT-2, and how to go on from a clip.

Source: X-NeMo (arXiv 2507.23143), appendix D; the training follows T2M-GPT (arXiv 2301.06052, section 3.2), which it names.
Sequences have no end of their own: they are windows of longer clips, so there is no token for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from portrait_jax.backbones.gpt2 import GPT2, GPT2Config
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.motion.sampling import continue_codes
from portrait_jax.motion.vqvae import Motion, MotionVQ, MotionVQConfig
from portrait_jax.motion.vqvae_task import STATISTICS, empty_statistics, restore_scale, standardise
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Int, Params, PRNGKeyArray


@dataclass(frozen=True)
class PriorConfig:
    """Sizes of the transformer, and what it is told of feelings."""

    positions: int = 1024
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    emotions: int = 0
    """Labels that a sequence may have; 0: none is used. A label's token stands first, in place of the start token."""


@dataclass(frozen=True)
class PriorLossConfig:
    """What is hidden from the prior while it trains."""

    replaced: float = 0.5
    """Each sequence has a share of its codes, drawn between 0 and this, replaced by random ones: its own mistakes."""
    label_drop: float = 0.1
    """Share of the labels that are left out, so that the prior also knows motion without one."""


@dataclass(frozen=True)
class MotionPriorTask:
    """Trains the prior on batches `{"motion": "b f d"}`, with labels also `{"emotion": int "b"}` (−1: none)."""

    config: PriorConfig
    vq_config: MotionVQConfig
    loss_config: PriorLossConfig
    stages: Mapping[str, Stage]
    dtype: Any
    name: str = "motion_prior"

    @classmethod
    def from_config(cls, config: Any) -> MotionPriorTask:
        """Builds the task from `config.model.{prior,vqvae}`, `config.loss` and `config.train`; raises `ConfigError`.

        ConfigError too if a training sequence has more codes than the transformer has positions.
        """
        task = cls(
            config=from_mapping(PriorConfig, config.model.prior),
            vq_config=from_mapping(MotionVQConfig, config.model.vqvae),
            loss_config=from_mapping(PriorLossConfig, config.loss),
            stages={config.stage: Stage.from_config(config.train)},
            dtype=compute_dtype(config.compute_dtype),
        )
        for stage in task.stages.values():
            if not 2 <= task.codes_per_sequence(stage) <= task.config.positions:
                raise ConfigError(
                    f"train.frames {stage.frames} are {task.codes_per_sequence(stage)} codes; give at least "
                    f"{2 * task.vq_config.factor} frames, and at most {task.config.positions} codes (model.prior.positions)"
                )
        return task

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """Arrays that `loss` reads."""
        return ("motion", "emotion") if self.config.emotions else ("motion",)

    @property
    def network(self) -> GPT2:
        """The transformer: its tokens are the codes, then the start token, then one per label."""
        config = self.config
        vocabulary = self.vq_config.codes + 1 + config.emotions
        return GPT2(GPT2Config(vocabulary, config.positions, config.hidden, config.layers, config.heads), self.dtype)

    @property
    def autoencoder(self) -> MotionVQ:
        """The module that makes codes."""
        return MotionVQ(self.vq_config, self.dtype)

    def codes_per_sequence(self, stage: Stage) -> int:
        """Codes of a training sequence."""
        return stage.frames // self.vq_config.factor

    def init(self, rng: PRNGKeyArray, stage: str = "gpt") -> Params:
        """The prior, and the autoencoder that `init_from` brings trained."""
        first, second = jax.random.split(rng)
        motion = jnp.zeros((1, self.vq_config.factor, self.vq_config.motion))
        return {
            "prior": self.network.init(first, jnp.zeros((1, 2), jnp.int32))["params"],
            "vqvae": self.autoencoder.init(second, motion)["params"],
            STATISTICS: empty_statistics(self.vq_config.motion),
        }

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str = "gpt"
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean cross-entropy of each code after those before it, in nats; metric `accuracy` of the likeliest code."""
        codes = jax.lax.stop_gradient(self.encode(params, batch["motion"]))
        noise, drop = jax.random.split(rng)
        start = self.start_tokens(batch.get("emotion"), len(codes), drop)
        seen = jnp.concatenate([start[:, None], self._replaced(noise, codes)[:, :-1]], axis=1)
        scores = self.scores(params, seen)
        loss = optax.softmax_cross_entropy_with_integer_labels(scores, codes).mean()
        return loss, {"accuracy": (scores.argmax(-1) == codes).mean(dtype=jnp.float32)}

    def encode(self, params: Params, motion: Motion) -> Int[Array, "b n"]:
        """Codes of motion latents as the motion encoder gives them."""
        return self.autoencoder.apply(
            {"params": params["vqvae"]}, standardise(params[STATISTICS], motion), method="encode"
        )

    def decode(self, params: Params, codes: Int[Array, "b n"]) -> Motion:
        """Motion latents of codes."""
        motion = self.autoencoder.apply({"params": params["vqvae"]}, codes, method="decode")
        return restore_scale(params[STATISTICS], motion)

    def scores(self, params: Params, tokens: Int[Array, "b n"]) -> Float[Array, "b n k"]:
        """Scores of the code that follows each token; labels and the start token never follow."""
        return self.network.apply({"params": params["prior"]}, tokens)[..., : self.vq_config.codes]

    def start_tokens(
        self, emotion: Int[Array, " b"] | None, count: int, drop: PRNGKeyArray | None = None
    ) -> Int[Array, " b"]:
        """The first token of each of `count` sequences: of its label, or without one the start token."""
        plain = jnp.full(count, self.vq_config.codes)
        if emotion is None or not self.config.emotions:
            return plain
        known = emotion >= 0
        if drop is not None:
            known &= jax.random.uniform(drop, emotion.shape) >= self.loss_config.label_drop
        return jnp.where(known, self.vq_config.codes + 1 + emotion, plain)

    def _replaced(self, rng: PRNGKeyArray, codes: Int[Array, "b n"]) -> Int[Array, "b n"]:
        share, which, what = jax.random.split(rng, 3)
        limit = jax.random.uniform(share, (len(codes), 1), maxval=self.loss_config.replaced)
        random = jax.random.randint(what, codes.shape, 0, self.vq_config.codes, codes.dtype)
        return jnp.where(jax.random.uniform(which, codes.shape) < limit, random, codes)

    def extend(
        self,
        params: Params,
        motion: Motion,
        frames: int,
        rng: PRNGKeyArray,
        *,
        emotion: int = -1,
        temperature: float = 1.0,
        top_p: float = 0.95,
        fade: int = 8,
    ) -> Float[Array, "b g d"]:
        """The `frames` frames of motion that follow `motion`: outpainting of a driving clip (appendix D).

        Jit it with everything static but `params`, `motion` and `rng`. All codes are decoded in one go: the decoder is
        convolutional, so that any length has no seams. What the codes do not keep of the last given frame would jump;
        it is carried on, fading out over `fade` frames.

        Args:
            motion: latents of at least one code's frames; the last that fill a training window are read.
            emotion: a label below `config.emotions`; −1: none.

        Raises:
            ShapeError: for too few frames. ConfigError: for a label that does not exist, or settings out of range.
        """
        factor, (stage,) = self.vq_config.factor, self.stages.values()
        context = self.codes_per_sequence(stage) - 1
        given = min(motion.shape[1] // factor, context)
        if not given or frames < 1:
            raise ShapeError(
                f"{motion.shape[1]} frames cannot be gone on from by {frames}; give {factor} at least, by 1"
            )
        if not -1 <= emotion < max(self.config.emotions, 0):
            raise ConfigError(f"emotion {emotion} does not exist; the prior knows {self.config.emotions}, from 0 on")
        known = self.encode(params, motion[:, -given * factor :])
        labels = jnp.full(len(motion), emotion)
        codes = continue_codes(
            lambda tokens: self.scores(params, tokens), self.start_tokens(labels, len(motion)), known,
            -(-frames // factor), context, rng, temperature=temperature, top_p=top_p,
        )  # fmt: skip
        decoded = self.decode(params, jnp.concatenate([known, codes], axis=1))
        end = given * factor
        jump = motion[:, -1] - decoded[:, end - 1]
        share = jnp.clip(1 - (jnp.arange(frames) + 1) / (fade + 1), 0.0, 1.0)
        return decoded[:, end : end + frames] + share[:, None] * jump[:, None]
