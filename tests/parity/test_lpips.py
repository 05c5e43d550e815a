"""LPIPS equals its published definition, written here in PyTorch."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from portrait_jax.interchange.convert import import_tree
from portrait_jax.interchange.layouts import layout_named
from portrait_jax.metrics.lpips import SCALE, SHIFT, Lpips, fresh
from portrait_jax.training.state import flatten, unflatten
from tests.parity.oracle import channels_last, draw, randomised, torch

pytestmark = pytest.mark.parity

TAPS = (1, 4, 7, 9, 11)
"""The ReLUs of torchvision's AlexNet."""


def oracle():
    """AlexNet's feature layers in torchvision's order, and the linear layers."""
    layers = torch.nn
    features = layers.Sequential(
        layers.Conv2d(3, 64, 11, 4, 2), layers.ReLU(), layers.MaxPool2d(3, 2),
        layers.Conv2d(64, 192, 5, 1, 2), layers.ReLU(), layers.MaxPool2d(3, 2),
        layers.Conv2d(192, 384, 3, 1, 1), layers.ReLU(),
        layers.Conv2d(384, 256, 3, 1, 1), layers.ReLU(),
        layers.Conv2d(256, 256, 3, 1, 1), layers.ReLU(),
    )  # fmt: skip
    linear = [layers.Conv2d(channels, 1, 1, bias=False) for channels in (64, 192, 384, 256, 256)]
    return randomised(features), [randomised(layer, seed) for seed, layer in enumerate(linear)]


def distance(features, linear, first, second):
    """The definition of the paper's section 3."""
    shift, scale = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (SHIFT, SCALE))
    a, b, total = (first - shift) / scale, (second - shift) / scale, 0.0
    for number, layer in enumerate(features):
        a, b = layer(a), layer(b)
        if number in TAPS:
            unit = [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b)]
            weighed = linear[TAPS.index(number)]((unit[0] - unit[1]).square())
            total = total + weighed.mean(dim=(1, 2, 3))
    return total


def test_distances_equal_the_published_definition():
    features, linear = oracle()
    files = (
        {f"features.{name}": value.numpy() for name, value in features.state_dict().items()},
        {f"lin{i}.model.1.weight": layer.weight.detach().numpy() for i, layer in enumerate(linear)},
    )
    shapes, leaves = jax.eval_shape(fresh), {}
    for part, tensors in zip(layout_named("lpips_alex").parts, files):
        leaves |= flatten(import_tree(part, tensors, shapes))
    first, second = draw(2, 3, 80, 96), draw(2, 3, 80, 96, seed=2)
    with torch.no_grad():
        expected = distance(features, linear, torch.tensor(first), torch.tensor(second)).numpy()
    found = Lpips().apply({"params": unflatten(leaves)}, channels_last(first), channels_last(second))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(expected).min() > 1e-3
