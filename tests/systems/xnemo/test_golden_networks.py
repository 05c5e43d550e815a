"""Every network of X-NeMo equals the original's, at the size and with the weights of the golden folder.

The weights come in through the published layout's key maps: they are tested with the networks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.latent_motion import LatentMotionAttention, latent_motion_slot
from portrait_jax.autoencoders import AutoencoderKLTemporalDecoder, KLConfig
from portrait_jax.backbones.unet import UNet, attention_paths
from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.embeddings import position_table
from portrait_jax.nn.temporal import TemporalTransformer
from tests.golden import assert_close, channels_last, within
from tests.systems.xnemo.original import (
    autoencoder_variables,
    case,
    motion_config,
    parts,
    recipe,
    reference_part,
    stored,
    temporal_config,
    unet_config,
)
from tests.weights import imported, tree_of


def test_motion_attention_matches_golden():
    golden = case("motion_module")
    given = within(golden.tensors, "cross")
    x, tokens = channels_last(given["in/x"]), given["in/tokens"]
    module = LatentMotionAttention(motion_config(golden.settings["cross"]))
    place = "down_blocks_0/motion_modules_0"
    params = imported(tree_of(module, x, tokens), golden.weights("cross"), parts("denoiser")[0], at=place)
    assert_close(jax.jit(module.apply)(params, x, tokens), channels_last(given["out"]))


def test_temporal_module_matches_golden():
    golden = case("motion_module")
    given = within(golden.tensors, "temporal")
    x, module = channels_last(given["in/x"]), TemporalTransformer(temporal_config(golden.settings["temporal"]))
    place = "down_blocks_0/temporal_modules_0"
    params = imported(tree_of(module, x), golden.weights("temporal"), parts("denoiser")[1], at=place)
    assert_close(jax.jit(module.apply)(params, x), channels_last(given["out"]))
    for buffer in within(given, "buffer").values():
        np.testing.assert_allclose(position_table(*buffer.shape[1:])[None], buffer, atol=1e-5)


def denoiser(golden):
    """The denoising UNet and its variables."""
    original = golden.settings["denoising_config"]
    config = unet_config(original, denoises=True)
    module = UNet(config, (latent_motion_slot(motion_config(original["motion_module_kwargs"])),))
    x, motion = channels_last(golden.inputs["sample"]), golden.inputs["motion"]
    tree = tree_of(module, x, jnp.zeros(1), Conditioning(motion=jnp.asarray(motion)))
    of = parts("denoiser")
    weights = golden.weights("denoising") or recipe(stored(tree, *of), golden.settings["seed_denoising"])
    return module, imported(tree, weights, *of)


def reference(golden):
    """The reference net and its variables."""
    config = unet_config(golden.settings["reference_config"], denoises=False)
    module, part = UNet(config), reference_part(config)
    tree = tree_of(module, reference_latents(golden), jnp.zeros(1), capture=True)
    weights = golden.weights("reference") or recipe(stored(tree, part), golden.settings["seed_reference"])
    return module, imported(tree, weights, part)


def reference_latents(golden):
    """b c h w → b 1 h w c."""
    return channels_last(golden.inputs["ref_latents"])[:, None]


@functools.cache
def captured(name: str) -> dict[str, np.ndarray]:
    """Features that the reference net hands over."""
    golden = case(name)
    module, params = reference(golden)
    conditioning = Conditioning(image_tokens=jnp.asarray(golden.inputs["clip"]))
    timestep = np.full(1, golden.settings.get("reference_timestep", 0))
    run = jax.jit(lambda *args: module.apply(*args, capture=True)[1])
    features = run(params, reference_latents(golden), timestep, conditioning)
    assert sorted(features) == sorted(attention_paths(module.config))
    return {path: np.asarray(value[:, 0]) for path, value in features.items()}


def by_path(bank: dict) -> dict[str, np.ndarray]:
    """Features under this project's paths."""
    names = {name: name.removesuffix(".transformer_blocks.0").split(".") for name in bank}
    return {f"{b}_{i}/{a}_{j}" if b != "mid_block" else f"{b}/{i}_{a}": bank[name]
            for name, (b, i, a, *rest) in names.items() for j in (rest or ["0"])}  # fmt: skip


