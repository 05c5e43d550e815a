"""The transformer over text and video on a mesh: what it predicts, and what its devices hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.compiling import hlo
from portrait_jax.backbones.cogvideox import CogVideoX, CogVideoXConfig, position_rows
from portrait_jax.conditioning import Conditioning
from portrait_jax.nn import attention as layer
from portrait_jax.sharding import attention as sharded
from portrait_jax.sharding.mesh import batch_sharding, make_mesh
from portrait_jax.sharding.rules import shardings
from tests.weights import random_params

CONFIG = CogVideoXConfig(
    layers=2, heads=4, head_dim=16, in_channels=4, out_channels=2, text_dim=8, text_tokens=6, time_dim=16, mlp=2,
    grid=(3, 4, 6), remat="full",
)  # fmt: skip
MEMORY = 5


def given():
    """Noisy latents, noise levels, and a text with a memory that makes keys of an odd number."""
    rng = np.random.default_rng(0)
    x, text = rng.normal(size=(2, 3, 8, 12, 4)), rng.normal(size=(2, 6, 8))
    memory = tuple(jnp.asarray(rng.normal(size=(2, 2, MEMORY, 4, 16)), jnp.float32) for _ in range(2))
    conditioning = Conditioning(text=jnp.asarray(text, jnp.float32), memory=memory)
    return jnp.asarray(x, jnp.float32), jnp.array([5, 900]), conditioning


def test_learned_positions_are_rows_of_the_table_and_of_other_sizes_lie_between_them():
    """Each row of the table is where its token is: text, then frame, row and column from 0 to 1 within the picture."""
    trained, text = (3, 4, 6), 2
    f, h, w = np.meshgrid(np.arange(3), (np.arange(4) + 0.5) / 4, (np.arange(6) + 0.5) / 6, indexing="ij")
    places = np.stack([f, h, w], axis=-1).reshape(-1, 3)
    table = jnp.asarray(np.concatenate([-np.ones((text, 3)), places]), jnp.float32)[None]
    np.testing.assert_array_equal(position_rows(table, text, trained, trained), table)
    np.testing.assert_array_equal(position_rows(table, text, (2, 4, 6), trained), table[:, : text + 2 * 24])
    found = np.asarray(position_rows(table, text, (2, 8, 12), trained))
    np.testing.assert_array_equal(found[0, :text], table[0, :text])
    video = found[0, text:].reshape(2, 8, 12, 3)
    np.testing.assert_allclose(video[1, 1:-1, 0, 1], (np.arange(1, 7) + 0.5) / 8, atol=1e-6)
    np.testing.assert_allclose(video[0, 0, 1:-1, 2], (np.arange(1, 11) + 0.5) / 12, atol=1e-6)
    np.testing.assert_allclose(video[..., 0], np.arange(2)[:, None, None] * np.ones((2, 8, 12)), atol=1e-6)
    longer = position_rows(table, text, (6, 4, 6), trained).reshape(-1, 3)[text:].reshape(6, 24, 3)
    np.testing.assert_allclose(longer[1:-1, 0, 0], (np.arange(1, 5) + 0.5) / 2 - 0.5, atol=1e-6)


@pytest.mark.parametrize("differentiated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tokens_apart_give_the_prediction_and_gradients_of_one_device(differentiated, monkeypatch):
    """Over items, heads and tokens at once; and nothing on a device is as large as all scores of one of its heads."""
    model, (x, timestep, conditioning) = CogVideoX(CONFIG), given()
    params = random_params(model, x, timestep, conditioning)

    step = jax.grad(lambda *x: jnp.sum(jnp.sin(model.apply(*x)))) if differentiated else model.apply
    expected = jax.jit(step)(params, x, timestep, conditioning)
    monkeypatch.setattr(layer, "LONG", 1)
    monkeypatch.setattr(sharded, "FEW_KEYS", 8)
    mesh = make_mesh(data=2, tensor=2, sequence=2)
    with jax.set_mesh(mesh):
        places = shardings(jax.eval_shape(lambda: params), mesh)
        placed = jax.device_put(params, places), jax.device_put(x, batch_sharding(mesh))
        compiled = jax.jit(step).lower(*placed, timestep, conditioning).compile()
        found = compiled(*placed, timestep, conditioning)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(jnp.abs(theirs).max()))
    times = 3 if differentiated else 1  # a remat'd forward pass and the backward one
    assert hlo.collectives(compiled.as_text())["all-to-all"]["count"] >= 4 * CONFIG.layers * times


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(4, 16, 24), (3, 18, 29)])
def test_a_device_holds_neither_all_scores_nor_all_tokens(grid):
    """Of 1536 tokens of video, and of 1566, which four devices do not divide: what the backward pass keeps is split as well."""
    config = CogVideoXConfig(
        layers=2, heads=4, head_dim=16, in_channels=4, out_channels=2, text_dim=8, text_tokens=32, time_dim=16, mlp=2,
        grid=grid, remat="full",
    )  # fmt: skip
    model, mesh = CogVideoX(config), make_mesh(data=1, tensor=2, sequence=4)
    tokens = config.text_tokens + int(np.prod(config.grid))
    x, text = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, grid[0], 2 * grid[1], 2 * grid[2], 4), (1, 32, 8))
    )
    timestep = jax.ShapeDtypeStruct((1,), jnp.float32)

    def predict(params, x, timestep, text):
        return model.apply(params, x, timestep, Conditioning(text=text))

    tree = jax.eval_shape(lambda *x: model.init(jax.random.key(0), *x[:2], Conditioning(text=x[2])), x, timestep, text)
    params = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, shardings(tree, mesh)
    )
    with jax.set_mesh(mesh):
        step = jax.grad(lambda *x: jnp.sum(jnp.sin(predict(*x))))
        text = jax.jit(step).lower(params, x, timestep, text).compile().as_text()
    assert "all-to-all" in text and hlo.largest(text)[0]["bytes"] < tokens * tokens * 4
    assert f"f32[{config.layers},1,{tokens - config.text_tokens},{config.width}]" not in text
