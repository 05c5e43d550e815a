"""Protects: which frames a gap-filling network is given in training, and that nothing of the other frames passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.known import MASKINGS, sample_given, tell

CLIPS, FRAMES = 4000, 7
ENDS = np.array([1, 0, 0, 0, 0, 0, 1], np.float32)


def draw(masking: str, blank: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.asarray(sample_given(jax.random.key(seed), CLIPS, FRAMES, masking, blank))


def only_ends(given: np.ndarray) -> np.ndarray:
    return (given == ENDS).all(axis=1)


@pytest.mark.parametrize("masking", MASKINGS)
def test_every_frame_is_given_or_not(masking):
    assert set(np.unique(draw(masking))) <= {0.0, 1.0} and draw(masking).shape == (CLIPS, FRAMES)


def test_ends_gives_the_first_and_the_last_frame_of_every_clip():
    assert only_ends(draw("ends")).all()


def test_each_gives_half_of_the_frames_independently():
    given = draw("each")
    np.testing.assert_allclose(given.mean(axis=0), 0.5, atol=0.04)
    correlation = np.corrcoef(given.T) - np.eye(FRAMES)
    assert np.abs(correlation).max() < 0.08


def test_mixed_is_half_the_one_and_half_the_other():
    given = draw("mixed")
    # By chance alone one clip in 128 of the other half has only its ends.
    assert only_ends(given).mean() == pytest.approx(0.5 + 0.5 / 128, abs=0.03)
    others = given[~only_ends(given)]
    np.testing.assert_allclose(others[:, 1:-1].mean(), 0.5, atol=0.04)


def test_blank_is_the_share_of_clips_with_nothing_given():
    assert (draw("ends", 0.3) == 0).all(axis=1).mean() == pytest.approx(0.3, abs=0.03)
    assert (draw("mixed", 1.0) == 0).all()


def test_nothing_of_a_frame_that_is_not_given_passes():
    latents = jax.random.normal(jax.random.key(1), (2, 3, 4, 4, 2))
    given = jnp.array([[1.0, 0, 0], [0, 1, 1]])
    told = tell(Conditioning(image_tokens=jnp.ones((2, 1, 3))), latents, given)
    np.testing.assert_array_equal(told.known[given == 1], latents[given == 1])
    assert not np.asarray(told.known[given == 0]).any()
    assert told.image_tokens is not None and told.given is given


@pytest.mark.parametrize(
    ("masking", "blank", "message"), [("end", 0.0, "did you mean 'ends'"), ("mixed", 1.5, "lie in 0..1, not 1.5")]
)
def test_a_strategy_that_does_not_exist_is_named(masking, blank, message):
    with pytest.raises(ConfigError, match=message):
        sample_given(jax.random.key(0), 1, 4, masking, blank)
