"""Reference net and denoising UNet of Follow-Your-Emoji equal the originals, with weights by the published recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.backbones.unet import UNet, UNetConfig, attention_paths
from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.temporal import TemporalConfig
from tests.golden import (
    assert_close,
    channels_last,
    flax_params,
    golden_config,
    golden_tensors,
    recipe_weights,
    torch_shapes,
)

SYSTEM = "follow_your_emoji"
UNCOND, COND = 0, 1
# The original's last transformer has an output projection that it never calls.
UNUSED = ("up_blocks.3.attentions.2.proj_out.weight", "up_blocks.3.attentions.2.proj_out.bias")


def config_of(name: str, **changes) -> UNetConfig:
    original = golden_config(SYSTEM)[name]["config"]
    return UNetConfig(
        block_out_channels=tuple(original["block_out_channels"]),
        num_heads=original["attention_head_dim"],
        context_dim=original["cross_attention_dim"],
        norm_groups=original["norm_num_groups"],
        image_prompt_dim=1024,
        **changes,
    )


def build(name: str, unused: tuple, **changes):
    """Module and variables with recipe weights."""
    entry = golden_config(SYSTEM)[name]
    config = config_of(name, **changes)
    module = UNet(config)
    shapes = jax.eval_shape(
        lambda rng: module.init(rng, jnp.zeros((1, 2, 8, 8, 4)), jnp.zeros(1), capture=True), jax.random.key(0)
    )
    names = torch_shapes(shapes)
    assert len(names) + len(unused) == entry["n_params"]
    return module, flax_params(recipe_weights(names, entry["recipe_seed"], unused))


@pytest.fixture(scope="module")
def features():
    """What the reference net captures from its golden inputs, with zero tokens (UNCOND) and with the given (COND)."""
    data = golden_tensors(SYSTEM, "referencenet")
    module, params = build("referencenet", UNUSED, output_head=False)
    tokens = data["inputs.encoder_hidden_states"]
    sample = np.repeat(np.moveaxis(data["inputs.sample"], 1, -1)[:, None], 2, axis=0)
    conditioning = Conditioning(image_tokens=np.concatenate([0 * tokens, tokens]))
    out, features = jax.jit(lambda *args: module.apply(*args, capture=True))(params, sample, np.zeros(2), conditioning)
    assert out is None
    return {path: tokens[:, 0] for path, tokens in features.items()}


def test_reference_net_features_match_golden(features):
    data = golden_tensors(SYSTEM, "referencenet")
    names = [f"down.{i}" for i in range(6)] + ["mid"] + [f"up.{i}" for i in range(9)]
    paths = attention_paths(config_of("referencenet"))
    assert sorted(features) == sorted(paths)
    for path, name in zip(paths, names, strict=True):
        assert_close(features[path][COND:], data[f"outputs.{name}"])


def test_unet_matches_golden(features):
    """All four golden cases in one batch: they differ by their conditioning alone."""
    data = golden_tensors(SYSTEM, "unet")
    module, params = build("unet", (), temporal=TemporalConfig())
    tokens, landmarks = data["inputs.encoder_hidden_states"], channels_last(data["inputs.lmk_cond_fea"])
    cases = {
        "no_reference_no_landmark": (tokens, 0.0, 0 * landmarks, COND),
        "reference": (tokens, 1.0, landmarks, COND),
        "uncond": (0 * tokens, 0.0, landmarks, UNCOND),
        "cond": (tokens, 1.0, landmarks, COND),
    }
    tokens, masks, spatial, items = zip(*cases.values())
    conditioning = Conditioning(
        image_tokens=np.concatenate(tokens),
        reference={path: value[np.array(items)] for path, value in features.items()},
        reference_mask=np.array(masks, np.float32),
        spatial=np.concatenate(spatial),
    )
    x = np.repeat(channels_last(data["inputs.sample"]), len(cases), axis=0)
    timestep = np.repeat(data["inputs.timestep"].astype(np.int32), len(cases))
    out = jax.jit(module.apply)(params, x, timestep, conditioning)
    assert_close(out[:1], channels_last(data["outputs.no_reference_no_landmark"]))
    assert_close(out[1:2], channels_last(data["outputs.reference"]))
    assert_close(out[2:], channels_last(data["outputs.cfg_pair"]))
