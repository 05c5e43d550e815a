"""X-NeMo's training at a tiny size: what each stage and each ablation reaches, and that one step of each trains.

What compiles a step is slow; patterns and what an ablation changes are checked from shapes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import xnemo
from configs.xnemo_ablations import ABLATIONS
from portrait_jax.adversarial.head import TRAINABLE
from portrait_jax.errors import ConfigError
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.systems.landmark_teacher import drawn, of_clips, teacher_loss
from portrait_jax.systems.xnemo import XNemo
from portrait_jax.systems.xnemo_loss import landmark_loss
from portrait_jax.training.faces import reference_crops
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.state import create_state, flatten, partition
from portrait_jax.training.step import make_train_step
from tests.tiny import leaves, make_params

SIZE = 32
STAGES = (
    "demo_stage1",
    "demo_motion",
    "demo_attention",
    "demo_stage2",
    "demo_stage3",
    *(f"ablation_{name}_stage2" for name in ABLATIONS if name != "full"),
)


def tiny_config(name: str):
    """A demo config with small numbers."""
    config = xnemo.get_config(name)
    config.model.image_size = config.data.size = SIZE
    config.model.autoencoder.update({"block_out_channels": (8,), "norm_groups": 4, "patch_size": 8})
    config.model.denoiser.update(
        {"block_out_channels": (8,), "attention_levels": (True,), "context_dim": 8, "image_prompt_dim": 8,
         "norm_groups": 4}
    )  # fmt: skip
    config.model.temporal.update({"num_heads": 2, "max_length": 4, "norm_groups": 4, "attentions": 1})
    config.model.motion.update({"norm_groups": 4})
    config.model.motion_encoder.update(
        {"image_size": 16, "channels": (8, 8, 8), "depth": 1, "attention_dim": 32, "heatmaps": 4, "latent_dim": 8,
         "tokens": 2, "box_dim": 4, "norm_groups": 2}
    )  # fmt: skip
    config.model.image_encoder.update(
        {"hidden": 8, "layers": 1, "heads": 2, "mlp": 8, "patch": 16, "image_size": 32, "projection": 8}
    )
    config.model.head.pictures.update({"channels": (8, 8, 8, 8), "style": 8})
    config.model.head.resnet.update({"layers": (1,), "channels": (8,)})
    config.model.head.appearance = 8
    config.sampling.steps = 2
    if "teacher" in config:
        config.teacher.model.image_size = SIZE
        for name in ("autoencoder", "denoiser", "temporal"):
            config.teacher.model[name] = config.model[name]
        config.teacher.model.guider.update({"channels": (8, 8, 8), "out_channels": 8})
        config.teacher.model.image_encoder.update({"hidden": 8, "layers": 1, "heads": 2, "mlp": 8, "image_size": 32})
    return config


@functools.cache
def system(name: str) -> XNemo:
    return XNemo.from_config(tiny_config(name))


@functools.cache
def shapes(name: str):
    return jax.eval_shape(system(name).init, jax.random.key(0))


@functools.cache
def params(name: str):
    return make_params(system(name))


def batch(clips: int = 2, frames: int = 2, seed: int = 0):
    rng = np.random.default_rng(seed)

    def pictures(*shape: int):
        return jnp.asarray(rng.integers(0, 256, (*shape, SIZE, SIZE, 3), dtype=np.uint8))

    def landmarks(*shape: int):
        return jnp.asarray(rng.uniform(8, 24, (*shape, 478, 3)), jnp.float32)

    return {
        "frames": pictures(clips, frames), "reference": pictures(clips),
        "landmarks": landmarks(clips, frames), "reference_landmarks": landmarks(clips), "control": pictures(clips, frames),
    }  # fmt: skip


@functools.cache
def stepped(name: str):
    """Metrics of one step, and the leaves that moved."""
    made, weights = system(name), params(name)
    stage, mesh = made.stages[name], make_mesh(data=1, devices=jax.devices()[:1])
    optimizer = make_optimizer(stage)
    with jax.set_mesh(mesh):
        state = create_state(jax.tree.map(jnp.copy, weights), stage, optimizer, jax.random.key(2))
        before = leaves(state.trainable)
        after, metrics = make_train_step(made, name, optimizer, mesh)(state, batch())
    moved = {path for path, leaf in leaves(after.trainable).items() if np.any(leaf != before[path])}
    return {name: float(value) for name, value in metrics.items()}, moved


def subnets(paths) -> set[str]:
    return {path.split("/")[0] for path in paths}


@pytest.mark.parametrize("name", STAGES)
def test_every_pattern_of_a_stage_means_something_and_stored_statistics_stay(name):
    trainable = flatten(partition(shapes(name), system(name).stages[name].patterns)[0])
    assert trainable and not any(path.endswith(("running_mean", "running_var")) for path in trainable)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_one_step_moves_what_the_stage_trains(name):
    metrics, moved = stepped(name)
    assert np.isfinite(list(metrics.values())).all()
    trainable = flatten(partition(params(name), system(name).stages[name].patterns)[0])
    assert subnets(moved) == subnets(trainable)


def seen_by(denoiser, weights, *inputs):
    return drawn(functools.partial(denoiser.apply, {"params": weights}, *inputs, use_temporal=False))


def taught(seen, student: XNemo, weights):
    """What both networks make of the same noisy latents: the teacher's own drawing, and the student's with motion tokens."""
    noisy = jax.random.normal(jax.random.key(1), (2, 2, *student.latent_shape()))
    time, teacher = jnp.full((4,), 500.0), student.teacher
    portrait = teacher.encode_portrait(weights["teacher"], seen["reference"])
    told = teacher.encode_driving(weights["teacher"], portrait, {"control": seen["control"]})["cond"]
    tokens = jax.random.normal(jax.random.key(2), (2, 2, 2, student.motion_encoder_config.token_dim))
    own = student.encode_portrait(weights, seen["reference"]).replace(motion=tokens)
    drawings = (
        seen_by(teacher.denoiser, weights["teacher"]["denoiser"], noisy, time, told),
        seen_by(student.denoiser, weights["denoiser"], noisy, time, own),
        seen_by(student.denoiser, weights["denoiser"], noisy, time, own.replace(motion=2 * tokens)),
    )
    return noisy, time, drawings


def test_a_student_is_compared_with_its_teacher_layer_by_layer_after_its_motion_attention():
    name, seen = "demo_attention", batch()
    student, weights = system(name), params(name)
    noisy, time, (teacher, first, second) = taught(seen, student, weights)
    assert first[1].keys() == teacher[1].keys() and len(teacher[1]) == 4
    for layer, features in first[1].items():
        assert np.abs(features - second[1][layer]).max() > 1e-6, f"{layer} is taken before its motion attention"

    def loss(student_output, keep):
        return teacher_loss(student.teacher, weights["teacher"], seen, noisy, time, student_output, of_clips(keep, 2))

    assert float(loss(teacher, jnp.ones(2))) < 1e-9 < float(loss(first, jnp.ones(2)))
    spoilt = jax.tree.map(lambda x: x.reshape(2, -1).at[1].add(1.0).reshape(x.shape), teacher)
    assert float(loss(spoilt, jnp.array([1.0, 0.0]))) < 1e-9 < float(loss(spoilt, jnp.ones(2)))


def test_a_teacher_that_is_not_described_is_asked_for():
    config = tiny_config("demo_attention")
    del config.teacher
    with pytest.raises(ConfigError, match="config.teacher"):
        XNemo.from_config(config)


@pytest.mark.slow
def test_the_first_stage_knows_no_motion_and_the_third_trains_time_alone():
    first, third = stepped("demo_stage1")[1], stepped("demo_stage3")[1]
    assert not any("motion" in path or "temporal" in path for path in first)
    assert all("temporal_modules" in path for path in third) and third


@pytest.mark.slow
def test_the_second_stage_trains_the_encoder_its_attention_and_both_sides_of_the_head():
    metrics, moved = stepped("demo_stage2")
    assert {"motion_encoder", "denoiser", "reference", "gan_generator", "gan_discriminator", "appearance_encoder"} <= (
        subnets(moved)
    )
    assert any("motion_modules" in path for path in moved)
    assert {"diffusion", "gan_recon", "gan_adversarial", "gan_feature_matching", "adversary_loss"} <= metrics.keys()


def test_landmarks_that_do_not_move_are_read_off_motion_that_does_not():
    made, weights = system("demo_motion"), params("demo_motion")
    still = batch(1, 1)
    still |= {"frames": still["reference"][:, None], "landmarks": still["reference_landmarks"][:, None]}
    own = made.encode_motion(weights, 255 * reference_crops(still, jax.random.key(0), made.face_size))

    def loss(moving, motion):
        return float(landmark_loss(made, weights, moving, motion, jax.random.key(0)))

    assert loss(still, own[:, None]) < 1e-6
    assert loss(still, own[:, None] + 1) > 1e-3
    turned = still | {"landmarks": still["landmarks"] + jnp.linspace(0, 4, 478)[:, None]}
    assert loss(turned, own[:, None]) > 1e-3


def slope(name: str, **loss):
    """Which leaves the loss reaches."""
    config = tiny_config(name)
    config.loss.update(loss)
    made = XNemo.from_config(config)

    @jax.jit
    def gradient(weights):
        return jax.grad(lambda p: made.loss(p, batch(1, 1), jax.random.key(3), name)[0])(weights)

    return {path for path, leaf in leaves(gradient(params(name))).items() if np.any(leaf)}


@pytest.mark.slow
def test_without_a_head_and_end_to_end_nothing_teaches_the_motion_encoder():
    whole, cut = (slope("demo_stage3", temporal=False, end_to_end=reaches) for reaches in (True, False))
    reads = {path for path in whole if path.startswith("motion_encoder/model/")}
    assert reads and not reads & cut
    assert "motion_encoder/final_proj/kernel" in cut


def test_an_ablation_changes_what_it_says():
    assert system("ablation_no_gan_head_stage2").head is None
    assert "gan_generator" not in shapes("ablation_no_gan_head_stage2")
    assert system("ablation_no_masking_stage2").loss_config.mask == 0
    assert system("ablation_no_augmentation_stage2").augmentation.scale == 0
    spatial = flatten(shapes("ablation_spatial_control_stage2"))
    assert "motion_map" in subnets(spatial) and not any("motion_modules" in path for path in spatial)
    patterns = tiny_config("ablation_no_gan_head_stage2").train.trainable
    assert not set(TRAINABLE) & set(patterns)


@pytest.mark.slow
def test_masking_hides_tokens_of_the_reference():
    """With the rest equal, another share of hidden tokens is another loss."""

    def diffusion(mask: float):
        config = tiny_config("demo_stage3")
        config.loss.mask = mask
        run = jax.jit(XNemo.from_config(config).loss, static_argnums=3)
        return run(params("demo_stage3"), batch(), jax.random.key(0), "demo_stage3")[1]["diffusion"]

    assert abs(diffusion(0.3) - diffusion(0.0)) > 1e-6


@pytest.mark.slow
def test_a_strip_shows_truth_and_sample_and_nothing_before_motion_is_told():
    made = system("demo_stage2")
    strip = made.samples(params("demo_stage2"), batch(), jax.random.key(0), "demo_stage2")["clips"]
    assert strip.shape == (2 * 2 * SIZE, 3 * SIZE, 3)
    assert not system("demo_stage1").samples({}, batch(), jax.random.key(0), "demo_stage1")


def test_a_control_that_does_not_exist_and_a_head_without_sizes_are_named():
    config = tiny_config("demo_stage2")
    config.model.control = "attentoin"
    with pytest.raises(ConfigError, match="did you mean 'attention'"):
        XNemo.from_config(config)
    config = tiny_config("demo_stage2")
    del config.model.head
    with pytest.raises(ConfigError, match=r"there is no model\.head"):
        XNemo.from_config(config)
