"""AnyExpress at a tiny size: what the branches hold, what reaches the picture, what the loss counts, and what trains."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.conditioning import Anchor, Conditioning
from portrait_jax.diffusion.sampler import guided
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.systems.anyexpress import AnyExpress
from portrait_jax.systems.system import guidance_of
from portrait_jax.training.state import flatten, matches, unflatten
from tests.tiny import make_params
from tests.tiny_anyexpress import FRAMES, get_config, make_batch, make_driving, make_system, picture


@functools.cache
def system(**behaviour):
    return make_system(**behaviour)


@functools.cache
def params(**behaviour):
    return make_params(system(**behaviour))


@functools.cache
def encoded():
    """Branches with the portrait, and branches without one but with a negative prompt; one program."""
    made, driving = system(), make_driving(system())
    negative = driving | {"negative_text": jnp.array([[6, 2, 7]])}

    @jax.jit
    def encode(params, image):
        whole = made.encode_driving(params, made.encode_portrait(params, image), driving)
        return whole, made.encode_driving(params, Conditioning(), negative)

    return encode(params(), picture(1))


def branches():
    return encoded()[0]


@functools.cache
def denoise():
    return jax.jit(system().denoise)


def noisy(frames: int = 4, seed: int = 0):
    return jax.random.normal(jax.random.key(seed), (1, frames, *system().latent_shape()))


def test_guidance_leads_away_from_nobody_and_silence():
    cond, uncond = branches()["cond"], branches()["uncond"]
    assert not np.any(uncond.audio) and np.any(cond.audio)
    assert np.abs(uncond.image_tokens - cond.image_tokens).max() > 1e-3 and np.any(uncond.image_tokens)
    np.testing.assert_array_equal(cond.text, uncond.text)
    other = encoded()[1]
    assert np.abs(other["uncond"].text - other["cond"].text).max() > 1e-3
    assert other["cond"].image_tokens is None and other["uncond"].image_tokens is None


def test_the_sound_of_a_frame_changes_the_picture_and_none_is_the_base():
    cond, x, run = branches()["cond"], noisy(), denoise()
    heard = run(params(), x, jnp.ones(1), cond)
    silent = run(params(), x, jnp.ones(1), cond.replace(audio=0 * cond.audio))
    without = run(params(), x, jnp.ones(1), cond.replace(audio=None))
    assert np.abs(heard - silent).max() > 1e-4
    np.testing.assert_allclose(silent, without, atol=1e-6)


def test_without_motion_and_sound_frames_are_pictures_of_their_own():
    """Motion modules whose output is zero, and frames in another order."""
    leaves = flatten(params())
    still = {
        n: 0 * leaf if "motion_modules" in n and "temporal_transformer/proj_out" in n else leaf
        for n, leaf in leaves.items()
    }
    tree, x, cond = unflatten(still), noisy(), branches()["cond"].replace(audio=None)
    order = np.array([2, 0, 3, 1])
    found = denoise()(tree, x[:, order], jnp.ones(1), cond)
    np.testing.assert_allclose(found, denoise()(tree, x, jnp.ones(1), cond)[:, order], atol=1e-5)


@pytest.mark.slow
def test_an_identity_scale_of_zero_is_the_base_without_a_portrait():
    nobody = system(id_scale=0.0, portrait_latents=True)
    assert jax.eval_shape(nobody.encode_portrait, params(), picture(1)).image_tokens is None
    cond = branches()["cond"].replace(portrait=None)

    @jax.jit
    def run(tree, x):
        told = [(system(id_scale=0.5), cond), (system(), cond), (system(), cond.replace(image_tokens=None))]
        return [made.denoise(tree, x, jnp.ones(1), what) for made, what in told]

    half, whole, none = run(params(), noisy())
    assert min(np.abs(half - whole).max(), np.abs(half - none).max()) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("control", ["t2i_adapter", "controlnet"])
def test_control_pictures_act_with_their_scale(control):
    made, tree, x = system(control=control), params(control=control), noisy(2)
    off, driving = system(control=control, control_scale=0.0), make_driving(system(), 2)

    @jax.jit
    def run(tree, pictures):
        def asked(used, **more):
            cond = used.encode_driving(tree, Conditioning(), {**driving, **more})["cond"]
            return used.denoise(tree, x, jnp.ones(1), cond)

        return asked(made, control=pictures), asked(off, control=pictures), asked(made)

    on, none, plain = run(tree, picture(1, 2))
    np.testing.assert_allclose(none, plain, atol=1e-5)
    assert np.abs(on - plain).max() > 1e-4


def test_control_pictures_that_nothing_reads_are_refused():
    driving = {**make_driving(system(), 2), "control": picture(1, 2)}
    with pytest.raises(ConfigError, match="nothing reads them"):
        jax.eval_shape(lambda: system().encode_driving(params(), Conditioning(), driving))


SCALES = {
    "identity": lambda system: dataclasses.replace(
        system, behaviour=dataclasses.replace(system.behaviour, id_scale=0.4)
    ),
    "control": lambda system: dataclasses.replace(
        system, behaviour=dataclasses.replace(system.behaviour, control_scale=0.6)
    ),
    "sound": lambda system: dataclasses.replace(
        system, audio_config=dataclasses.replace(system.audio_config, scale=0.5)
    ),
}
ARRAYS = ("text", "negative_text", "control", "audio")


@pytest.mark.slow
def test_every_control_acts_beside_all_others():
    """Both prompts, key points, sound, portrait and three scales at once: each one changes the guided prediction."""
    behaviour = {"control": "t2i_adapter", "control_scale": 1.0, "id_scale": 0.8}
    whole, tree, x = system(**behaviour), params(**behaviour), noisy(2)
    prompts = {"text": jnp.array([[6, 1, 7]]), "negative_text": jnp.array([[6, 2, 7]])}
    told = {**make_driving(whole, 2), "control": picture(1, 2, seed=5), **prompts}
    other = {**make_driving(whole, 2, seed=9), "control": picture(1, 2, seed=6)}
    other |= {"text": jnp.array([[6, 3, 7]]), "negative_text": jnp.array([[6, 4, 7]])}

    def compiled(made):
        @jax.jit
        def run(portrait, driving):
            given = made.encode_driving(tree, made.encode_portrait(tree, portrait), driving)
            return guided(partial(made.denoise, tree), given, guidance_of(made.sampling))(x, jnp.ones(()))

        return run

    run, portrait = compiled(whole), picture(1)
    found = {name: run(portrait, {**told, name: other[name]}) for name in ARRAYS}
    found["portrait"] = run(picture(1, seed=4), told)
    found |= {f"scale of {name}": compiled(change(whole))(portrait, told) for name, change in SCALES.items()}
    plain = run(portrait, told)
    assert {name for name, changed in found.items() if np.abs(changed - plain).max() < 1e-5} == set()


@pytest.mark.slow
def test_features_are_measured_beside_the_prediction():
    cond, x = branches()["cond"], noisy()
    sites = system().anchor_sites
    blank = {name: jnp.zeros((1, 2, channels)) for name, channels in sites.items()}
    told = cond.replace(anchor=Anchor(blank, jnp.ones((1, 4)), jnp.zeros(1)))
    found, own = jax.jit(system().denoise_measured)(params(), x, jnp.ones(1), told)
    np.testing.assert_allclose(found, denoise()(params(), x, jnp.ones(1), cond), atol=1e-5)
    assert {name: leaf.shape for name, leaf in own.items()} == {name: leaf.shape for name, leaf in blank.items()}
    assert all(np.all(leaf[:, 1] > 0) for leaf in own.values())


def test_clean_frames_may_be_told_that_they_are():
    given = jnp.array([[1.0, 0, 0, 0]])
    cond = branches()["cond"].replace(given=given)
    shared = denoise()(params(), noisy(), jnp.full(1, 500), cond)
    np.testing.assert_array_equal(shared, denoise()(params(), noisy(), jnp.full(1, 500), branches()["cond"]))
    zero = jax.jit(system(prefix_timestep="zero").denoise)
    told = zero(params(), noisy(), jnp.full(1, 500), cond)
    by_hand = denoise()(params(), noisy(), jnp.array([0, 500, 500, 500]), cond)
    np.testing.assert_allclose(told, by_hand, atol=1e-6)
    assert np.abs(told - shared).max() > 1e-4


def asked(made, batch, seed=0, **loss):
    """What the denoiser is asked in training, the loss if it answers with its input, and the clips' latents; one program."""
    seen = []

    class Spy(type(made)):
        def denoise(self, params, noisy, timestep, conditioning):
            seen.append((noisy, timestep, conditioning))
            return noisy

    fields = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    spy = Spy(**{**fields, "loss_config": dataclasses.replace(made.loss_config, **loss)})

    @jax.jit
    def run(tree):
        loss, _ = spy.loss(tree, batch, jax.random.key(seed), "")
        return loss, seen[0], made.to_latents(tree, to_pm1(batch["frames"]))

    return run(make_params(made))


