"""The ways to convolve agree, in value and in slope, whatever the size; the choice follows size, type and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.nn import convolve as module
from portrait_jax.nn.convolve import IMPLEMENTATIONS, convolve, convolve_video


def drawn(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [(4, 6), (5, 8), (8, 3), (1, 1), (7, 7)], ids=str)
def test_all_ways_give_the_same_at_even_and_odd_sizes(name, size):
    x, kernel = drawn(2, *size, 5), drawn(3, 3, 5, 4, seed=1)
    expected = convolve(x, kernel, implementation="xla")
    np.testing.assert_allclose(convolve(x, kernel, implementation=name), expected, atol=2e-5)


@pytest.mark.parametrize("strip", [4, 24, 48, 1000])
def test_cutting_into_strips_changes_nothing(monkeypatch, strip):
    monkeypatch.setattr(module, "STRIP", strip)
    x, kernel = drawn(2, 12, 6, 3), drawn(3, 3, 3, 4, seed=1)
    expected = convolve(x, kernel, implementation="xla")
    np.testing.assert_allclose(module.winograd(x, kernel), expected, atol=2e-5)


def test_winograd_is_as_exact_as_a_sum_of_products():
    x, kernel = drawn(1, 16, 16, 64), drawn(3, 3, 64, 64, seed=1)
    exact = sum(
        np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))[:, i : i + 16, j : j + 16]
        @ np.asarray(kernel, np.float64)[i, j]
        for i in range(3)
        for j in range(3)
    )
    found = convolve(x, kernel, implementation="winograd")
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < 2e-6


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_slopes_are_those_of_the_ordinary_convolution(name):
    x, kernel, weights = drawn(1, 4, 4, 3), drawn(3, 3, 3, 2, seed=1), drawn(1, 4, 4, 2, seed=2)

    def loss(x, kernel, name):
        return jnp.sum(jnp.sin(convolve(x, kernel, implementation=name)) * weights)

    both = jax.grad(loss, (0, 1))
    for found, expected in zip(both(x, kernel, name), both(x, kernel, "xla")):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(jax.grad(loss)(x, kernel, name), jax.grad(loss)(x, kernel, "xla"), atol=2e-5)
    _, slope = jax.jvp(lambda kernel: loss(x, kernel, name), (kernel,), (jnp.ones_like(kernel),))
    _, expected = jax.jvp(lambda kernel: loss(x, kernel, "xla"), (kernel,), (jnp.ones_like(kernel),))
    np.testing.assert_allclose(slope, expected, atol=2e-4)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"stride": 2, "padding": ((0, 1), (0, 1))}], ids=str)
@pytest.mark.parametrize("at_once", [1, 100, 100_000])
def test_the_slope_of_the_kernel_gathers_part_by_part(monkeypatch, options, at_once):
    monkeypatch.setattr(module, "GATHERED", at_once)
    monkeypatch.setattr(module, "MANY", 1)
    x, kernel = drawn(6, 8, 6, 16), drawn(3, 3, 16, 17, seed=1)

    def loss(x, kernel, name):
        return jnp.sum(jnp.sin(convolve(x, kernel, implementation=name, **options)))

    both = jax.grad(loss, (0, 1))
    for found, expected in zip(both(x, kernel, "auto"), both(x, kernel, "xla")):
        np.testing.assert_allclose(found, expected, atol=2e-4)
    jaxpr = str(jax.make_jaxpr(jax.grad(loss, 1), static_argnums=2)(x, kernel, "auto"))
    assert jaxpr.count("conv_general_dilated[") == 1 and "dot_general" in jaxpr


def test_a_frozen_kernel_costs_no_slope():
    """The backward pass with respect to the input alone holds one convolution, not two."""
    x, kernel = drawn(1, 4, 4, 3), drawn(3, 3, 3, 2, seed=1)
    slope = jax.make_jaxpr(jax.grad(lambda x: convolve(x, kernel, implementation="winograd").sum()))(x)
    assert str(slope).count("conv_general_dilated[") == 1


@pytest.mark.parametrize(
    ("shape", "channels", "options", "expected"),
    [
        ((1, 32, 32, 128), 128, {}, "winograd"),
        ((2, 16, 32, 128), 256, {}, "winograd"),
        ((1, 16, 32, 128), 128, {}, "gathered"),
        ((1, 32, 32, 4), 128, {}, "xla"),
        ((1, 32, 32, 128), 4, {}, "xla"),
        ((1, 32, 32, 128), 128, {"stride": 2}, "xla"),
        ((1, 32, 32, 128), 128, {"padding": ((0, 1), (0, 1))}, "xla"),
        ((1, 32, 32, 128), 128, {"dtype": jnp.bfloat16}, "xla"),
    ],
)
def test_a_processor_chooses_by_size_and_type(shape, channels, options, expected):
    dtype, arguments = options.pop("dtype", jnp.float32), {"stride": 1, "padding": module.SAME} | options
    x, kernel = jnp.zeros(shape, dtype), jnp.zeros((3, 3, shape[-1], channels), dtype)
    assert module._choose(x, kernel, *arguments.values()) == expected


def test_an_accelerator_always_takes_xla(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel = jnp.zeros((1, 32, 32, 128)), jnp.zeros((3, 3, 128, 128))
    assert module._choose(x, kernel, 1, module.SAME) == "xla"


def test_an_unknown_implementation_is_an_error():
    with pytest.raises(ConfigError, match="'winigrad' does not exist; known are: auto, xla, winograd, gathered"):
        convolve(jnp.zeros((1, 2, 2, 1)), jnp.zeros((3, 3, 1, 1)), implementation="winigrad")


@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": ((0, 1), (0, 1))}], ids=["stride", "padding"])
def test_a_short_cut_refuses_what_it_cannot_do(options):
    with pytest.raises(ConfigError, match="convolution 'winograd' has stride 1"):
        convolve(jnp.zeros((1, 2, 2, 1)), jnp.zeros((3, 3, 1, 1)), implementation="winograd", **options)


@pytest.mark.parametrize("name", ["xla", *IMPLEMENTATIONS])
def test_of_videos_both_ways_give_the_same_values_and_slopes(monkeypatch, name):
    """Three neighbouring frames' channels side by side, as on a processor, and XLA's convolution over three axes."""
    monkeypatch.setattr(module, "_choose", lambda *args: name)
    x, kernel = drawn(2, 5, 6, 4, 3), drawn(3, 3, 3, 3, 2, seed=1)

    def run():
        return jax.value_and_grad(lambda x, kernel: jnp.sum(jnp.sin(convolve_video(x, kernel))), (0, 1))(x, kernel)

    assert convolve_video(x, kernel).shape == (2, 3, 6, 4, 2)
    found = run()
    monkeypatch.setattr(module, "_on_processor", lambda x: False)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(run())):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)
