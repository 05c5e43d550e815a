"""Both transformers, the projections and the encoders are the original's, weights read through the published key maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.audio_projection import AudioProjection
from portrait_jax.adapters.image_prompt import PlainProjection
from portrait_jax.backbones.cogvideox import CogVideoX, CogVideoXConfig, grid_positions, remember
from portrait_jax.conditioning import Conditioning
from portrait_jax.encoders import Wav2Vec2
from portrait_jax.encoders.speech import frame_windows
from portrait_jax.nn.embeddings import rotary_angles
from tests.golden import assert_close, within
from tests.systems.hallo3.original import (
    audio_config,
    bank,
    case,
    denoiser,
    face_config,
    last,
    parameters,
    part,
    speech_config,
    transformer_config,
)
from tests.weights import imported, part_of, tree_of


@pytest.mark.parametrize("text", ["prompt", "zeros"])
def test_reference_features_and_output_match_golden(text):
    golden = case("reference_net")
    latent = jnp.asarray(last(golden.inputs["latent"]))
    words = jnp.asarray(golden.inputs["context"]) * (text == "prompt")
    expected = golden.outputs if text == "prompt" else within(golden.tensors, "zero_context.out")
    run = jax.jit(functools.partial(CogVideoX(transformer_config()).apply, capture=True))
    out, features = run(
        {"params": parameters("reference")}, latent, jnp.asarray(golden.inputs["timestep"]),
        Conditioning(text=words, known=latent),
    )  # fmt: skip
    assert_close(out, last(expected["output"]))
    assert_close(features, bank(expected))


@functools.cache
def conditioning() -> Conditioning:
    """Of the denoiser's case, made by the projections; memory for one clip, which both of its items share."""
    golden = case("denoiser")
    windows, identity = (jnp.asarray(golden.inputs[name]) for name in ("audio_emb", "face_emb"))
    audio = AudioProjection(audio_config()).apply({"params": parameters("audio_projection")}, windows)
    face = PlainProjection(face_config()).apply({"params": parameters("face_projection")}, identity)
    assert_close(audio, golden.tensors["mid.audio_tokens"])
    assert_close(face, golden.tensors["mid.face_tokens"])
    features = jnp.asarray(bank(golden.inputs))
    return Conditioning(
        text=jnp.asarray(golden.inputs["context"]), known=jnp.asarray(last(golden.inputs["concat"])), audio=audio,
        image_tokens=face, memory=remember(transformer_config(), parameters("denoiser"), features),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "audio"), [("denoiser", True), ("denoiser_stage1", False)])
def test_denoiser_matches_golden_with_and_without_sound(name, audio):
    golden, given = case("denoiser"), conditioning()
    given = given if audio else given.replace(audio=None)
    run = jax.jit(denoiser().apply)
    out = run(
        {"params": parameters("denoiser")}, jnp.asarray(last(golden.inputs["x"])),
        jnp.asarray(golden.inputs["timesteps"]), given,
    )  # fmt: skip
    assert_close(out, last(case(name).outputs["output"]))


def test_audio_projection_of_any_number_of_frames_matches_golden():
    golden = case("audio_proj")
    module = AudioProjection(audio_config())
    names = sorted({name.split(".")[0] for name in golden.tensors} - {"w"})
    assert names
    for name in names:
        windows = jnp.asarray(golden.tensors[f"{name}.in"])
        own = part("audio_projection")
        params = imported(tree_of(module, windows), golden.weights(), own, prefix=own.table.prefix)
        assert_close(module.apply(params, windows), golden.tensors[f"{name}.out"])


def test_face_projection_matches_golden():
    golden, own = case("face_proj"), part("face_projection")
    identity, module = jnp.asarray(golden.tensors["in"][:, 0]), PlainProjection(face_config())
    params = imported(tree_of(module, identity), golden.weights(), own, prefix=own.table.prefix)
    assert_close(module.apply(params, identity), golden.tensors["out"])


def test_rotations_match_golden():
    """At the reduced grid, and in some rows of the full one."""
    golden, full = case("rope3d"), CogVideoXConfig()
    for config, name in ((transformer_config(), ""), (full, "full480x720x49.")):
        angles = rotary_angles(grid_positions(config.grid, config.grid), config.rotary_widths)
        rows = golden.tensors[f"{name}row_index"] if name else slice(None)
        np.testing.assert_allclose(np.cos(angles)[rows], golden.tensors[f"{name}freqs_cos"], atol=1e-5)
        np.testing.assert_allclose(np.sin(angles)[rows], golden.tensors[f"{name}freqs_sin"], atol=1e-5)


def test_speech_features_and_their_windows_match_golden():
    golden = case("wav2vec")
    wave, module = golden.inputs["wav"], Wav2Vec2(speech_config())
    params = imported(tree_of(module, wave), golden.weights(), part_of("wav2vec2_base_960h"))
    frames = golden.settings["seq_len"]
    hidden = jax.jit(module.apply, static_argnums=2)(params, wave, frames)[:, :, 1:]
    assert_close(hidden[0], golden.outputs["hidden"])
    width = golden.outputs["windowed"].shape[1]
    assert_close(frame_windows(np.asarray(hidden[0]), np.arange(frames), width // 2), golden.outputs["windowed"])