def test_the_prefix_is_clean_and_not_in_the_loss():
    made, batch = make_system("demo_stage1"), make_batch()
    loss, (x, timestep, conditioning), latents = asked(made, batch, drop_prefix=0.0, mouth=0.0)
    x, latents = np.asarray(x), np.asarray(latents)
    np.testing.assert_array_equal(conditioning.given, [[1, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(x[:, 0], latents[:, 0], atol=1e-6)
    assert np.abs(x[:, 1:] - latents[:, 1:]).max() > 1e-3
    level = np.asarray(timestep).reshape(2, FRAMES)
    assert (np.diff(level) == 0).all()
    # v is found again from the noisy frames, and from those of the prefix nothing could be.
    alpha_bar = made.schedule.alpha_bar[level[:, 1:]][..., None, None, None]
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    noise = (x[:, 1:] - alpha * latents[:, 1:]) / sigma
    expected = ((x[:, 1:] - (alpha * noise - sigma * latents[:, 1:])) ** 2).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


def test_errors_of_mouths_count_more_and_the_metric_does_not():
    """The mouth is a point at the first of 4×4 cells, and the loss that of an answer that is the question."""
    made, batch = make_system("demo_stage1"), make_batch()
    batch["landmarks"] = jnp.full_like(batch["landmarks"], 4.0)
    plain, (x, timestep, _), latents = asked(made, batch, drop_prefix=1.0, mouth=0.0)
    weighed, again, _ = asked(made, batch, drop_prefix=1.0, mouth=3.0)
    np.testing.assert_array_equal(again[0], x)
    level = made.schedule.alpha_bar[np.asarray(timestep).reshape(2, FRAMES)][..., None, None, None]
    noise = (x - np.sqrt(level) * latents) / np.sqrt(1 - level)
    squares = np.asarray((x - (np.sqrt(level) * noise - np.sqrt(1 - level) * latents)) ** 2)
    bell = np.exp(-((np.arange(4) * 2) ** 2) / 2)
    weight = 1 + 3 * bell[:, None] * bell[None, :]
    np.testing.assert_allclose(plain, squares.mean(), rtol=1e-3)
    np.testing.assert_allclose(weighed, (squares * weight[..., None]).mean(), rtol=1e-3)
    metric = jax.eval_shape(lambda: made.loss(make_params(made), batch, jax.random.key(0), ""))[1]
    assert set(metric) == {"diffusion"}


def test_the_speech_encoder_learns_lips_without_the_image_model():
    made = make_system("demo_speech")
    tree, batch = make_params(made), make_batch()
    assert set(made.batch_keys) == {"frames", "reference", "audio", "landmarks"}

    @jax.jit
    def run(tree, batch):
        return jax.value_and_grad(lambda p: made.loss(p, batch, jax.random.key(0), "demo_speech")[0])(tree)

    loss, gradient = run(tree, batch)
    reached = {name for name, leaf in flatten(gradient).items() if np.any(leaf)}
    assert {name.split("/")[0] for name in reached} == {"audio_encoder", "audio_projection", "lip_reader"}
    # Where and whose the lips are says nothing: only how they move within the clip.
    still = {**batch, "landmarks": jnp.broadcast_to(batch["landmarks"][:, :1], batch["landmarks"].shape)}
    mute = {**tree, "lip_reader": jax.tree.map(jnp.zeros_like, tree["lip_reader"])}
    assert loss > 0.1 and run(mute, batch)[0] > 0.1
    np.testing.assert_allclose(run(mute, still)[0], 0, atol=1e-5)


@pytest.mark.slow
def test_reference_text_sound_and_prefix_are_dropped_independently():
    batch = {**make_batch(), "text": jnp.array([[6, 1, 7]] * 2)}
    batch = jax.tree.map(lambda x: jnp.repeat(x[:1], 64, axis=0), batch)
    drops = {"drop_reference": 0.5, "drop_text": 0.5, "drop_audio": 0.5, "drop_prefix": 0.5}
    _, (_, _, told), _ = asked(make_system("demo_stage1"), batch, **drops)
    shown = {
        "sound": np.any(np.asarray(told.audio), (1, 2, 3)),
        "face": np.any(np.asarray(told.portrait), (1, 2, 3)),
        "prefix": np.asarray(told.given[:, 0] > 0),
        "text": np.asarray(jnp.abs(told.text - told.text[:1]).max((1, 2)) < 1e-6),
    }
    assert len(np.unique(np.asarray(told.text).round(4), axis=0)) == 2, "the caption, or the empty prompt"
    for name, values in shown.items():
        assert 15 < values.sum() < 49, name
        assert all(15 < (values == other).sum() < 49 for key, other in shown.items() if key != name)
    who = np.asarray(told.image_tokens).round(4)
    assert len(np.unique(who, axis=0)) == 2 and len(np.unique(who[shown["face"]], axis=0)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["demo_stage1", "demo_voice", "demo_base"])
def test_the_loss_reaches_what_trains(stage):
    made, tree = make_system(stage), make_params(make_system(stage))
    batch = {name: value for name, value in make_batch().items() if name in made.batch_keys}
    gradient = jax.jit(jax.grad(lambda p: made.loss(p, batch, jax.random.key(3), stage)[0]))(tree)
    reached = {name for name, leaf in flatten(gradient).items() if np.any(leaf)}
    trainable = made.stages[stage].trainable
    for pattern in trainable:
        assert any(matches(name, (pattern,)) for name in reached), pattern
    assert any("audio_attention" in name for name in reached) == (stage != "demo_base")
    assert any("motion_modules" in name for name in reached) == (stage == "demo_stage1")


def test_a_sound_that_does_not_fit_the_frames_is_named():
    made = make_system("demo_stage1")
    batch = make_batch()
    with pytest.raises(ShapeError, match="as much before it as after it"):
        jax.eval_shape(lambda: made.windows_of(make_params(made), batch["audio"][:, :-640], FRAMES))
    with pytest.raises(ConfigError, match="'audio' is missing"):
        made.encode_driving({}, Conditioning(), {"faces": picture(1, 2)})


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("denoiser", "in_channels", 4, "must be equal, not 4 and 8"),
        ("text_encoder", "hidden", 8, "text_encoder.hidden must be equal"),
        ("image_prompt", "kind", "face_id", "none that a picture alone gives"),
        ("behaviour", "control", "t2i_adaptor", "did you mean 't2i_adapter'"),
        ("behaviour", "prefix_timestep", "zeros", "did you mean 'zero'"),
        ("audio", "place", "after_attn", "did you mean 'after_attn2'"),
    ],
)
def test_settings_that_do_not_fit_are_named(section, key, value, message):
    config = get_config()
    config.model[section][key] = value
    with pytest.raises(ConfigError, match=message):
        AnyExpress.from_config(config)
