"""Protects the full-size config: parameters as the paper's table says, the paper's numbers, and what a stage begins anew."""

from __future__ import annotations

import math
import re

import jax
import pytest

from configs import anyexpress
from data.pipeline import DataConfig
from portrait_jax.errors import ConfigError
from portrait_jax.interchange.layouts import layout_named
from portrait_jax.settings import from_mapping
from portrait_jax.systems import build
from portrait_jax.systems.anyexpress import AnyExpress
from portrait_jax.systems.system import guidance_of
from portrait_jax.training.task import LoopOptions
from tests.weights import shapes

STAGES = (
    "stage1", "stage2", "paper", "demo_base", "demo_speech", "demo_voice", "demo_stage1", "demo_stage2", "demo",
    "ablation_latents_base", "ablation_latents",
)  # fmt: skip


@pytest.fixture(scope="module")
def full():
    return build(anyexpress.get_config("stage1"))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_whole(stage):
    config = anyexpress.get_config(stage)
    system, data = build(config), from_mapping(DataConfig, config.data)
    assert isinstance(system, AnyExpress) and system.driven_by == "sound"
    assert LoopOptions.from_config(config.train).seed == 0
    assert system.image_size == data.size and data.audio == system.loss_config.sound
    assert system.audio_config.reach <= data.audio_margin or not data.audio
    assert system.sampling.overlap == system.loss_config.prefix
    assert system.sampling.window <= system.denoiser_config.temporal.max_length
    assert system.stages[stage].frames <= system.denoiser_config.temporal.max_length


def test_sampling_has_the_papers_numbers(full):
    solver = full.solver(full.sampling.steps)
    assert solver.timesteps[[0, 1, -1]].tolist() == [958, 925, 1] and solver.steps == 30
    assert solver.grid.alpha_next[-1] ** 2 == pytest.approx(0.99915)
    assert full.schedule.alpha_bar[[250, 999]] == pytest.approx([0.568788, 0.001579], abs=1e-6)
    rule = guidance_of(full.sampling)
    assert rule.branches == ("uncond", "cond") and rule.reads_given
    assert (full.sampling.guidance, full.sampling.mimic, full.sampling.strategy) == (5.0, 3.5, "prefix")
    assert (full.sampling.window, full.sampling.overlap) == (20, 4)


def test_training_has_the_papers_numbers():
    first, second = (build(anyexpress.get_config(name)).stages[name] for name in ("stage1", "stage2"))
    assert (first.steps, second.steps) == (180_000, 30_000)
    for stage in (first, second):
        assert (stage.batch_size, stage.frames, stage.optimizer.lr, stage.optimizer.weight_decay) == (16, 20, 1e-6, 0)
    assert second.init_from == {"*": "{workdir}/stage1"} and not first.restore
    assert second.restore == ("denoiser/.*motion_modules_.*",) and second.restore_from == "pretrained/anyexpress"


def test_an_unknown_stage_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'stage1'"):
        anyexpress.get_config("stage_1")


@pytest.mark.slow
def test_parameters_count_as_the_papers_table_says_and_files_hold_them_all(full):
    """0.3 billion train; frozen networks are those of the published layouts; the adapter's layout is what trains."""
    tree = shapes(jax.eval_shape(full.init, jax.random.key(0)))
    sizes = {path: math.prod(shape) for path, shape in tree.items()}

    def count(*patterns: str) -> int:
        return sum(size for path, size in sizes.items() if any(re.match(pattern, path) for pattern in patterns))

    stage = full.stages["stage1"]
    assert count(*stage.trainable) == 272_096_192
    assert count("denoiser/.*motion_modules") == 453_209_280
    assert [count(f"{name}/") for name in ("autoencoder", "text_encoder", "audio_encoder", "image_encoder")] == [
        83_653_863, 123_060_480, 94_370_816, 632_076_800,
    ]  # fmt: skip
    listed = {}
    layouts = ("sd15", "animatediff_v2", "ip_adapter_plus_face_sd15", "wav2vec2_base_960h", "anyexpress_adapter")
    for name in layouts:
        for part in layout_named(name).parts:
            listed |= {f"{part.subnet}/{link.path}": link.shape for link in part.links(part.published())}
    assert listed == {path: shape for path, shape in tree.items() if not path.startswith("image_encoder/")}
    adapter = {
        f"{part.subnet}/{link.path}"
        for part in layout_named("anyexpress_adapter").parts
        for link in part.links(part.published())
    }
    assert adapter == {path for path in tree if any(re.match(pattern, path) for pattern in stage.trainable)}
