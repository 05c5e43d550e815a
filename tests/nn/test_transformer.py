"""The spatial transformer equals the original's in its three modes."""

import jax
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.nn.slots import Site
from portrait_jax.nn.transformer import SpatialTransformer
from tests.golden import assert_close, channels_last, flax_params, golden_config, golden_tensors

FRAMES = 3


@pytest.fixture(scope="module")
def golden():
    config = golden_config("follow_your_emoji")["spatial_transformer"]["config"]
    data = golden_tensors("follow_your_emoji", "spatial_transformer")
    params = flax_params({k.removeprefix("weights."): v for k, v in data.items() if k.startswith("weights.")})
    module = SpatialTransformer(
        config["num_attention_heads"], Site("block", 0, 0, config["in_channels"]), groups=config["norm_num_groups"]
    )

    @jax.jit
    def run(x, context, reference, conditioning):
        out, tokens = module.apply(params, x.reshape(-1, *x.shape[2:]), context, reference, conditioning, FRAMES)
        return out.reshape(x.shape), tokens

    return run, data


@pytest.mark.parametrize(
    ("output", "mask"),
    [("no_reference", "absent"), ("reference", None), ("reference_cfg", (0.0, 1.0)), ("no_reference", (0.0, 0.0))],
)
def test_spatial_transformer_matches_golden(golden, output, mask):
    run, data = golden
    reference = None if mask == "absent" else data["inputs.reference_sample"]
    conditioning = Conditioning(reference_mask=np.asarray(mask, np.float32) if isinstance(mask, tuple) else None)
    x = channels_last(data["inputs.hidden_states"])
    out, _ = run(x, data["inputs.encoder_hidden_states"], reference, conditioning)
    assert_close(out, channels_last(data[f"outputs.{output}"]))


def test_captured_tokens_are_normalised_and_independent_of_the_reference(golden):
    run, data = golden
    x = channels_last(data["inputs.hidden_states"])
    args = (x, data["inputs.encoder_hidden_states"])
    _, without = run(*args, None, Conditioning())
    _, given = run(*args, data["inputs.reference_sample"], Conditioning())
    np.testing.assert_array_equal(without, given)
    assert without.shape == (2 * FRAMES, 20, 32)
