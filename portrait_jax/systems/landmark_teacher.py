"""A landmark-driven network as the teacher of attention to motion or sound: a warm-up at demo size, in none of the papers.

Both networks draw the same noisy frames; the teacher is told where each landmark is to be, the student has motion tokens, or
sound. What the student lacks is then known at every layer and free of the noise's chance, where the diffusion loss knows it at
the end alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from portrait_jax.adapters.latent_motion import LatentMotionAttention
from portrait_jax.errors import ConfigError
from portrait_jax.nn.spatio_temporal import SpatioTemporalTransformer
from portrait_jax.nn.transformer import SpatialTransformer
from portrait_jax.training.lips import mouth_weights
from portrait_jax.typing import Array, Float, Num, Params, PyTree

Features = dict[str, Array]
Weights = Callable[[int], Float[Array, "b f h w 1"]]
"""Cells of a side → what an error in each of them counts."""
LAST = (SpatialTransformer, SpatioTemporalTransformer, LatentMotionAttention)
"""What may stand last in a layer; of several the latest is what the layer gives."""


def check_teacher(weight: float, teacher: Any, prediction: str, temporal: bool = False) -> None:
    """Raises ConfigError if a teacher is asked for that is not there, that would not see what the student does, or whose output
    is of another kind than the student's `prediction`."""
    if weight and (teacher is None or temporal):
        raise ConfigError(
            "loss.teacher needs the config of a landmark-driven system as config.teacher, and no loss.temporal"
        )
    if weight and teacher.prediction != prediction:
        raise ConfigError(
            f"a teacher that predicts '{teacher.prediction}' cannot teach a student that predicts '{prediction}'; make "
            "model.prediction and teacher.model.prediction equal"
        )


def drawn(apply: Callable[..., tuple[Any, PyTree]]) -> tuple[Float[Array, "b f h w c"], Features]:
    """A denoiser's output and, by "block/layer", what each of its layers with attention gives, in clips' order.

    Args:
        apply: calls the denoiser on single frames, with these options of flax's `apply` more.
    """
    output, kept = apply(
        capture_intermediates=lambda module, method: isinstance(module, LAST) and method == "__call__",
        mutable=["intermediates"],
    )
    return output, layers(kept["intermediates"])


def layers(kept: PyTree) -> Features:
    """Captured outputs by block and number of the layer; motion attention stands behind the transformer."""
    found: Features = {}
    for block, modules in kept.items():
        for name, calls in sorted(modules.items(), key=lambda module: not module[0].startswith("attentions_")):
            features = calls["__call__"][0]
            # A transformer also gives what a reference net notes.
            found[f"{block}/{name.rsplit('_', 1)[1]}"] = features[0] if isinstance(features, tuple) else features
    return found


def teacher_loss(
    teacher: Any,
    params: Params,
    batch: Mapping[str, Array],
    noisy: Float[Array, "b f h w c"],
    timestep: Num[Array, " t"],
    student: tuple[Float[Array, "b f h w c"], Features],
    weights: Weights,
) -> Float[Array, ""]:
    """Mean squared error of the student's output, and of its layers relative to the teacher's.

    Args:
        teacher: a landmark-driven system (`systems.follow_your_emoji`) with a denoiser of the student's layout.
        params: the teacher's, by sub-network.
        batch: has `reference` and `control`.
        student: what `drawn` gave.
    """
    portrait = teacher.encode_portrait(params, batch["reference"])
    told = teacher.encode_driving(params, portrait, {"control": batch["control"]})["cond"]

    def apply(**capture: Any) -> Any:
        return teacher.denoiser.apply(
            {"params": params["denoiser"]}, noisy, timestep, told, use_temporal=False, **capture
        )

    output, features = jax.lax.stop_gradient(drawn(apply))
    errors = [
        weighed(student[1][layer], known, weights) / jnp.square(known).mean() for layer, known in features.items()
    ]
    return weighed(student[0], output, weights) + jnp.stack(errors).mean()


def weighed(one: Array, other: Array, weights: Weights) -> Float[Array, ""]:
    """Mean squared difference of features of square frames, weighed cell by cell."""
    shares = weights(other.shape[-2])
    shape = (*shares.shape[:-1], -1)
    return (shares * jnp.square((one.reshape(shape) - other.reshape(shape)).astype(jnp.float32))).mean()


def of_clips(keep: Float[Array, " b"], frames: int) -> Weights:
    """Only clips that are kept count, each as much more as others count less."""
    share = (keep / jnp.maximum(keep.mean(), 1e-6))[:, None, None, None, None]
    return lambda side: jnp.broadcast_to(share, (len(keep), frames, side, side, 1))


def of_mouths(landmarks_px: Float[Array, "b f 478 d"], size: int, more: float) -> Weights:
    """Errors in the middle of a mouth count `more` times more than those far from it."""
    return lambda side: mouth_weights(landmarks_px, size, side, more)
