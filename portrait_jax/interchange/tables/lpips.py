"""LPIPS 0.1 with AlexNet: torchvision's classifier, of which the convolutions are used, and the fitted linear layers."""

import functools

import jax

from portrait_jax.interchange.layouts import Layout, Part, Signature
from portrait_jax.interchange.rules import POINTWISE, KeyMap
from portrait_jax.metrics.lpips import SUBNET, fresh

FIRST, LINEAR = "features.0.weight", "lin0.model.1.weight"


@functools.cache
def shapes():
    """The tree of the network."""
    return jax.eval_shape(fresh)


def part(select: str, table: KeyMap, signature: Signature, file: str) -> Part:
    """One of the two published files."""
    return Part(SUBNET, table, shapes, signature, file, select=select)


LAYOUTS = (
    Layout(
        "lpips_alex",
        "LPIPS 0.1 with AlexNet: torchvision's AlexNet and the linear layers (alex.pth)",
        (
            part(
                r"features_",
                # The classifier's head has no part in the distance.
                KeyMap(spare=(r"classifier\..*",)),
                Signature((FIRST, "features.10.weight"), (r"lin0\.",), {FIRST: (64, 3, 11, 11)}),
                "alexnet.pth",
            ),
            part(
                r"lin",
                # Before each linear layer stands a dropout, hence the 1.
                KeyMap(renames=((r"^(lin\d)\.", r"\1.model.1."),), kinds=((r"lin\d/kernel", POINTWISE),)),
                Signature((LINEAR,), (), {LINEAR: (1, 64, 1, 1)}),
                "alex.pth",
            ),
        ),
    ),
)
