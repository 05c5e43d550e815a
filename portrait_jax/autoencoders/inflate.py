"""A video autoencoder that begins as an image autoencoder which sees each frame alone: kernels over space become kernels over time
and space whose other frames are zero, as image networks have been inflated since arXiv 1705.07750.
"""

from __future__ import annotations

import re

import numpy as np
from flax import traverse_util

from portrait_jax.errors import CheckpointError, listed
from portrait_jax.typing import Params

KEPT = re.compile(r"(down|up)samplers_|_blocks_\d+/shortcut/|encoder/.*/norm\d/")
"""Leaves that both have under the same names and in the same shapes."""
ATTENTION = "/attentions_"
LATENT = tuple(f"{name}/{kind}" for name in ("quant_conv", "post_quant_conv") for kind in ("kernel", "bias"))
"""Leaves of the two layers next to the latent, which a video autoencoder has not."""


def inflated(image: Params) -> Params:
    """Parameters of a `causal.CausalAutoencoder` from those of a `kl.AutoencoderKL` of the same widths, patches and shortcuts.

    A video of one frame is then encoded and decoded as the picture was (but that what `post_quant_conv` adds ends at the edge);
    of a longer one a latent stands for the means of what its frames gave. Norms are not conditioned yet.

    Raises:
        CheckpointError: for an image autoencoder with attention, which the other has not, and for what is none.
    """
    flat = {"/".join(path): np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(image).items()}
    if known := [name for name in flat if ATTENTION in name]:
        raise CheckpointError(f"a video autoencoder has no attention, and this one has: {listed(known)}")
    if missing := [name for name in LATENT if name not in flat]:
        raise CheckpointError(f"this is no image autoencoder: it lacks {listed(missing)}")
    made: dict[str, np.ndarray] = {}
    latent_channels = flat["post_quant_conv/kernel"].shape[-2]
    for name, leaf in _joined(flat).items():
        made |= _leaves(name, leaf, latent_channels)
    return traverse_util.unflatten_dict({tuple(name.split("/")): leaf for name, leaf in made.items()})


def _joined(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The two linear layers next to the latent become part of the convolutions beside them."""
    after, shift = flat["quant_conv/kernel"][0, 0], flat["quant_conv/bias"]
    before, added = flat["post_quant_conv/kernel"][0, 0], flat["post_quant_conv/bias"]
    made = {name: leaf for name, leaf in flat.items() if "quant_conv" not in name}
    for name in ("encoder/conv_out", "encoder/shortcut"):
        if f"{name}/kernel" in flat:
            made[f"{name}/kernel"], made[f"{name}/bias"] = flat[f"{name}/kernel"] @ after, flat[f"{name}/bias"] @ after
    made["encoder/conv_out/bias"] = made["encoder/conv_out/bias"] + shift
    kernel = flat["decoder/conv_in/kernel"]
    made["decoder/conv_in/kernel"] = np.einsum("ac,yxco->yxao", before, kernel)
    made["decoder/conv_in/bias"] = flat["decoder/conv_in/bias"] + np.einsum("c,yxco->o", added, kernel)
    return made


def _leaves(name: str, leaf: np.ndarray, latent_channels: int) -> dict[str, np.ndarray]:
    """What one leaf becomes, by name."""
    if KEPT.search(name):
        return {name: leaf}
    name = name.replace("conv_norm_out", "norm_out")
    path, kind = name.rsplit("/", 1)
    if "norm" in path:
        return _norm(path, kind, leaf, latent_channels)
    if "shortcut" in path:
        return {name: leaf[None] if kind == "kernel" else leaf}
    if kind == "kernel":
        leaf = np.concatenate([np.zeros((2, *leaf.shape), leaf.dtype), leaf[None]])
    return {f"{path}/conv/{kind}": leaf}


def _norm(path: str, kind: str, leaf: np.ndarray, latent_channels: int) -> dict[str, np.ndarray]:
    """The encoder's stays; the decoder's has maps of the latent besides, which are 1 and 0 everywhere."""
    if path.startswith("encoder/"):
        return {f"{path}/{kind}": leaf}
    kernel = np.zeros((1, 1, 1, latent_channels, len(leaf)), leaf.dtype)
    maps = {f"{path}/{name}/conv/kernel": kernel for name in ("conv_y", "conv_b")}
    biases = {f"{path}/conv_y/conv/bias": np.ones_like(leaf), f"{path}/conv_b/conv/bias": np.zeros_like(leaf)}
    return {f"{path}/norm_layer/{kind}": leaf, **maps, **biases}
