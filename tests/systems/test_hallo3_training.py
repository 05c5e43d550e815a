"""Hallo3's training at a tiny size: one step of each stage, and of each way of tables 4 to 6, moves what it is to train.

What compiles a step is slow; what a config changes is checked from shapes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hallo3
from configs.hallo3_ablations import ABLATIONS
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.systems import build, hallo3_loss
from portrait_jax.systems.hallo3 import Hallo3
from portrait_jax.systems.hallo3_loss import latent_mouths
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.state import create_state, flatten, partition
from portrait_jax.training.step import make_train_step
from tests.systems.hallo3 import small
from tests.tiny import leaves, make_params

WAYS = [f"ablation_{name}_stage{2 if name.startswith('audio') else 1}" for name in ABLATIONS]
STAGES = ["stage1", "stage2", "paper_stage1", "paper_stage2", "demo_speech", "demo_stage1", "demo_stage2", *WAYS]


@functools.cache
def system(name: str) -> Hallo3:
    config = small.get_config(name)
    config.train.warmup_steps = 0  # In whose first step nothing moves.
    return Hallo3.from_config(config)


@functools.cache
def shapes(name: str):
    return jax.eval_shape(system(name).init, jax.random.key(0))


@functools.cache
def stepped(name: str):
    """Metrics of one step, the leaves that it is to move, and those that it moved."""
    made = system(name)
    stage, mesh = made.stages[name], make_mesh(data=1, devices=jax.devices()[:1])
    optimizer = make_optimizer(stage)
    with jax.set_mesh(mesh):
        state = create_state(make_params(made), stage, optimizer, jax.random.key(2))
        before = leaves(state.trainable)
        after, metrics = make_train_step(made, name, optimizer, mesh)(state, small.batch(made))
    moved = {path for path, leaf in leaves(after.trainable).items() if np.any(leaf != before[path])}
    return {name: float(value) for name, value in metrics.items()}, set(before), moved


def subnets(paths) -> set[str]:
    return {path.split("/")[0] for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_one_step_moves_what_the_stage_trains(name):
    metrics, trained, moved = stepped(name)
    assert np.isfinite(metrics["lips" if name == "demo_speech" else "diffusion"])
    assert subnets(moved) == subnets(trained)
    told = ("audio_attn", "audio_norm", "audio_projection", "face_attn", "face_norm", "face_projection")
    # A prompt, a sound or a clip's beginning may be dropped in this one step, but not all that the layers themselves have.
    assert {word for word in told if any(word in path for path in moved)} == {
        word for word in told if any(word in path for path in trained)
    }


@pytest.mark.parametrize("name", ["demo_speech", "demo_stage1", "demo_stage2"])
def test_demo_stages_train_networks_that_there_are_and_leave_stored_statistics(name):
    trained = flatten(partition(shapes(name), system(name).stages[name].trainable)[0])
    assert trained and not any(path.endswith(("running_mean", "running_var")) for path in trained)


def test_the_speech_encoder_learns_lips_without_the_transformers():
    made = system("demo_speech")
    batch = small.batch(made)
    assert set(made.batch_keys) == {"frames", "reference", "face_mask", "face", "audio", "landmarks"}
    run = jax.jit(jax.value_and_grad(lambda p, b: made.loss(p, b, jax.random.key(0), "demo_speech")[0]))
    loss, gradient = run(make_params(made), batch)
    reached = subnets(name for name, leaf in leaves(gradient).items() if np.any(leaf))
    assert loss > 0.1 and reached == {"audio_encoder", "audio_projection", "lip_reader"}


def test_errors_of_mouths_count_more_and_the_metric_does_not(monkeypatch):
    made = system("demo_stage2")
    monkeypatch.setattr(
        hallo3_loss, "latent_mouths", lambda landmarks, size, shape, more: jnp.full((1, 3, 4, 4, 1), 7.0)
    )
    loss, metrics = jax.jit(made.loss, static_argnums=3)(make_params(made), small.batch(made), jax.random.key(0), "")
    assert metrics.keys() == {"diffusion"} and loss == pytest.approx(7 * float(metrics["diffusion"]), rel=1e-4)


def test_smaller_frames_with_bars_have_mouths_elsewhere():
    made = system("demo_stage2")
    batch = small.batch(made)
    smaller = {**batch, "frames": batch["frames"][:, :, 4:-4, 4:-4], "reference": batch["reference"][:, 4:-4, 4:-4],
               "face_mask": batch["face_mask"][:, 4:-4, 4:-4]}  # fmt: skip
    with pytest.raises(ShapeError, match="where black bars moved the mouth"):
        jax.eval_shape(lambda p: made.loss(p, smaller, jax.random.key(0), ""), shapes("demo_stage2"))


def test_what_the_loss_asks_of_mouths_needs_square_clips_and_sound():
    config = small.get_config("stage1")
    config.loss.mouth = 1.0
    with pytest.raises(ConfigError, match="needs square clips, not 16×24"):
        Hallo3.from_config(config)
    config.loss.update({"mouth": 0.0, "lips": 1.0})
    with pytest.raises(ConfigError, match="listens to sound"):
        Hallo3.from_config(config)
    config.loss.update({"diffusion": 0.0, "lips": 0.0})
    with pytest.raises(ConfigError, match="leaves nothing to learn but loss.lips"):
        Hallo3.from_config(config)


def test_a_latent_frame_counts_the_mouths_of_its_frames():
    """The mouth is a point at the first of 4×4 cells in the first frame and in one of the last four, and far away otherwise."""
    points = np.full((1, 9, 478, 3), 1e3, np.float32)
    points[:, [0, 5]] = 2.0
    weights = np.asarray(latent_mouths(jnp.asarray(points), 16, (3, 4), 3.0))
    bell = np.exp(-((np.arange(4) * 2) ** 2) / 2)
    near = 3 * (bell[:, None] * bell)[..., None]
    np.testing.assert_allclose(weights[0], [1 + near, np.ones_like(near), 1 + near / 4], rtol=1e-3)


def test_an_ablation_changes_what_it_says():
    def paths(name: str) -> str:
        return " ".join(flatten(shapes(name)))

    assert "audio_norm/linear" in paths("ablation_audio_adaln_stage2")
    assert "audio_attn/proj" in paths("ablation_audio_self_stage2")
    assert system("ablation_audio_adaln_zero_stage2").audio_by == "adaln_zero"
    alone, norm, seen = (f"ablation_identity_{name}_stage1" for name in ("face_attention", "face_norm", "reference"))
    assert "reference" not in shapes(alone) and "face_attn" in paths(alone)
    assert "reference" not in shapes(norm) and "face_norm" in paths(norm)
    assert "reference" in shapes(seen) and not {"face_projection", "face_recogniser"} & shapes(seen).keys()
    for frames in (1, 2, 4):
        made = system(f"ablation_motion_{frames}_stage1")
        assert made.motion.frames == made.sampling.overlap == frames and not made.motion.together


def test_every_name_builds_and_an_unknown_one_names_the_nearest():
    for name in hallo3.NAMES:
        task = build(hallo3.get_config(name))
        assert (task.name == "video_autoencoder") == (name == "demo_autoencoder")
    with pytest.raises(ConfigError, match="did you mean 'ablation_audio_adaln"):
        hallo3.get_config("ablation_audio_adalm")


def test_a_batch_that_comes_encoded_needs_no_encoders_and_one_that_does_not_is_refused():
    made = small.make_system(precomputed=True)
    names = {"text_encoder", "audio_encoder", "face_recogniser"}
    assert not names & jax.eval_shape(made.init, jax.random.key(0)).keys()
    assert made.batch_keys == ("frames", "reference", "face_mask", "identity", "audio")
    raw, weights = small.batch(small.make_system()), jax.eval_shape(made.init, jax.random.key(0))
    for name in ("text", "face"):
        with pytest.raises(ConfigError, match=f"'{name}' is given as it is, but model.precomputed"):
            jax.eval_shape(made.encode_portrait, weights, raw["reference"], {name: raw[name]})


@pytest.mark.slow
def test_square_frames_are_seen_on_black_bars():
    """The loss of square pictures is that of the same pictures with bars painted on."""
    made = system("stage2")
    weights, batch = make_params(made), small.batch(made)
    left = (small.WIDTH - small.HEIGHT) // 2
    middle = slice(left, left + small.HEIGHT)
    square = {name: value[..., middle, :] for name, value in batch.items() if name in ("frames", "reference")}
    square["face_mask"] = batch["face_mask"][..., middle]
    barred = {
        name: jnp.zeros_like(batch[name]).at[..., middle, :].set(square[name]) for name in ("frames", "reference")
    }
    barred["face_mask"] = jnp.zeros_like(batch["face_mask"]).at[..., middle].set(square["face_mask"])
    run = jax.jit(made.loss, static_argnums=3)
    losses = [float(run(weights, {**batch, **given}, jax.random.key(0), "stage2")[0]) for given in (square, barred)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
