"""Every network of Follow-Your-Emoji equals the original's, at the size and with the weights of the golden folder.

The weights come in through the published layout's key map: it is tested with the network.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.adapters import LandmarkGuider, LandmarkGuiderConfig
from portrait_jax.backbones.unet import attention_paths
from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.embeddings import position_table
from portrait_jax.nn.slots import Site
from portrait_jax.nn.temporal import TemporalConfig, TemporalTransformer
from portrait_jax.nn.transformer import SpatialTransformer
from tests.golden import assert_close, channels_last
from tests.systems.follow_your_emoji.original import (
    BUFFERS,
    build,
    case,
    module_options,
    part,
    unet_config,
)
from tests.weights import imported, tree_of


def test_landmark_guider_matches_golden():
    golden = case("guider")
    config = golden.config
    sizes = LandmarkGuiderConfig(tuple(config["block_out_channels"]), config["conditioning_embedding_channels"])
    guider, image = LandmarkGuider(sizes), channels_last(golden.inputs["conditioning"])
    params = imported(tree_of(guider, image), golden.weights(), part("guider"))
    assert_close(jax.jit(guider.apply)(params, image), channels_last(golden.outputs["embedding"]))


def test_motion_module_matches_golden():
    golden = case("motion_module")
    module, x = TemporalTransformer(TemporalConfig(**module_options(golden.config))), golden.inputs["hidden_states"]
    place = "down_blocks_0/motion_modules_0"
    params = imported(tree_of(module, channels_last(x)), golden.weights(), part("denoiser"), at=place)
    assert_close(jax.jit(module.apply)(params, channels_last(x)), channels_last(golden.outputs["hidden_states"]))


def test_position_table_is_the_golden_buffer():
    buffers = [value for name, value in case("motion_module").weights().items() if BUFFERS.fullmatch(name)]
    assert len(buffers) == len(case("motion_module").config["attention_block_types"])
    for stored in buffers:
        np.testing.assert_allclose(position_table(*stored.shape[1:])[None], stored, atol=1e-5)


@pytest.fixture(scope="module")
def transformer():
    """The golden spatial transformer as a function of reference and conditioning."""
    golden = case("spatial_transformer")
    config, x = golden.config, golden.inputs["hidden_states"]
    site = Site("block", 0, 0, config["in_channels"])
    module = SpatialTransformer(config["num_attention_heads"], site, groups=config["norm_num_groups"])
    x, frames = channels_last(x), x.shape[2]
    pictures = jnp.asarray(x.reshape(-1, *x.shape[2:]))
    context = jnp.asarray(golden.inputs["encoder_hidden_states"])
    tree = tree_of(module, pictures, context, None, Conditioning(), frames)
    params = imported(tree, golden.weights(), part("denoiser"), at="down_blocks_0/attentions_0")

    @jax.jit
    def run(reference, conditioning):
        out, _ = module.apply(params, pictures, context, reference, conditioning, frames)
        return out.reshape(x.shape)

    return run, golden


@pytest.mark.parametrize(
    ("output", "given", "masked"),
    [
        ("no_reference", False, None),
        ("reference", True, None),
        ("reference_cfg", True, "first half"),
        ("no_reference", True, "all"),
    ],
)
def test_spatial_transformer_matches_golden(transformer, output, given, masked):
    run, golden = transformer
    batch = len(golden.inputs["hidden_states"])
    shown = {None: None, "first half": np.arange(batch) >= batch // 2, "all": np.zeros(batch)}[masked]
    conditioning = Conditioning(reference_mask=None if shown is None else shown.astype(np.float32))
    out = run(golden.inputs["reference_sample"] if given else None, conditioning)
    assert_close(out, channels_last(golden.outputs[output]))


@pytest.fixture(scope="module")
def features():
    """What the reference net captures from its golden inputs: with zero tokens, and with the given."""
    golden = case("referencenet")
    module, params = build(golden, "reference")
    tokens, sample = golden.inputs["encoder_hidden_states"], channels_last(golden.inputs["sample"])
    conditioning = Conditioning(image_tokens=np.concatenate([0 * tokens, tokens]))
    samples = np.concatenate([sample, sample])[:, None]
    timestep = np.full(len(samples), golden.settings["timestep"])
    run = jax.jit(lambda *args: module.apply(*args, capture=True))
    out, captured = run(params, samples, timestep, conditioning)
    assert out is None
    halves = {path: np.split(np.asarray(value[:, 0]), 2) for path, value in captured.items()}
    return {"uncond": {path: half[0] for path, half in halves.items()},
            "cond": {path: half[1] for path, half in halves.items()}}  # fmt: skip


def running_order(name: str) -> tuple[int, int]:
    """Of `down.3`, `mid`, `up.0`: the encoder's transformers, the middle's, the decoder's."""
    side, _, number = name.partition(".")
    return ("down", "mid", "up").index(side), int(number or 0)


def test_reference_net_features_match_golden(features):
    golden = case("referencenet")
    names = sorted(golden.outputs, key=running_order)
    paths = attention_paths(unet_config(golden))
    assert sorted(features["cond"]) == sorted(paths)
    for path, name in zip(paths, names, strict=True):
        assert_close(features["cond"][path], golden.outputs[name])


def test_unet_matches_golden(features):
    """All four golden cases in one batch: they differ by their conditioning alone."""
    golden = case("unet")
    module, params = build(golden, "denoiser")
    tokens, landmarks = golden.inputs["encoder_hidden_states"], channels_last(golden.inputs["lmk_cond_fea"])
    cases = {
        "no_reference_no_landmark": (tokens, 0.0, 0 * landmarks, "cond"),
        "reference": (tokens, 1.0, landmarks, "cond"),
        "uncond": (0 * tokens, 0.0, landmarks, "uncond"),
        "cond": (tokens, 1.0, landmarks, "cond"),
    }
    x = channels_last(golden.inputs["sample"])
    timestep = np.broadcast_to(golden.inputs["timestep"].astype(np.int32), len(x))
    tokens, masks, spatial, branches = zip(*cases.values())
    conditioning = Conditioning(
        image_tokens=np.concatenate(tokens),
        reference={path: np.concatenate([features[name][path] for name in branches]) for path in features["cond"]},
        reference_mask=np.repeat(np.array(masks, np.float32), len(x)),
        spatial=np.concatenate(spatial),
    )
    repeated = np.concatenate([x] * len(cases))
    out = jax.jit(module.apply)(params, repeated, np.tile(timestep, len(cases)), conditioning)
    alone, reference, *pair = np.split(np.asarray(out), len(cases))
    assert_close(alone, channels_last(golden.outputs["no_reference_no_landmark"]))
    assert_close(reference, channels_last(golden.outputs["reference"]))
    assert_close(np.concatenate(pair), channels_last(golden.outputs["cfg_pair"]))
