"""The UNet as a whole: sizes, two dimensions against frames, reference capture and reading, slots, precision."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from portrait_jax.backbones.unet import UNet, UNetConfig, attention_paths
from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.nn.slots import Slot
from portrait_jax.nn.temporal import TemporalConfig
from tests.weights import random_params, shapes, tree_of

SMALL = UNetConfig(
    block_out_channels=(8, 16),
    layers_per_block=1,
    attention_levels=(False, True),
    num_heads=2,
    context_dim=6,
    norm_groups=4,
    image_prompt_dim=5,
)
TEMPORAL = TemporalConfig(num_heads=2, max_length=4, norm_groups=4)
VIDEO = replace(SMALL, temporal=TEMPORAL)
TINY = replace(SMALL, block_out_channels=(8,), attention_levels=(True,))
REFERENCE = replace(SMALL, output_head=False)


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def tree(config: UNetConfig, channels: int = 4, size: int = 8):
    return tree_of(UNet(config), jnp.zeros((1, 1, size, size, channels)), jnp.zeros(1), capture=True)


def filled(config: UNetConfig, slots: tuple[Slot, ...] = (), conditioning: Conditioning | None = None, seed: int = 0):
    """Random variables for two clips."""
    args = (jnp.zeros((2, 1, 8, 8, 4)), jnp.zeros(2), conditioning)
    return random_params(UNet(config, slots), *args, capture=True, seed=seed)


def tree_of_variables(config: UNetConfig):
    """Shapes of all variables."""
    return jax.eval_shape(UNet(config).init, jax.random.key(0), jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1))


def noise(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope="module")
def clip():
    """Two clips of three frames with every field of the conditioning."""
    tokens = noise((2, 3, 5), 1)
    params = filled(REFERENCE, seed=1)
    run = jax.jit(lambda *args: UNet(REFERENCE).apply(*args, capture=True)[1])
    captured = run(params, noise((2, 1, 8, 8, 4), 2), jnp.zeros(2), Conditioning(image_tokens=tokens))
    return Conditioning(
        image_tokens=tokens,
        reference={path: value[:, 0] for path, value in captured.items()},
        reference_mask=jnp.ones(2),
        spatial=noise((2, 3, 8, 8, 8), 3),
    )


@pytest.fixture(scope="module")
def denoise():
    """The jitted video UNet with its variables bound: one program for all tests of this file."""
    params = filled(VIDEO)
    run = jax.jit(lambda x, c: UNet(VIDEO).apply(params, x, jnp.array([3, 700]), c))
    return params, run


X = (2, 3, 8, 8, 4)


def test_full_size_is_stable_diffusion_1_5():
    shapes = tree(UNetConfig(), size=64)
    assert count(shapes) == 859_520_964


def test_gradients_are_finite_and_reach_every_parameter(clip):
    module, params = UNet(VIDEO), filled(VIDEO)

    @jax.jit
    def gradients(params):
        return jax.grad(lambda p: jnp.mean(module.apply(p, noise(X), jnp.array([3, 700]), clip) ** 2))(params)

    grads = gradients(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))
    silent = [jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(grads) if not leaf.any()]
    assert not silent


def test_gradient_checkpointing_keeps_little_of_motion_modules_too():
    """From shapes: what one more motion module per layer adds to what the backward pass keeps."""

    def kept(config):
        def pullback(p, x):
            return jax.vjp(lambda p: jnp.mean(UNet(config).apply(p, x, jnp.zeros(1)) ** 2), p)[1]

        shapes = jax.eval_shape(pullback, tree_of_variables(config), jax.ShapeDtypeStruct((1, 4, 8, 8, 4), jnp.float32))
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))

    def of_motion(**changes):
        config = replace(TINY, **changes)
        return kept(replace(config, temporal=TEMPORAL)) - kept(config)

    assert of_motion(gradient_checkpointing=True) < 0.25 * of_motion()


@pytest.mark.slow
@pytest.mark.parametrize("temporal", [None, TEMPORAL], ids=["pictures", "video"])
def test_gradient_checkpointing_changes_no_gradient(temporal):
    plain = replace(TINY, temporal=temporal)
    params, x = filled(plain), noise((2, 3 if temporal else 1, 4, 4, 4))

    def gradients(config):
        return jax.jit(jax.grad(lambda p: jnp.mean(UNet(config).apply(p, x, jnp.array([3, 700])) ** 2)))(params)

    kept, recomputed = gradients(plain), gradients(replace(plain, gradient_checkpointing=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * float(np.abs(b).max())), recomputed, kept)


def test_reference_net_captures_exactly_what_the_denoiser_reads(clip):
    denoiser_features = jax.eval_shape(
        lambda p: UNet(VIDEO).apply(p, jnp.zeros(X), jnp.zeros(2), clip, capture=True)[1], filled(VIDEO)
    )
    assert list(clip.reference) == list(attention_paths(SMALL))
    assert {path: leaf.shape[2:] for path, leaf in denoiser_features.items()} == {
        path: leaf.shape[1:] for path, leaf in clip.reference.items()
    }


def test_reference_net_has_no_parameters_behind_its_last_norm():
    paths = shapes(tree(REFERENCE))
    last = "up_blocks_0/attentions_1/"
    assert {path.removeprefix(last) for path in paths if path.startswith(last)} == {
        "norm/scale", "norm/bias", "proj_in/kernel", "proj_in/bias",
        "transformer_blocks_0/norm1/scale", "transformer_blocks_0/norm1/bias",
    }  # fmt: skip
    assert not any(
        path.startswith(("up_blocks_1", "conv_out", "conv_norm_out", "up_blocks_0/upsamplers")) for path in paths
    )


def test_masked_reference_equals_no_reference_and_the_rest_of_the_batch_keeps_it(clip, denoise):
    _, run = denoise
    x = noise(X)
    with_reference = run(x, clip)
    without = run(x, clip.replace(reference=None))
    mixed = run(x, clip.replace(reference_mask=jnp.array([0.0, 1.0])))
    assert np.abs(with_reference - without).max() > 1e-2
    np.testing.assert_allclose(mixed[0], without[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], with_reference[1], atol=1e-5)


def test_missing_image_tokens_equal_zero_tokens_of_any_number():
    params, x = filled(TINY), noise((2, 1, 4, 4, 4))
    run = jax.jit(lambda tokens: UNet(TINY).apply(params, x, jnp.zeros(2), Conditioning(image_tokens=tokens)))
    np.testing.assert_allclose(run(None), run(jnp.zeros((2, 3, 5))), atol=1e-5)


def test_without_temporal_modules_every_frame_is_alone(clip, denoise):
    params, run = denoise
    x = noise(X)
    still = jax.jit(lambda x, c: UNet(VIDEO).apply(params, x, jnp.array([3, 700]), c, use_temporal=False))
    video = still(x, clip)
    image = jax.jit(lambda x, c: UNet(SMALL).apply(params, x, jnp.array([3, 700]), c))(x[:, 1:2], clip.window(1, 1))
    np.testing.assert_allclose(video[:, 1:2], image, atol=1e-5)
    assert np.abs(run(x, clip) - video).max() > 1e-2


def test_bfloat16_compute_keeps_float32_parameters_and_follows_float32(clip, denoise):
    params, run = denoise
    half = jax.jit(lambda x, c: UNet(VIDEO, dtype=jnp.bfloat16).apply(params, x, jnp.array([3, 700]), c))
    exact, rough = run(noise(X), clip), half(noise(X), clip)
    assert rough.dtype == jnp.float32
    assert np.abs(rough - exact).mean() < 0.1 * np.abs(exact).mean()
    hidden = jax.eval_shape(
        lambda p: UNet(VIDEO, dtype=jnp.bfloat16).apply(p, jnp.zeros(X), jnp.zeros(2), clip, capture=True)[1], params
    )
    assert all(leaf.dtype == jnp.bfloat16 for leaf in hidden.values())


def test_odd_sizes_and_three_levels_run():
    config = replace(SMALL, block_out_channels=(8, 8, 8), attention_levels=(True, False, True))
    out = jax.eval_shape(
        lambda rng: UNet(config).init_with_output(rng, jnp.zeros((1, 1, 7, 5, 4)), jnp.zeros(1)), jax.random.key(0)
    )[0]
    assert out.shape == (1, 1, 7, 5, 4)


class Shift(nn.Module):
    """Adds a constant times the mean of a conditioning field: a minimal adapter."""

    amount: float

    @nn.compact
    def __call__(self, x, value):
        assert value.ndim == 4 and x.shape[:2] == value.shape[:2]
        gain = self.param("gain", nn.initializers.ones, (x.shape[-1],))
        return x + self.amount * gain * value.mean()


def shift_slot(where: str, levels: tuple[int, ...] | None = None) -> Slot:
    return Slot(where, "shift", lambda site, dtype, name: Shift(0.1, name=name), field="motion", levels=levels)


@pytest.mark.parametrize(
    ("where", "levels", "expected"),
    [
        ("after_conv_in", None, {"shift_0"}),
        ("after_attn1", (1,), {f"{b}/attentions_{i}/transformer_blocks_0/shift" for b, i in (
            ("down_blocks_1", 0), ("mid_block", 0), ("up_blocks_0", 0), ("up_blocks_0", 1))}),
        ("after_layer", (0,), {"down_blocks_0/shift_0", "mid_block/shift_0", "up_blocks_1/shift_0", "up_blocks_1/shift_1"}),
        ("after_level", None, {"down_blocks_0/shift_0", "down_blocks_1/shift_0"}),
        ("after_encoder", None, {"shift_0", "shift_1", "shift_2", "shift_3"}),
        ("after_mid", None, {"shift_0"}),
    ],
)  # fmt: skip
def test_slot_sits_where_it_says_and_at_its_levels(where, levels, expected):
    conditioning = Conditioning(motion=jnp.ones((2, 1, 3, 4)))
    paths = shapes(filled(SMALL, (shift_slot(where, levels),), conditioning)["params"])
    assert {path.removesuffix("/gain") for path in paths if path.endswith("gain")} == expected


@pytest.mark.parametrize("where", ["after_attn2", "after_encoder"])
def test_slot_acts_on_its_field_and_is_passed_over_without_it(where):
    module, conditioning = UNet(TINY, (shift_slot(where),)), Conditioning(motion=jnp.ones((2, 1, 3, 4)))
    params = filled(TINY, module.slots, conditioning)
    run = jax.jit(lambda c: module.apply(params, noise((2, 1, 4, 4, 4)), jnp.zeros(2), c))
    plain, shifted = run(Conditioning()), run(conditioning)
    assert np.abs(shifted - plain).max() > 1e-3
    np.testing.assert_allclose(run(conditioning.replace(motion=0 * conditioning.motion)), plain, atol=1e-5)


def test_mistakes_name_the_remedy():
    key = jax.random.key(0)
    with pytest.raises(ConfigError, match="capture=True"):
        UNet(REFERENCE).init(key, jnp.zeros(X), jnp.zeros(2))
    with pytest.raises(ConfigError, match="one entry per level"):
        UNetConfig(attention_levels=(True,))
    with pytest.raises(ConfigError, match="did you mean 'after_layer'"):
        Slot("after_layers", "x", Shift)
    with pytest.raises(ShapeError, match="image_prompt_dim"):
        config = replace(SMALL, image_prompt_dim=None)
        UNet(config).init(key, jnp.zeros(X), jnp.zeros(2), Conditioning(image_tokens=jnp.zeros((2, 3, 5))))
    with pytest.raises(ConfigError, match="3 norm groups do not divide 8 channels"):
        UNet(replace(SMALL, norm_groups=3)).init(key, jnp.zeros(X), jnp.zeros(2))


# Inputs joined to the noisy latents


def test_joined_inputs_widen_the_first_convolution_only():
    plain, joined = (dict(shapes(tree(config))) for config in (SMALL, replace(SMALL, joined_inputs=("known", "given"))))
    changed = {name for name in plain if plain[name] != joined[name]}
    assert plain.keys() == joined.keys() and len(changed) == 1
    (name,) = changed
    assert name.endswith("conv_in/kernel") and (plain[name][2], joined[name][2]) == (4, 9)
    assert replace(SMALL, joined_inputs=("known",)).joined_channels == 4


def test_joined_inputs_come_after_the_latents_and_absent_ones_are_zeros():
    config = replace(TINY, joined_inputs=("known", "given"))
    params = filled(config)
    x, frames = noise((2, 3, 8, 8, 4), 1), jnp.zeros((2, 3))
    run = jax.jit(lambda params, told: UNet(config).apply(params, x, jnp.zeros(2), told))
    nothing = Conditioning(known=0 * x, given=frames)
    told = Conditioning(known=noise(x.shape, 2), given=frames.at[0, 1].set(1))
    without = run(params, nothing)
    np.testing.assert_allclose(run(params, Conditioning()), without, atol=1e-6)

    def deaf(*channels: int):
        """The same network, whose first convolution passes over some channels."""
        changed = jax.tree.map(lambda leaf: leaf, params)
        kernel = params["params"]["conv_in"]["kernel"]
        changed["params"]["conv_in"]["kernel"] = kernel.at[:, :, jnp.array(channels)].set(0)
        return changed

    np.testing.assert_allclose(run(deaf(4, 5, 6, 7, 8), told), without, atol=1e-5)
    moved = np.abs(run(deaf(4, 5, 6, 7), told) - without).max(axis=(2, 3, 4)) > 1e-4
    assert moved.tolist() == [[False, True, False], [False] * 3], "the mask reaches its own frame"
    assert np.abs(run(deaf(8), told) - without).max(axis=(2, 3, 4)).min() > 1e-4


def test_the_portrait_is_the_same_input_for_every_frame():
    config = replace(TINY, joined_inputs=("portrait",))
    params, x, portrait = filled(config), noise((2, 3, 8, 8, 4), 1), noise((2, 8, 8, 4), 2)
    run = jax.jit(lambda told: UNet(config).apply(params, x, jnp.zeros(2), told))
    known = replace(TINY, joined_inputs=("known",))
    repeated = jnp.repeat(portrait[:, None], 3, axis=1)
    expected = jax.jit(lambda told: UNet(known).apply(params, x, jnp.zeros(2), told))(Conditioning(known=repeated))
    np.testing.assert_allclose(run(Conditioning(portrait=portrait)), expected, atol=1e-6)
    assert np.abs(run(Conditioning()) - expected).max() > 1e-3


def test_an_input_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="cannot read 'knwon'; did you mean 'known'"):
        replace(SMALL, joined_inputs=("knwon",))
