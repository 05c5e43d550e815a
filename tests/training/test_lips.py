"""What sound tells of lips: movement within a clip alone, of each of the frames that a token is of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from portrait_jax.errors import ShapeError
from portrait_jax.face.topology import LIPS, index
from portrait_jax.training.faces import UNIT, inner_landmarks
from portrait_jax.training.lips import lip_loss, lip_reader, mouth_weights

FRAMES = 8
FACE = 64 * np.random.default_rng(0).random((2, 1, 478, 3), dtype=np.float32)


def clip(still: float = 0.0) -> jax.Array:
    """Faces of which only the lips move."""
    moved = np.repeat(FACE, FRAMES, axis=1)
    moved[:, :, index(LIPS)] += (1 - still) * np.random.default_rng(1).normal(size=(2, FRAMES, len(LIPS), 3))
    return jnp.asarray(moved, jnp.float32)


def told(landmarks: jax.Array, each: int) -> jax.Array:
    """Tokens that are the lips' movements themselves, of `each` frames in turn."""
    lips = inner_landmarks(landmarks)[..., index(LIPS), :] / UNIT
    return rearrange(lips, "b (n g) l d -> b n 1 (g l d)", g=each)


@pytest.mark.parametrize("each", [1, 4])
def test_tokens_that_say_it_are_read_without_error(each):
    landmarks = clip()
    params = {"kernel": jnp.eye(2 * len(LIPS) * each)}
    tokens = told(landmarks, each)
    assert lip_reader(each).init(jax.random.key(0), tokens[:, :, 0])["params"]["kernel"].shape == params["kernel"].shape
    # The mean of a token's own frames is not the clip's: what is constant in both is taken away on both sides.
    error = lip_loss(params, tokens, landmarks)
    shuffled = rearrange(rearrange(tokens, "b n k (g e) -> b n k e g", g=each)[..., ::-1], "b n k e g -> b n k (g e)")
    late = lip_loss(params, jnp.roll(tokens, 1, axis=1), landmarks)
    if each == 1:
        assert error < 1e-4 < 0.1 < late
    else:
        assert error < 0.7 * min(lip_loss(params, shuffled, landmarks), late)


def test_only_movement_counts():
    landmarks = clip()
    tokens, elsewhere = told(landmarks, 1), 2 * landmarks + 30
    params = {"kernel": jnp.eye(2 * len(LIPS))}
    np.testing.assert_allclose(lip_loss(params, tokens + 5, elsewhere), 0, atol=1e-3)
    np.testing.assert_allclose(lip_loss({"kernel": 0 * params["kernel"]}, tokens, clip(still=1.0)), 0, atol=1e-5)


def test_tokens_that_do_not_divide_the_frames_are_named():
    with pytest.raises(ShapeError, match="tokens of 3 times do not divide 8 frames"):
        lip_loss({"kernel": jnp.eye(2)}, jnp.zeros((2, 3, 1, 2)), clip())


def test_errors_in_a_mouth_count_more():
    weights = np.asarray(mouth_weights(jnp.full((1, 1, 478, 3), 4.0), 32, 4, 9.0))[0, 0, ..., 0]
    assert weights[0, 0] == pytest.approx(10, rel=1e-3) and weights[-1, -1] == pytest.approx(1, rel=1e-3)
