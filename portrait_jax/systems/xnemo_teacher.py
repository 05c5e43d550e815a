"""A landmark-driven network as the teacher of X-NeMo's motion attention: a warm-up at demo size, not in the paper.

Both networks draw the same noisy frames; the teacher is told where each landmark is to be, the student has motion tokens. What
the student lacks is then known at every layer and free of the noise's chance, where the diffusion loss knows it at the end alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from portrait_jax.adapters.latent_motion import LatentMotionAttention
from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.transformer import SpatialTransformer
from portrait_jax.typing import Array, Float, Num, Params, PyTree

Features = dict[str, Array]
LAST = (SpatialTransformer, LatentMotionAttention)
"""What may stand last in a layer; of both the later one is what the layer gives."""


def drawn(
    denoiser: Any,
    params: Params,
    noisy: Float[Array, "b f h w c"],
    timestep: Num[Array, " t"],
    conditioning: Conditioning,
) -> tuple[Float[Array, "b f h w c"], Features]:
    """A denoiser's output and, by "block/layer", what each of its layers with attention gives, "… c" in clips' order."""
    output, kept = denoiser.apply(
        {"params": params}, noisy, timestep, conditioning, use_temporal=False,
        capture_intermediates=lambda module, method: isinstance(module, LAST) and method == "__call__",
        mutable=["intermediates"],
    )  # fmt: skip
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
    keep: Float[Array, " b"],
) -> Float[Array, ""]:
    """Mean squared error of the student's output, and of its layers relative to the teacher's, over the clips that `keep` is 1 of.

    Args:
        teacher: a landmark-driven system (`systems.follow_your_emoji`) with a denoiser of the student's layout.
        params: the teacher's, by sub-network.
        batch: has `reference` and `control`.
        student: what `drawn` gave.
    """
    portrait = teacher.encode_portrait(params, batch["reference"])
    told = teacher.encode_driving(params, portrait, {"control": batch["control"]})["cond"]
    output, features = jax.lax.stop_gradient(drawn(teacher.denoiser, params["denoiser"], noisy, timestep, told))
    errors = [per_clip(student[0], output, keep)]
    errors += [per_clip(student[1][layer], known, keep) / (known**2).mean() for layer, known in features.items()]
    return errors[0] + jnp.stack(errors[1:]).mean()


def per_clip(one: Array, other: Array, keep: Float[Array, " b"]) -> Float[Array, ""]:
    """Mean squared difference over the clips that are kept."""
    clips = ((one.reshape(len(keep), -1) - other.reshape(len(keep), -1)).astype(jnp.float32) ** 2).mean(axis=1)
    return (clips * keep).sum() / jnp.maximum(keep.sum(), 1)
