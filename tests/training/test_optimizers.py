"""From settings to updates: the rate over time, decay and clipping, and names that do not exist."""

import jax
import jax.numpy as jnp
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.training.optimizers import make_optimizer, make_schedule
from portrait_jax.training.task import OptimizerConfig
from tests.training.toy import toy_stage


def first_update(gradient: float, **settings) -> float:
    """What the first step adds to a parameter of 2."""
    optimizer = make_optimizer(toy_stage(optimizer=OptimizerConfig(**settings)))
    params = {"x": jnp.full(1, 2.0)}
    updates, _ = optimizer.update({"x": jnp.full(1, gradient)}, optimizer.init(params), params)
    return float(updates["x"][0])


def test_the_rate_warms_up_then_falls_to_zero():
    rate = make_schedule(OptimizerConfig(lr=1.0, warmup_steps=10, schedule="cosine"), 110)
    assert 0 < rate(0) < rate(5) < rate(10) == 1.0
    assert rate(60) == pytest.approx(0.5) and rate(110) == pytest.approx(0.0, abs=1e-6)
    short = make_schedule(OptimizerConfig(lr=1.0, warmup_steps=10, schedule="cosine"), 5)
    assert 0 < short(4) < 1, "a trial of fewer steps than the warm-up stays in it"


def test_the_first_step_has_the_length_of_the_rate_and_decay_comes_on_top():
    # Adam divides the first gradient by its own size; AdamW's decay is lr · weight_decay · x.
    assert first_update(0.3, lr=0.01, weight_decay=0.0) == pytest.approx(-0.01, rel=1e-4)
    assert first_update(0.3, lr=0.01, weight_decay=0.5) == pytest.approx(-0.01 - 0.01 * 0.5 * 2, rel=1e-4)


def test_what_is_named_does_not_decay_and_all_else_does():
    config = OptimizerConfig(lr=0.01, weight_decay=0.5, no_decay=(".*/(bias|scale)$",))
    optimizer = make_optimizer(toy_stage(optimizer=config))
    params = {"net": {"kernel": jnp.full(1, 2.0), "bias": jnp.full(1, 2.0), "norm": {"scale": jnp.full(1, 2.0)}}}
    zero = jax.tree.map(jnp.zeros_like, params)
    moved, _ = optimizer.update(zero, optimizer.init(params), params)
    assert float(moved["net"]["kernel"][0]) == pytest.approx(-0.01 * 0.5 * 2)
    assert float(moved["net"]["bias"][0]) == float(moved["net"]["norm"]["scale"][0]) == 0


def test_large_gradients_are_clipped_only_where_it_is_asked_for():
    # eps makes Adam feel sizes near 1e-8 only.
    clipped = first_update(1.0, lr=0.01, weight_decay=0.0, clip_norm=1e-8)
    assert abs(clipped) < 0.006 < abs(first_update(1.0, lr=0.01, weight_decay=0.0))


def test_names_that_do_not_exist_are_named_with_what_there_is():
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        make_schedule(OptimizerConfig(schedule="cosin"), 10)
    with pytest.raises(ConfigError, match="optimizer 'lion' is not known; known are: adamw"):
        make_optimizer(toy_stage(optimizer=OptimizerConfig(name="lion")))
