"""X-NeMo at a tiny size: what the guidance branches hold, what drives the result, and which networks a loss reaches."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.systems.xnemo import XNemo
from tests.tiny import make_params
from tests.tiny_xnemo import FACE, SIZE, make_system


@functools.cache
def system() -> XNemo:
    """The release's config with small numbers."""
    return make_system()


@functools.cache
def params():
    return make_params(system())


def picture(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8))


@functools.cache
def branches():
    driving = {"faces": picture(1, 2, FACE, FACE), "reference_face": picture(1, FACE, FACE, seed=1)}

    @jax.jit
    def encode(params, image, driving):
        return system().encode_driving(params, system().encode_portrait(params, image), driving)

    return encode(params(), picture(1, SIZE, SIZE), driving)


def test_the_unconditional_branch_has_no_identity_and_the_portraits_own_motion():
    cond, uncond = branches()["cond"], branches()["uncond"]
    assert uncond.reference_mask.tolist() == [0] and cond.reference_mask.tolist() == [1]
    assert not np.any(uncond.image_tokens) and np.any(cond.image_tokens)
    np.testing.assert_array_equal(uncond.motion[:, 0], uncond.motion[:, 1])
    assert np.abs(cond.motion[:, 0] - cond.motion[:, 1]).max() > 1e-4
    assert cond.start.shape == (1, *system().latent_shape())


def test_motion_and_boxes_change_the_prediction():
    cond = branches()["cond"]
    x = jax.random.normal(jax.random.key(0), (1, 2, *system().latent_shape()))
    run = jax.jit(functools.partial(system().denoise, params()))
    still = run(x, jnp.ones(1), cond)
    assert np.abs(run(x, jnp.ones(1), branches()["uncond"].replace(
        image_tokens=cond.image_tokens, reference_mask=cond.reference_mask)) - still).max() > 1e-4  # fmt: skip
    latents = jnp.ones((1, 2, 8))
    tokens = functools.partial(system().motion_tokens, params(), latents)
    in_place = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), (1, 2, 3))
    np.testing.assert_array_equal(tokens(), tokens(in_place))
    assert np.abs(tokens(in_place + 0.2) - tokens()).max() > 1e-4


def test_latents_drive_as_the_faces_that_they_were_made_from():
    still = branches()["cond"]
    faces, own = picture(1, 2, FACE, FACE), picture(1, FACE, FACE, seed=1)

    @jax.jit
    def encode(params, faces, own):
        latents = system().encode_motion(params, faces)
        return system().encode_driving(params, still, {"motion": latents, "reference_face": own})

    for name, branch in encode(params(), faces, own).items():
        np.testing.assert_allclose(branch.motion, branches()[name].motion, atol=1e-5)


def test_control_drawings_are_no_driving_faces():
    with pytest.raises(ConfigError, match="driven by face crops, and 'faces' is missing"):
        system().encode_driving({}, branches()["cond"], {"control": picture(1, 2, 4, 4)})
