"""Protects how branches combine."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.diffusion.guidance import classifier_free, identity, mimicking, nested, rescaled
from portrait_jax.errors import ConfigError

UNCOND, COND = jnp.zeros((1, 3, 2, 2, 1)) + 0.5, jnp.arange(12.0).reshape(1, 3, 2, 2, 1)


@given(scale=st.floats(0, 20).filter(lambda scale: scale != 1))
def test_classifier_free_extrapolates_from_uncond_through_cond(scale):
    combined = classifier_free(scale).combine({"uncond": UNCOND, "cond": COND})
    np.testing.assert_allclose(combined, 0.5 + scale * (COND - 0.5), rtol=1e-5, atol=1e-5)


def test_scale_one_runs_a_single_branch():
    guidance = classifier_free(1.0)
    assert guidance.branches == identity().branches == ("cond",)
    assert guidance.combine({"cond": COND}) is COND


def test_a_scale_per_frame_acts_on_the_frame_axis():
    combined = classifier_free(jnp.array([0.0, 1.0, 3.0])).combine({"uncond": UNCOND, "cond": COND})
    np.testing.assert_allclose(combined[:, 0], UNCOND[:, 0])
    np.testing.assert_allclose(combined[:, 1], COND[:, 1])
    np.testing.assert_allclose(combined[:, 2], 0.5 + 3 * (COND[:, 2] - 0.5))


def test_nested_guidance_adds_each_condition_with_its_own_strength():
    guidance = nested(("none", "face", "all"), (2.0, 5.0))
    combined = guidance.combine({"none": UNCOND, "face": UNCOND + 1, "all": UNCOND + 3})
    np.testing.assert_allclose(combined, UNCOND + 2 * 1 + 5 * 2)
    assert guidance.branches == ("none", "face", "all")


def test_nested_guidance_needs_a_scale_for_each_added_branch():
    with pytest.raises(ConfigError, match="3 guidance branches need 2 scales, not 1"):
        nested(("a", "b", "c"), (2.0,))


def test_full_rescaling_restores_the_contrast_of_the_conditional_branch():
    predictions = {"uncond": UNCOND, "cond": COND}
    plain = classifier_free(4.0)
    assert float(rescaled(plain, 1.0).combine(predictions).std()) == pytest.approx(float(COND.std()), rel=1e-5)
    np.testing.assert_allclose(rescaled(plain, 0.0).combine(predictions), plain.combine(predictions))


def thresholded(cond, uncond, scale, mimic, percentile, axes, given=None):
    """Dynamic thresholding as simply as it can be written, over one range at a time."""
    strong, weak = uncond + scale * (cond - uncond), uncond + mimic * (cond - uncond)
    result, (clips, frames, _, _, channels) = strong.copy(), strong.shape
    free = [[f for f in range(frames) if given is None or given[b, f] == 0] for b in range(clips)]
    mean, other = strong.mean((2, 3), keepdims=True), weak.mean((2, 3), keepdims=True)
    for b in range(clips):
        groups = [[f] for f in free[b]] if axes == "frame" else [free[b]]
        for group in groups:
            for c in [slice(None)] if axes == "whole" else [slice(i, i + 1) for i in range(channels)]:
                at = np.ix_([b], group, range(strong.shape[2]), range(strong.shape[3]), np.arange(channels)[c])
                here = (strong - mean)[at]
                target = np.abs((weak - other)[at]).max()
                limit = max(target, np.quantile(np.abs(here), percentile))
                spread = np.broadcast_to(mean, strong.shape)[at]
                result[at] = np.clip(here, -limit, limit) / limit * target + spread
    return result


@pytest.mark.parametrize("axes", ["clip", "frame", "whole"])
@pytest.mark.parametrize("masked", [False, True])
def test_mimicking_follows_dynamic_thresholding_range_by_range(axes, masked):
    rng = np.random.default_rng(0)
    cond, uncond = (rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32) for _ in range(2))
    given = np.array([[1, 0, 0], [0, 0, 0]], np.float32) if masked else None
    guidance = mimicking(5.0, 3.5, 0.9, axes)
    assert guidance.reads_given and guidance.branches == ("uncond", "cond")
    told = () if given is None else (jnp.asarray(given),)
    found = guidance.combine({"cond": jnp.asarray(cond), "uncond": jnp.asarray(uncond)}, *told)
    np.testing.assert_allclose(found, thresholded(cond, uncond, 5.0, 3.5, 0.9, axes, given), atol=2e-5)


def test_mimicking_is_homogeneous_and_stays_within_the_weaker_range():
    rng = np.random.default_rng(1)
    cond, uncond = (jnp.asarray(rng.normal(size=(1, 2, 4, 4, 2)), jnp.float32) for _ in range(2))
    guidance = mimicking(6.0, 2.0, 0.95)
    found = guidance.combine({"cond": cond, "uncond": uncond})
    twice = guidance.combine({"cond": 2 * cond, "uncond": 2 * uncond})
    np.testing.assert_allclose(twice, 2 * found, rtol=1e-5)
    strong, weak = uncond + 6 * (cond - uncond), uncond + 2 * (cond - uncond)
    limit = np.abs(weak - weak.mean((2, 3), keepdims=True)).max((1, 2, 3))
    off = np.abs(found - strong.mean((2, 3), keepdims=True)).max((1, 2, 3))
    assert (off <= limit * (1 + 1e-5)).all()
    by_deviation = mimicking(6.0, 2.0, variability="std").combine({"cond": cond, "uncond": uncond})
    own = by_deviation - strong.mean((2, 3), keepdims=True)
    other = weak - weak.mean((2, 3), keepdims=True)
    np.testing.assert_allclose(own.std((1, 2, 3)), other.std((1, 2, 3)), rtol=1e-4)


def test_mimicking_ones_own_scale_is_plain_guidance_and_so_is_strength_zero():
    predictions = {"uncond": UNCOND, "cond": COND}
    plain = classifier_free(4.0).combine(predictions)
    np.testing.assert_array_equal(mimicking(4.0, 4.0).combine(predictions), plain)
    np.testing.assert_allclose(mimicking(4.0, 2.0, strength=0.0).combine(predictions), plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": "clips"}, "did you mean 'clip'"),
        ({"variability": "max-abs"}, "variability"),
        ({"percentile": 99.5}, "0..1"),
    ],
)
def test_mistakes_in_mimicking_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        mimicking(5.0, 3.5, **change)
