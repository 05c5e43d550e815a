"""X-NeMo from portrait to video equals the original's pipeline, with small networks.

The system runs as it is configured; motion tokens are given, as in the original's run.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.autoencoders import KLConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import classifier_free
from portrait_jax.diffusion.sampler import first_state
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.encoders.clip_vision import CLIPVisionConfig
from portrait_jax.encoders.fan import FANConfig
from portrait_jax.long_video.joint import averaged, conditioned_predict, denoise_group
from portrait_jax.long_video.tiles import shifted_tiles
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.systems.xnemo import LossConfig, XNemo
from tests.golden import assert_close, channels_last, within
from tests.systems.xnemo.original import (
    autoencoder_variables,
    case,
    motion_config,
    parts,
    recipe,
    reference_part,
    unet_config,
)
from tests.weights import imported, tree_of

GOLDEN = case("pipeline")


@functools.cache
def system() -> XNemo:
    settings, unets = GOLDEN.settings, case("unet_small").settings
    vae, clip, scheduler = (settings[name] for name in ("vae_config", "clip_config", "scheduler"))
    denoising = unets["denoising_config"]
    return XNemo(
        autoencoder_config=KLConfig(tuple(vae["block_out_channels"]), vae["layers_per_block"], vae["latent_channels"]),
        denoiser_config=unet_config(denoising, denoises=True),
        motion_config=motion_config(denoising["motion_module_kwargs"]),
        motion_encoder_config=FANConfig(),
        image_encoder_config=CLIPVisionConfig(
            hidden=clip["hidden_size"],
            layers=clip["num_hidden_layers"],
            heads=clip["num_attention_heads"],
            mlp=clip["intermediate_size"],
            patch=clip["patch_size"],
            image_size=clip["image_size"],
            projection=clip["projection_dim"],
            activation=clip["hidden_act"],
        ),
        schedule=make_schedule(
            scheduler["beta_schedule"], beta_start=scheduler["beta_start"], beta_end=scheduler["beta_end"]
        ),
        loss_config=LossConfig(),
        sampling=SamplingConfig(spacing="leading", offset=scheduler["steps_offset"], previous="stride"),
        stages={},
        image_size=GOLDEN.inputs["ref_image_uint8"].shape[0],
        dtype=jnp.float32,
    )


@functools.cache
def params() -> dict:
    made, unets = system(), case("unet_small")
    side = made.image_encoder_config.image_size
    image = np.zeros((1, made.image_size, made.image_size, 3), np.float32)
    x, time, motion = jnp.zeros((1, 1, *made.latent_shape())), jnp.zeros(1), GOLDEN.tensors["run0/in/motion_tokens"]
    told = Conditioning(motion=jnp.asarray(motion[:, :1]))
    trees = {
        "denoiser": tree_of(made.denoiser, x, time, told),
        "reference": tree_of(made.reference, x, time, capture=True),
        "image_encoder": tree_of(made.image_encoder, np.zeros((1, side, side, 3), np.float32)),
    }
    (clip,) = parts("image_encoder")
    found = {
        "denoiser": imported(trees["denoiser"], unets.weights("denoising"), *parts("denoiser")),
        "reference": imported(trees["reference"], unets.weights("reference"), reference_part(made.reference.config)),
        "image_encoder": imported(
            trees["image_encoder"], recipe(clip.stored(trees["image_encoder"]), GOLDEN.settings["clip_seed"]), clip
        ),
        "autoencoder": autoencoder_variables(made.autoencoder, image, GOLDEN.settings["vae_seed"]),
    }
    return {name: variables["params"] for name, variables in found.items()}


@functools.cache
def portrait():
    image = jnp.asarray(GOLDEN.inputs["ref_image_uint8"])[None]
    return jax.jit(system().encode_portrait)(params(), image)


def test_pixels_for_the_image_encoder_match_golden():
    image = jnp.asarray(GOLDEN.inputs["ref_image_uint8"], jnp.float32)[None] / 127.5 - 1
    corner = channels_last(GOLDEN.tensors["mid/clip_pixel_corner"])
    pixels = jax.jit(system()._pixels)(image)[:, : corner.shape[1], : corner.shape[2]]
    np.testing.assert_allclose(pixels, corner, atol=1e-5)


def test_image_token_and_blurred_start_match_golden():
    assert_close(portrait().image_tokens, GOLDEN.tensors["mid/clip_embed"])
    for i in range(len(GOLDEN.settings["runs"])):
        expected = GOLDEN.tensors[f"run{i}/mid/blurred_ref_latents"]
        assert_close(portrait().start[:, None], channels_last(expected))


@pytest.mark.parametrize("number", range(3))
def test_every_step_matches_golden(number):
    """Predictions from the recorded latents of the step before, and the latents when all steps run freely."""
    if number >= len(GOLDEN.settings["runs"]):
        pytest.skip("the golden data has fewer runs")
    run, tensors = GOLDEN.settings["runs"][number], within(GOLDEN.tensors, f"run{number}")
    made, frames = system(), run["frames"]
    solver, rule = made.solver(run["steps"]), classifier_free(run["guidance_scale"])
    np.testing.assert_array_equal(solver.timesteps, run["timesteps"])
    tiles = shifted_tiles(
        frames, run["context_frames"], run["context_overlap"], run["offsets"], strides=run["context_stride"]
    )
    for step, expected in enumerate(run["windows_per_step"]):
        np.testing.assert_array_equal(tiles.at(step), expected)
    assert tiles.count == 1
    branches = made.branches(
        portrait(), *(jnp.asarray(tensors[f"in/{name}"]) for name in ("motion_tokens", "ref_motion_tokens"))
    )

    predict = conditioned_predict(made.denoise, params(), branches, solver, rule)
    recorded = first_state(solver, jnp.asarray(channels_last(tensors["in/noise"])), branches, rule)
    for index, free in enumerate(denoise_group(predict, recorded, tiles, 0, solver)):
        epsilon = averaged(predict, recorded, tiles, 0, index)
        expected, latents = (channels_last(tensors[f"out/{name}"][index]) for name in ("guided_eps", "latents"))
        if run["guidance_scale"] <= 1:
            # Without guidance the original forgets to divide sums by the number of windows.
            count = np.bincount(tiles.at(index).ravel(), minlength=frames)
            expected = expected / count[:, None, None, None]
        assert_close(epsilon, expected)
        if run["guidance_scale"] > 1:
            assert_close(free, latents)
        recorded = jnp.asarray(latents)


def test_decoded_frames_match_golden():
    for i, run in enumerate(GOLDEN.settings["runs"]):
        if run["video_frames"]:
            latents = channels_last(GOLDEN.tensors[f"run{i}/out/latents"][-1])
            video = jax.jit(system().decode)(params(), jnp.asarray(latents))
            chosen = np.asarray(video)[:, run["video_frames"]] / 2 + 0.5
            assert_close(np.clip(chosen, 0, 1), channels_last(GOLDEN.tensors[f"run{i}/out/video"]))
