"""Protects: the configs have the published sizes and numbers, and what each stage trains is what the code or the paper says."""

from __future__ import annotations

import math

import jax
import pytest

from configs import hallo3
from portrait_jax.adapters.audio_projection import AudioProjectionConfig
from portrait_jax.autoencoders import CausalConfig
from portrait_jax.backbones.cogvideox import CogVideoXConfig
from portrait_jax.encoders import T5Config, Wav2Vec2Config
from portrait_jax.errors import ConfigError
from portrait_jax.interchange import layout_named
from portrait_jax.systems import build
from portrait_jax.systems.hallo3 import Hallo3
from portrait_jax.training.state import flatten, matches, partition
from tests.weights import shapes


@pytest.fixture(scope="module")
def released() -> Hallo3:
    return build(hallo3.get_config())


def test_the_release_has_the_sizes_of_the_published_layout(released):
    """The layout is compared with the manifest at the classes' defaults (`tests/interchange/test_tables.py`)."""
    assert released.denoiser_config == CogVideoXConfig(out_eps=1e-6, remat="full")
    assert released.autoencoder_config == CausalConfig()
    assert released.text_config == T5Config()
    assert released.audio_encoder_config == Wav2Vec2Config()
    assert released.audio_config == AudioProjectionConfig()
    assert released.latent_grid == (13, 60, 90)
    assert released.denoiser_config.tokens(*released.latent_grid) == released.denoiser_config.grid


def test_the_release_takes_the_original_scripts_steps(released):
    solver = released.solver(released.sampling.steps)
    assert solver.stochastic and solver.steps == 50
    assert solver.timesteps[[0, 1, -1]].tolist() == [999, 979, 19]
    # The levels are rescaled on the steps taken; outputs are read at the nearest of the table that training used.
    assert solver.grid.alpha[0] == 0 and abs(solver.grid.alpha[-1] - 0.9910823) < 1e-6


def counts(name: str) -> dict[str, float]:
    """Billions of parameters that a stage trains, by sub-network."""
    system = build(hallo3.get_config(name))
    tree = jax.eval_shape(system.init, jax.random.key(0))
    trained, _ = partition(tree, system.stages[name].trainable)
    sizes: dict[str, float] = {}
    for path, leaf in flatten(trained).items():
        subnet = path.split("/")[0]
        sizes[subnet] = sizes.get(subnet, 0) + math.prod(leaf.shape) / 1e9
    return {subnet: round(size, 3) for subnet, size in sizes.items()}


ATTENTION = {f"attn1/to_{name}/{leaf}" for name in ("q", "k", "v", "out_0") for leaf in ("kernel", "bias")}
NORM = {f"norm2/norm/{leaf}" for leaf in ("scale", "bias")}


def told(name: str) -> set[str]:
    """The leaves of a block's attention to what it is told, but its norm's."""
    return {leaf.replace("attn1", f"{name}_attn") for leaf in ATTENTION}


def trains(name: str) -> dict[str, set[str]]:
    """Sub-network → the leaves of its blocks that a stage trains; of others all that they have of them."""
    system = build(hallo3.get_config(name))
    tree = jax.eval_shape(system.init, jax.random.key(0))
    trained, frozen = (flatten(part) for part in partition(tree, system.stages[name].trainable))
    found: dict[str, set[str]] = {}
    for path in trained:
        subnet, rest = path.split("/", 1)
        if subnet in ("denoiser", "reference"):
            assert rest.startswith("transformer_blocks/")
        elif not any(other.startswith(subnet + "/") for other in frozen):
            rest = "all"
        found.setdefault(subnet, set()).add(rest.removeprefix("transformer_blocks/"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The release's "attention" names the norm behind it too, and "face" its norm and projection.
        ("stage1", {
            "reference": ATTENTION | NORM,
            "denoiser": ATTENTION | NORM | told("face") | {"face_attn/norm/scale", "face_attn/norm/bias"},
            "face_projection": {"all"},
        }),
        ("stage2", {
            "denoiser": told("audio") | {"audio_attn/norm/scale", "audio_attn/norm/bias"}, "audio_projection": {"all"},
        }),
        ("paper_stage1", {"reference": ATTENTION, "denoiser": ATTENTION | told("face")}),
        ("paper_stage2", {"denoiser": told("audio")}),
    ],
)  # fmt: skip
def test_each_stage_trains_these_leaves_and_no_others(name, expected):
    assert trains(name) == expected


def test_stages_train_with_the_releases_numbers_or_the_papers():
    for name, steps in (("stage1", 30_000), ("stage2", 30_000), ("paper_stage1", 20_000), ("paper_stage2", 20_000)):
        system = build(hallo3.get_config(name))
        stage = system.stages[name]
        chosen = stage.optimizer
        assert (chosen.name, chosen.lr, chosen.b2, chosen.weight_decay, chosen.clip_norm, chosen.warmup_steps) == (
            "adamw", 1e-5, 0.95, 1e-4, 0.1, 300,
        )  # fmt: skip
        assert (stage.steps, stage.batch_size, stage.frames, chosen.schedule) == (steps, 64, 49, "linear")
        decays = [
            not matches(f"denoiser/transformer_blocks/norm2/norm/{leaf}", chosen.no_decay) for leaf in ("scale", "bias")
        ]
        assert not any(decays) and not matches("denoiser/x/kernel", chosen.no_decay)
        assert system.motion.together == (system.motion.masked == 0.1) == (not name.startswith("paper"))
        assert (system.memory_of == "portrait") == (system.audio_config.joined == "mean") == name.startswith("paper")


@pytest.mark.slow
def test_stages_train_what_the_code_of_the_release_says():
    first = counts("stage1")
    assert first["reference"] == 1.586
    assert round(first["denoiser"] + first["face_projection"], 2) == 2.65
    second = counts("stage2")
    assert round(second["denoiser"] + second["audio_projection"], 2) == 2.24 and set(second) == {
        "denoiser",
        "audio_projection",
    }


@pytest.mark.slow
def test_by_the_paper_stages_train_attention_alone():
    assert set(counts("paper_stage1")) == {"denoiser", "reference"}
    assert set(counts("paper_stage2")) == {"denoiser"}


@pytest.mark.slow
def test_the_releases_parameters_are_those_of_its_layout(released):
    published: dict = {}
    # glintr100 lies beside the rest of the release in a form of its own.
    for part in (*layout_named("hallo3").parts, *layout_named("arcface_iresnet100").parts):
        links = {f"{part.subnet}/{link.path}": link.shape for link in part.links(part.published())}
        assert not published.keys() & links.keys()
        published |= links
    assert shapes(jax.eval_shape(released.init, jax.random.key(0))) == published


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'released'"):
        hallo3.get_config("release")
