"""Every network of HunyuanPortrait equals the original's, at the size and with the weights of the golden folder.

The weights come in through the published layout's key maps: they are tested with the networks.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from portrait_jax.adapters.decoupled_motion import decoupled_motion_slots
from portrait_jax.adapters.identity import identity_adapter
from portrait_jax.adapters.landmark_guider import LandmarkGuider
from portrait_jax.adapters.motion_memory import MotionMemory
from portrait_jax.autoencoders import AutoencoderKLTemporalDecoder
from portrait_jax.backbones.svd_unet import SVDUNet
from portrait_jax.conditioning import Conditioning
from portrait_jax.encoders.dinov2 import DINOv2, resized_positions
from portrait_jax.encoders.face_motion import EXPRESSION, HEAD_POSE, head_pose
from portrait_jax.encoders.resnet import ResNet
from tests.golden import assert_close, channels_last
from tests.systems.hunyuan_portrait.original import (
    autoencoder_config,
    case,
    encoder_configs,
    guider_config,
    memory_config,
    recipe_of,
    unet_config,
    variables,
    weights_of,
)


def seen(*paths: str):
    """Filter of modules by path: whose outputs are kept."""
    return lambda module, method: "/".join(module.path) in paths


def captured(intermediates: dict, path: str):
    """The output that `seen` kept."""
    for segment in path.split("/"):
        intermediates = intermediates[segment]
    (output,) = intermediates["__call__"]
    return output


# Deep: the same code at a longer compilation.
@pytest.mark.parametrize("name", ["unet_small", pytest.param("unet_four_levels", marks=pytest.mark.slow)])
def test_unet_with_motion_attention_matches_golden(name):
    """The original's sample holds other latents of the portrait in every frame: `known` carries such."""
    golden = case(name)
    config = replace(unet_config(golden.config["unet"]), joined_inputs=("known",))
    sample = np.moveaxis(golden.inputs["sample"], 2, -1)
    clips, frames = sample.shape[:2]

    def framed(tokens: np.ndarray):
        return jnp.asarray(tokens.reshape(clips, frames, *tokens.shape[1:]))

    told = Conditioning(
        image_tokens=framed(golden.inputs["image_tokens"]),
        motion=framed(golden.inputs["motion_tokens"]),
        spatial=jnp.moveaxis(golden.inputs["pose_cond_fea"], 2, -1),
        ids=jnp.asarray(golden.inputs["added_time_ids"]),
        known=jnp.asarray(sample[..., config.in_channels :]),
    )
    module = SVDUNet(config, decoupled_motion_slots(config.num_heads, golden.config["ip_scale"]))
    x, time = jnp.asarray(sample[..., : config.in_channels]), jnp.repeat(golden.inputs["timestep"], clips)
    params = variables("denoiser", module, weights_of(golden), x, time, told)
    middle = {key: key.removeprefix("mid.") for key in golden.outputs if key.startswith("mid.")}
    # A level's output is not a tensor alone here; its layers' are compared in the small network.
    paths = {key: name.replace(".attentions.", "/attentions_").replace(".resnets.", "/resnets_").replace("blocks.", "blocks_")
             for key, name in middle.items() if not name[-3:].startswith("ks.")}  # fmt: skip
    run = jax.jit(lambda *args: module.apply(*args, capture_intermediates=seen(*paths.values())))
    out, kept = run(params, x, time, told)
    assert_close(jnp.moveaxis(out, -1, 2), golden.outputs["sample"])
    assert paths
    for key, path in paths.items():
        output = captured(kept["intermediates"], path)
        output = output[0] if isinstance(output, tuple) else output
        assert_close(jnp.moveaxis(output, -1, 1), golden.outputs[key])


def test_appearance_encoder_matches_golden_with_one_identity_and_several():
    golden = case("appearance_dinov2_imadapter")
    encoder, adapter = encoder_configs(golden.config["vit"])
    module = DINOv2(encoder, identity_adapter(adapter))
    image, identity, several = (golden.inputs[name] for name in ("image", "id_embedding", "id_embedding_multi"))
    image = channels_last(image)
    weights = weights_of(golden)
    params = variables("image_encoder", module, weights, image, identity)
    paths = {key: key.removeprefix("mid.").replace("blocks.", "blocks_").replace(".", "/")
             for key in golden.outputs if key.startswith("mid.")}  # fmt: skip
    run = jax.jit(lambda *args: module.apply(*args, capture_intermediates=seen(*paths.values())))
    tokens, kept = run(params, image, identity)
    assert_close(tokens, golden.outputs["tokens"])
    for key, path in paths.items():
        assert_close(captured(kept["intermediates"], path), golden.outputs[key])
    assert_close(run(params, image, several)[0], golden.outputs["tokens_multi_id"])
    side = golden.config["input"] // encoder.patch
    table = resized_positions(encoder, params["params"]["pos_embed"], side, side)
    assert_close(table, golden.outputs["interpolated_pos_embed"])


