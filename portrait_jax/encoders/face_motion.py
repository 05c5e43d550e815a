"""What a face does, by two ResNets with group norms: an expression's feature, and how the head is turned and where it is.

Source: HunyuanPortrait (arXiv 2503.18860, appendix C.2; Tencent-Hunyuan/HunyuanPortrait, src/models/condition/coarse_motion.py),
after MegaPortraits (arXiv 2207.07621).
"""

from __future__ import annotations

import jax

from portrait_jax.encoders.resnet import ResNetConfig
from portrait_jax.typing import Array, Float

EXPRESSION = ResNetConfig(norm_groups=1, out=512, normalise=False)
"""Face crops in 0..1, 256 pixels square, to a feature."""
HEAD_POSE = ResNetConfig(layers=(2, 2, 2, 2), bottleneck=False, norm_groups=32, out=6, normalise=False)
"""Wider crops in 1..3 (2·pixel + 1, as published weights were used), 256 pixels square, to what `head_pose` reads."""


def head_pose(output: Float[Array, "*b 6"]) -> tuple[Float[Array, "*b 3"], Float[Array, "*b 3"]]:
    """(rotation in degrees, −180…180; translation, −2…2) from the head-pose network's output."""
    bounded = jax.nn.sigmoid(output)
    return bounded[..., :3] * 360 - 180, bounded[..., 3:] * 4 - 2
