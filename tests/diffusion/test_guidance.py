"""Protects how branches combine."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.diffusion.guidance import classifier_free, identity, nested, rescaled
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