@pytest.mark.parametrize("suffix", ["", "_multi_id"])
def test_projection_of_appearance_tokens_matches_golden(suffix):
    golden = case("appearance_dinov2_imadapter")
    tokens, expected = golden.outputs[f"tokens{suffix}"], golden.outputs[f"projected{suffix}"]
    features, module = np.swapaxes(tokens, 1, 2), nn.Dense(expected.shape[1])
    params = recipe_of("image_projection", module, golden.settings["image_proj"]["recipe_seed"], features)
    assert_close(np.swapaxes(jax.jit(module.apply)(params, features), 1, 2), expected)


def test_expression_encoder_matches_golden():
    golden = case("expression")
    module = ResNet(replace(EXPRESSION, out=golden.config["out_feat_dim"]))
    image = channels_last(golden.inputs["image"])
    params = variables("expression", module, weights_of(golden), image)
    last = f"layer4_{EXPRESSION.layers[3] - 1}"
    out, kept = jax.jit(lambda *args: module.apply(*args, capture_intermediates=seen(last)))(params, image)
    assert_close(out, golden.outputs["feature"])
    assert_close(jnp.moveaxis(captured(kept["intermediates"], last), -1, 1), golden.outputs["mid.resnet50.layer4"])


def test_head_pose_encoder_matches_golden():
    golden = case("headpose")
    module, image = ResNet(HEAD_POSE), channels_last(golden.inputs["image"])
    params = variables("head_pose", module, weights_of(golden), image)
    rotation, translation = head_pose(jax.jit(module.apply)(params, image))
    assert_close(rotation, golden.outputs["rotation"])
    assert_close(translation, golden.outputs["translation"])


def test_motion_memory_matches_golden_with_one_feature_per_frame_and_several():
    golden = case("motion_proj")
    module = MotionMemory(memory_config(golden.config["init"]))
    single, several = golden.inputs["features_2d"][None, :, None], golden.inputs["features_4d"]

    def levels(features: np.ndarray):
        return (jnp.full(features.shape[:2], golden.inputs[name]) for name in ("head_id", "exp_id"))

    params = variables("motion_memory", module, weights_of(golden), single, *levels(single))
    run = jax.jit(module.apply)
    assert_close(run(params, single, *levels(single))[0], golden.outputs["tokens_2d"])
    assert_close(run(params, several, *levels(several)), golden.outputs["tokens_4d"])


def test_pose_guider_matches_golden_on_drawings_and_on_black():
    golden = case("pose_guider")
    module, pose = LandmarkGuider(guider_config(golden.config["init"])), channels_last(golden.inputs["pose"])
    params = variables("guider", module, weights_of(golden), pose)
    run = jax.jit(module.apply)
    assert_close(run(params, pose), channels_last(golden.outputs["feature"]))
    assert_close(run(params, 0 * pose), channels_last(golden.outputs["feature_for_black_input"]))


@pytest.mark.parametrize("name", ["vae_small", pytest.param("vae_four_levels", marks=pytest.mark.slow)])
def test_autoencoder_matches_golden(name):
    golden = case(name)
    module = AutoencoderKLTemporalDecoder(autoencoder_config(golden.config))
    image, latents = channels_last(golden.inputs["image"]), channels_last(golden.inputs["latents"])
    params = variables("autoencoder", module, weights_of(golden), image)
    mean, logvar = jax.jit(lambda x: module.apply(params, x, method="encode"))(image)
    assert_close(mean, channels_last(golden.outputs["mean"]))
    assert_close(logvar, channels_last(golden.outputs["logvar"]))
    clips = latents.reshape(-1, int(golden.inputs["num_frames"][0]), *latents.shape[1:])
    frames = jax.jit(lambda z: module.apply(params, z, method="decode"))(clips)
    assert_close(frames.reshape(-1, *frames.shape[2:]), channels_last(golden.outputs["decoded"]))
