"""Procedural talking portraits: an endless, deterministic, exactly labelled data set.

Train identities have even seeds, test identities odd ones (`split_seed`).
"""

from data.synthetic.features import EXPRESSION_NAMES
from data.synthetic.head import POSE_NAMES
from data.synthetic.identity import ATTRIBUTE_NAMES, Identity, identity_attributes, sample_identity, split_seed
from data.synthetic.performance import Performance, sample_performance
from data.synthetic.render import Frame, render, render_clip

__all__ = [
    "ATTRIBUTE_NAMES", "EXPRESSION_NAMES", "POSE_NAMES", "Frame", "Identity", "Performance", "identity_attributes",
    "render", "render_clip", "sample_identity", "sample_performance", "split_seed",
]  # fmt: skip
