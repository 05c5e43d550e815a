"""T5 v1.1 XXL's encoder, as video models condition on it."""

import functools

import jax.numpy as jnp

from portrait_jax.encoders.t5 import T5Encoder
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import KeyMap


@functools.cache
def prompt_shapes():
    """The tree of the encoder."""
    return shapes_of(T5Encoder(), lambda: (jnp.zeros((1, 8), jnp.int32),))


PROMPT_PART = Part(
    "text_encoder",
    KeyMap(
        keep=("wi_0", "wi_1"),
        modules={
            "encoder.embed_tokens": "shared",
            # All layers share the first one's.
            "encoder.relative_attention_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        },
        stacked=("encoder/block",),
        # The same tensor as shared.weight, in files that do not tie them; and the other half of whole models.
        spare=(r"encoder\.embed_tokens\.weight",),
        ignored=(r"decoder\..*", r"lm_head\.weight"),
    ),
    prompt_shapes,
    Signature(
        ("shared.weight", "encoder.block.0.layer.1.DenseReluDense.wi_1.weight", "encoder.final_layer_norm.weight"),
        (),
        {"shared.weight": (32128, 4096), "encoder.block.0.layer.1.DenseReluDense.wi_1.weight": (10240, 4096)},
    ),
    "text_encoder",
)
LAYOUTS = (
    Layout("t5_v1_1_xxl_encoder", "T5 v1.1 XXL encoder (transformers)", (PROMPT_PART,), ("t5_v1_1_xxl_encoder",)),
)
