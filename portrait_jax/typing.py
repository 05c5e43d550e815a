"""Array types and the glossary of axis names used in every annotation.

b batch · f frames · h, w space (latent or pixel, the docstring says) · c channels · n tokens · k context tokens ·
d features · s solver steps · win windows · p landmark points.

Ranges in names: `image_u8` 0..255, `image_01` 0..1, `image_pm1` −1..1, `landmarks_px` pixels from the top-left corner.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Num, PRNGKeyArray, UInt8

PyTree = Any
Params = Mapping[str, PyTree]
"""One entry per sub-network: `{"denoiser": …, "reference": …}`."""

Image = UInt8[np.ndarray, "h w 3"]
Video = UInt8[np.ndarray, "f h w 3"]
Landmarks = Float[np.ndarray, "*f 478 3"]

__all__ = [
    "Array", "Bool", "Float", "Image", "Int", "Landmarks", "Num", "PRNGKeyArray", "Params", "PyTree", "UInt8", "Video",
]  # fmt: skip
