"""Schedule, sampler with guidance and training loss are the original's, through the system's own methods."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs import hallo3
from portrait_jax.diffusion.grid import rescaled_grid
from portrait_jax.diffusion.guidance import classifier_free
from portrait_jax.diffusion.prediction import to_x0_epsilon
from portrait_jax.diffusion.sampler import guided_step
from portrait_jax.diffusion.schedule import make_schedule, rescale_zero_terminal_snr
from portrait_jax.encoders.arcface import ArcFaceConfig
from portrait_jax.systems.hallo3 import Hallo3
from portrait_jax.systems.hallo3_loss import squared_errors
from tests.golden import assert_close, within
from tests.systems.hallo3.original import (
    audio_config,
    autoencoder_config,
    case,
    face_config,
    last,
    parameters,
    part,
    settings,
    speech_config,
    transformer_config,
)
from tests.weights import exported

SUBNETS = ("denoiser", "reference", "audio_projection", "face_projection")


@functools.cache
def system() -> Hallo3:
    """The released config's system at the golden size."""
    sizes, made = settings(), Hallo3.from_config(hallo3.get_config())
    stride = autoencoder_config().stride
    return dataclasses.replace(
        made,
        autoencoder_config=autoencoder_config(),
        text_config=dataclasses.replace(made.text_config, width=sizes["transformer"]["text_dim"]),
        audio_encoder_config=speech_config(),
        denoiser_config=transformer_config(),
        audio_config=audio_config(),
        face_config=face_config(),
        height=stride * sizes["transformer"]["latent_height"],
        width=stride * sizes["transformer"]["latent_width"],
        recogniser_config=ArcFaceConfig(embedding=sizes["face_proj"]["clip_embeddings_dim"]),
    )


@functools.cache
def params() -> dict:
    """Of the networks that the golden folder has weights for."""
    return {name: parameters(name) for name in SUBNETS}


def test_levels_of_training_match_golden():
    schedule = make_schedule(**hallo3.model().schedule)
    expected = case("schedule").tensors["train.alphas_cumprod_sqrt_by_timestep"]
    np.testing.assert_allclose(np.sqrt(rescale_zero_terminal_snr(schedule).alpha_bar), expected, atol=2e-6)


def test_levels_of_sampling_match_golden():
    tensors, schedule = case("schedule").tensors, make_schedule(**hallo3.model().schedule)
    runs = {name.split(".")[0] for name in tensors if name.startswith("sample")}
    assert runs
    for run in runs:
        grid = rescaled_grid(schedule, int(run.removeprefix("sample")))
        np.testing.assert_allclose(grid.alpha, tensors[f"{run}.alphas_cumprod_sqrt"], atol=2e-6)
        np.testing.assert_array_equal(grid.timesteps[::-1], tensors[f"{run}.timesteps_ascending"])


def test_the_guided_sampler_matches_golden_in_two_of_its_steps_and_at_its_end():
    golden, made = case("sampler"), system()
    given = golden.inputs
    text, known = jnp.asarray(given["context"]), jnp.asarray(last(given["concat"]))
    latent, identity = jnp.asarray(last(given["ref_latent"])), jnp.asarray(given["face_emb"])
    portrait = jax.jit(made.person)(params(), latent, identity, 0 * text).replace(text=text)
    branches = made.encode_driving(params(), portrait, {"audio": jnp.asarray(given["audio_emb"]), "known": known})
    solver = made.solver(golden.settings["num_sampling_steps"])
    draws = within(given, "step_noise")
    draws = [jnp.asarray(last(draws[str(i)])) for i in range(len(draws))]
    # One draw in the first step, two in each that follows, of which the second counts, none in the last.
    used = [draws[0], *draws[2::2], 0 * draws[0]]
    assert len(used) == solver.steps
    denoise = functools.partial(made.denoise, params())
    step = jax.jit(guided_step(denoise, branches, solver, classifier_free(made.sampling.guidance)))
    both = jax.jit(lambda x, time: {name: denoise(x, time[None], one) for name, one in branches.items()})
    state = solver.init(jnp.asarray(last(given["noise"])))
    expected = within(golden.tensors, "mid.denoised_uc_c")
    for index, noise in enumerate(used):
        x = solver.result(state)
        if index in (0, solver.steps - 2):  # from pure noise, and where levels are farthest from the table's
            said = both(x, jnp.asarray(solver.timesteps[index]))
            alpha, sigma = (jnp.float32(table[index]) for table in solver.grid.read)
            x0 = [to_x0_epsilon("v", x, said[name], alpha, sigma)[0] for name in ("uncond", "cond")]
            assert_close(jnp.concatenate(x0), last(expected[str(index)]))
        state = step(state, index, noise)
    assert_close(solver.result(state), last(golden.outputs["latent"]))


def test_the_loss_and_its_gradients_match_golden():
    golden, made = case("train_loss"), system()
    given = {
        name: jnp.asarray(last(x) if x.ndim == 5 and name != "audio_emb" else x) for name, x in golden.inputs.items()
    }

    def loss(params):
        text = given["context"]
        told = made.person(params, given["mask_ref"], given["face_emb"], text).replace(
            text=text, known=given["concat_images"], audio=made.audio_tokens(params, given["audio_emb"])
        )
        each = squared_errors(made, params, given["latent"], given["noise"], given["idx"], told).mean((1, 2, 3, 4))
        return each.mean(), each

    (_, each), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(params())
    assert_close(each, golden.outputs["loss"])
    found = {}
    for name in SUBNETS:
        found |= exported(part(name), slopes[name])
    expected = within(golden.tensors, "grad")
    assert expected
    for name, slope in expected.items():
        assert_close(found[name], slope)
