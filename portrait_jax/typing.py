"""Array types, and the glossary of short axis names; longer names are words that say what they are (`heads`, `side`).

Ranges in names: `image_u8` 0..255, `image_01` 0..1, `image_pm1` −1..1, `landmarks_px` pixels from the top-left corner.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Int16, Num, PRNGKeyArray, UInt8

AXES: Mapping[str, str] = MappingProxyType(
    {
        "a": "identity attributes",
        "b": "batch",
        "bf": "batch × frames",
        "c": "channels",
        "d": "features; coordinates of a landmark",
        "e": "features of an embedding; coordinates, beside another d",
        "f": "frames",
        "g": "frames of a second clip, beside f",
        "h": "height, latent or pixel (the docstring says)",
        "H": "height in pixels, beside a latent h",
        "h2": "height after a change of resolution",
        "hv": "height that is left where windows fit",
        "k": "context tokens, keys",
        "lf": "latent frames, beside frames f",
        "lh": "height in latent cells, beside a pixel h",
        "lw": "width in latent cells, beside a pixel w",
        "m": "tokens of keys and values",
        "n": "tokens, samples, pictures",
        "o": "frames that two windows share",
        "out": "outgoing channels",
        "p": "landmark points",
        "s": "solver steps; side of a square",
        "t": "timesteps, samples in time",
        "w": "width, latent or pixel (the docstring says)",
        "W": "width in pixels, beside a latent w",
        "w2": "width after a change of resolution",
        "win": "windows",
        "wv": "width that is left where windows fit",
        "z": "latent channels, beside pixel channels c",
    }
)
"""Names of one to three letters in annotations, everywhere the same."""

PyTree = Any
Params = Mapping[str, PyTree]
"""One entry per sub-network: `{"denoiser": …, "reference": …}`."""

Image = UInt8[np.ndarray, "h w 3"]
Video = UInt8[np.ndarray, "f h w 3"]
Landmarks = Float[np.ndarray, "*f 478 3"]

__all__ = [
    "AXES", "Array", "Bool", "Float", "Image", "Int", "Int16", "Landmarks", "Num", "PRNGKeyArray", "Params", "PyTree", "UInt8",
    "Video",
]  # fmt: skip
