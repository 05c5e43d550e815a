"""HunyuanPortrait from portrait to video equals the original's sampler, with small networks.

The system runs as it is configured; the identity vector and motion tokens are given, as in the original's run.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from portrait_jax.conditioning import Conditioning
from portrait_jax.systems.hunyuan_portrait import HunyuanPortrait
from portrait_jax.systems.hunyuan_settings import PortraitConfig
from portrait_jax.systems.system import SamplingConfig
from tests.golden import assert_close, channels_last
from tests.systems.hunyuan_portrait.made import system
from tests.systems.hunyuan_portrait.original import (
    autoencoder_config,
    case,
    encoder_configs,
    guider_config,
    recipe_of,
    unet_config,
)

GOLDEN = case("pipeline")
NAMES = {
    "denoiser": "unet",
    "image_encoder": "image_encoder",
    "image_projection": "image_proj(whole class, names linear.weight/linear.bias)",
    "guider": "pose_guider",
    "autoencoder": "vae",
}
"""Sub-network → its name among the seeds."""


@functools.cache
def made() -> HunyuanPortrait:
    config, call = GOLDEN.config, GOLDEN.config["call"]
    encoder, identity = encoder_configs(config["vit"])
    for first, last in (("min_guidance_scale1", "max_guidance_scale1"), ("min_guidance_scale2", "max_guidance_scale2")):
        assert call[first] == call[last], "guidance that changes from step to step is not built"
    assert call["i2i_noise_strength"] == 1
    return system(
        encoder.hidden,
        autoencoder_config=autoencoder_config(config["vae"]),
        denoiser_config=unet_config(config["unet"]),
        image_encoder_config=encoder,
        identity_config=identity,
        guider_config=guider_config(config["pose_guider"]),
        portrait=PortraitConfig(
            image_tokens=config["n_queries"],
            encoder_size=config["vit_input"],
            motion_scale=config["ip_scale"],
            fps=call["fps"],
            bucket=float(call["motion_bucket_id"]),
            noise=call["noise_aug_strength"],
        ),
        sampling=SamplingConfig(
            solver="euler",
            steps=call["num_inference_steps"],
            portrait_guidance=call["min_guidance_scale1"],
            guidance=call["min_guidance_scale2"],
            window=call["frames_per_batch"],
            overlap=call["overlap"],
            shift=call["shift_offset"],
            decode_chunk=call["decode_chunk_size"],
        ),
        image_size=call["height"],
    )


@functools.cache
def params() -> dict:
    seeds, one = GOLDEN.settings["weights"]["recipe_seeds"], made()
    latent, image = jnp.zeros((1, 1, *one.latent_shape())), jnp.zeros((1, one.image_size, one.image_size, 3))
    motion = Conditioning(motion=jnp.asarray(GOLDEN.inputs["motion"])[:, :1])
    inputs = {
        "denoiser": (one.denoiser, latent, jnp.zeros(1), motion),
        "image_encoder": (
            one.networks["image_encoder"], channels_last(GOLDEN.inputs["transformed_image"]),
            jnp.asarray(GOLDEN.inputs["arcface"])[:, None],
        ),
        "image_projection": (nn.Dense(one.portrait.image_tokens), jnp.zeros((1, GOLDEN.config["n_img_tokens"]))),
        "guider": (one.networks["guider"], image[:, None]),
        "autoencoder": (one.autoencoder, image),
    }  # fmt: skip
    return {
        name: recipe_of(name, module, seeds[NAMES[name]], *args)["params"] for name, (module, *args) in inputs.items()
    }


@pytest.fixture(scope="module")
def portrait():
    image, pixels = (channels_last(GOLDEN.inputs[name]) for name in ("ref_img", "transformed_image"))
    return jax.jit(made().describe)(params(), image, pixels, jnp.asarray(GOLDEN.inputs["arcface"]))


@pytest.fixture(scope="module")
def spatial():
    poses = channels_last(GOLDEN.inputs["pose_images"])
    return jax.jit(lambda *args: made().pose_features(*args, *poses.shape[:2]))(params(), poses)


def test_tokens_latents_and_pose_features_match_golden(portrait, spatial):
    assert_close(portrait.image_tokens, GOLDEN.outputs["image_tokens"])
    assert_close(portrait.portrait, channels_last(GOLDEN.outputs["ref_latent_unscaled"]))
    assert_close(spatial[:, :1], jnp.moveaxis(GOLDEN.outputs["pose_feature_frame0"], 2, -1))


def test_latents_of_the_whole_ring_and_decoded_frames_match_golden(portrait, spatial):
    one, motion = made(), jnp.asarray(GOLDEN.inputs["motion"])
    assert not GOLDEN.inputs["uncond_motion"].any()
    branches = one.branches(portrait, motion, spatial)
    noise = jnp.moveaxis(GOLDEN.inputs["noise"], 2, -1)
    latents = one.sample_from(params(), branches, noise)
    expected = jnp.moveaxis(GOLDEN.outputs["latents"], 2, -1)
    assert_close(latents, expected)
    frames = jax.jit(one.decode)(params(), expected)
    assert_close(frames, channels_last(GOLDEN.outputs["frames"]))
