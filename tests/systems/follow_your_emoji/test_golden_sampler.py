"""The whole sampling loop of Follow-Your-Emoji equals the original's: a short clip, wrapped windows, Gaussian tiles.

The encoders are stubs, as in the original's run: their outputs are golden inputs. Reference net, denoiser, guidance, solver and
windows are those that animate.
"""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters.landmark_guider import LandmarkGuiderConfig
from portrait_jax.animation import Animator, joint
from portrait_jax.autoencoders.kl import KLConfig
from portrait_jax.encoders.clip_vision import CLIPVisionConfig
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji, LossConfig
from portrait_jax.systems.system import SamplingConfig
from tests.golden import assert_close, channels_last
from tests.systems.follow_your_emoji.original import (
    PREDICTIONS,
    SOLVER,
    build,
    case,
    noise_schedule,
    placement,
    unet_config,
)


class Stubbed(FollowYourEmoji):
    """Encoders whose parameters are their outputs; a control image says in its first pixel which frame it is."""

    @property
    def image_encoder(self):
        return SimpleNamespace(apply=lambda variables, pixels: variables["params"])

    @property
    def guider(self):
        def apply(variables, control_01):
            return variables["params"][jnp.round(255 * control_01[0, :, 0, 0, 0]).astype(int)][None]

        return SimpleNamespace(apply=apply)

    def to_latents(self, params, image_pm1):
        return params["autoencoder"]


def windows(golden, kind: str) -> SamplingConfig:
    """The original's arrangement of a run."""
    settings, plan = golden.settings, golden.settings["context"]
    arrangement = {"strategy": "wrapped", "window": plan["context_frames"]}
    if kind == "long":
        plan = golden.settings["long"]
        arrangement = {"strategy": "tiled", "window": plan["t_tile_length"], "overlap": plan["t_tile_overlap"]}
    arrangement |= placement(case("scheduler").config)
    return SamplingConfig(SOLVER, settings["steps"], settings["guidance_scale"], **arrangement)


def stubbed(golden, sampling: SamplingConfig) -> Stubbed:
    config, scheduler, images = unet_config(case("unet")), case("scheduler").config, KLConfig()
    return Stubbed(
        images,
        config,
        LandmarkGuiderConfig(out_channels=config.block_out_channels[0]),
        CLIPVisionConfig(hidden=config.image_prompt_dim),
        noise_schedule(scheduler),
        LossConfig(),
        sampling,
        {},
        images.stride * golden.inputs["ref_latents_scaled"].shape[-1],
        "released",
        jnp.float32,
        PREDICTIONS[scheduler["prediction_type"]],
    )


@pytest.fixture(scope="module")
def shared():
    """What all runs have in common: networks, the portrait's conditioning, and the one compiled prediction."""
    golden, names = case("sampler"), {"reference": "referencenet", "denoiser": "unet"}
    params = {subnet: build(case(name), subnet)[1]["params"] for subnet, name in names.items()}
    params["image_encoder"] = golden.inputs["clip_hidden_states"]
    params["autoencoder"] = channels_last(golden.inputs["ref_latents_scaled"][:, :, None])
    system = stubbed(golden, windows(golden, "short"))
    animator, side = Animator(system, {}), system.image_size
    still = jax.jit(system.encode_portrait)(params, jnp.zeros((1, side, side, 3), jnp.uint8))
    return golden, params, still, joint.window_prediction(system, animator.solver, animator.rule)


@pytest.mark.parametrize("kind", ["short", "context", "long"])
def test_sampling_matches_golden(shared, kind):
    golden, params, still, predict = shared
    animator = Animator(stubbed(golden, windows(golden, kind)), {})
    latents = channels_last(golden.inputs[f"{kind}.latents"])
    tiles, side = animator.plan(latents.shape[1]), animator.system.image_size
    if kind == "context":
        assert tiles.index.tolist() == golden.settings["context"]["windows"]
    features = np.zeros(
        (golden.settings["long"]["frames"], *latents.shape[2:4], animator.system.guider_config.out_channels)
    )
    features[: latents.shape[1]] = channels_last(golden.inputs[f"{kind}.lmk_cond_fea"])[0]

    def driving(frames):
        numbered = np.broadcast_to(frames.astype(np.uint8)[:, None, None, None], (len(frames), side, side, 3))
        return {"control": numbered[None]}

    told = {**params, "guider": features.astype(np.float32)}
    found = joint.sample_groups(
        joint.driven_prediction(predict, told, still, driving),
        lambda frames: jnp.asarray(latents[:, frames]),
        tiles,
        animator.solver,
        0,
        animator.blank(tiles),
    )
    result, expected = (
        np.concatenate([done for done, *_ in found], axis=1),
        channels_last(golden.outputs[f"{kind}.latents"]),
    )
    assert_close(result, expected)
