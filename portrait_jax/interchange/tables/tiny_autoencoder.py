"""TAESD, the tiny preview autoencoder, as diffusers keeps it: the names are the modules'."""

import functools

import jax.numpy as jnp

from portrait_jax.autoencoders.tiny import TinyAutoencoder
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import KeyMap


@functools.cache
def tiny_shapes():
    """The tree of the tiny autoencoder."""
    return shapes_of(TinyAutoencoder(), lambda: (jnp.zeros((1, 32, 32, 3)),))


FIRST = "encoder.layers.1.conv.0.weight"
LAYOUTS = (
    Layout(
        "taesd",
        "TAESD, the tiny autoencoder for previews (diffusers)",
        (
            Part(
                "preview",
                KeyMap(),
                tiny_shapes,
                Signature((FIRST, "decoder.layers.0.weight"), (), {FIRST: (64, 64, 3, 3)}),
            ),
        ),
    ),
)