def test_reference_features_match_golden():
    bank = by_path(within(case("unet_small").outputs, "bank"))
    features = captured("unet_small")
    assert sorted(bank) == sorted(features)
    for path, expected in bank.items():
        assert_close(features[path], expected)


def run_denoiser(name: str, conditioning: Conditioning, use_temporal: bool = True) -> np.ndarray:
    """Predictions of the golden sample, one per item of the conditioning, in the golden's layout."""
    golden = case(name)
    module, params = denoiser(golden)
    count = len(conditioning.image_tokens)
    x = np.concatenate([channels_last(golden.inputs["sample"])] * count)
    time = np.full(count, golden.inputs["timestep"])
    run = jax.jit(functools.partial(module.apply, use_temporal=use_temporal))
    return np.moveaxis(np.asarray(run(params, x, time, conditioning)), -1, 1)


# Deep and uneven: the same code at a longer compilation.
@pytest.mark.parametrize("name", ["unet_small", pytest.param("unet_deep", marks=pytest.mark.slow)])
def test_unet_matches_golden_with_and_without_reference_and_in_both_guidance_branches(name):
    """All cases in one batch, since they differ by their conditioning alone. The unconditional branch has no reference, a
    zero image token and the reference's motion."""
    golden, features = case(name), captured(name)
    clip, motion = golden.inputs["clip"], golden.inputs["motion"]
    still = np.broadcast_to(golden.inputs["neg_motion"][:, None], motion.shape)
    conditioning = Conditioning(
        image_tokens=jnp.concatenate([clip, 0 * clip, clip]),
        motion=jnp.concatenate([motion, still, motion]),
        reference={path: jnp.concatenate([value] * 3) for path, value in features.items()},
        reference_mask=jnp.array([0.0, 0.0, 1.0]),
    )
    out = run_denoiser(name, conditioning)
    assert_close(out[:1], golden.outputs["out_plain"])
    assert_close(out[1:], golden.outputs["out_read_cfg"])
    assert_close(out[2:], golden.outputs["out_read"])


def test_unet_without_motion_and_temporal_modules_matches_golden():
    golden = case("unet_small")
    conditioning = Conditioning(image_tokens=jnp.asarray(golden.inputs["clip"]))
    assert_close(run_denoiser("unet_small", conditioning, use_temporal=False), golden.outputs["out_skip_mm"])


def test_unet_with_masked_reference_tokens_matches_golden():
    golden = case("unet_small")
    kept = by_path(within(golden.outputs, "bank_masked30"))
    clip, motion = (jnp.asarray(golden.inputs[name]) for name in ("clip", "motion"))
    reference = {path: jnp.asarray(value) for path, value in kept.items()}
    conditioning = Conditioning(image_tokens=clip, motion=motion, reference=reference)
    assert_close(run_denoiser("unet_small", conditioning), golden.outputs["out_read_masked30"])


def test_temporal_autoencoder_matches_golden():
    golden = case("vae_temporal")
    original = golden.config
    module = AutoencoderKLTemporalDecoder(
        KLConfig(tuple(original["block_out_channels"]), original["layers_per_block"], original["latent_channels"])
    )
    image, latents = channels_last(golden.inputs["image"]), channels_last(golden.inputs["latents"])
    params = autoencoder_variables(module, image, golden.settings["seed"])
    mean, _ = jax.jit(lambda x: module.apply(params, x, method="encode"))(image)
    assert_close(mean, channels_last(golden.outputs["latent_mean"]))
    clips = latents.reshape(-1, golden.settings["num_frames"], *latents.shape[1:])
    frames = jax.jit(lambda z: module.apply(params, z, method="decode"))(clips)
    assert_close(frames.reshape(-1, *frames.shape[2:]), channels_last(golden.outputs["frames"]))
