"""ResNet and VGG equal their PyTorch descriptions, written here, through the key maps of the published files."""

from __future__ import annotations

from collections import OrderedDict

import jax.numpy as jnp
import pytest

from portrait_jax.encoders.resnet import MEAN, STD, ResNet, ResNetConfig
from portrait_jax.encoders.vgg import VGG, VGGConfig
from portrait_jax.interchange.layouts import Part
from portrait_jax.interchange.rules import KeyMap
from portrait_jax.interchange.tables.perception import numbered
from tests.parity.oracle import assert_parity, channels_first, channels_last, draw, joined, publish, randomised, torch
from tests.weights import part_of

pytestmark = pytest.mark.parity

RESNET = ResNetConfig(layers=(2, 1, 1, 2), channels=(4, 4, 6, 8))
VGG_TINY = VGGConfig(layers=(2, 1, 2), channels=(6, 8, 10))


class OracleBlock(torch.nn.Module):
    """1×1, strided 3×3 and 1×1 convolution with norms; the shortcut is a strided 1×1 convolution and a norm."""

    def __init__(self, inputs: int, inside: int, stride: int, shortcut: bool):
        super().__init__()
        layers = torch.nn
        self.conv1, self.bn1 = layers.Conv2d(inputs, inside, 1, bias=False), layers.BatchNorm2d(inside)
        self.conv2, self.bn2 = layers.Conv2d(inside, inside, 3, stride, 1, bias=False), layers.BatchNorm2d(inside)
        self.conv3, self.bn3 = layers.Conv2d(inside, 4 * inside, 1, bias=False), layers.BatchNorm2d(4 * inside)
        self.downsample = None
        if shortcut:
            convolution = layers.Conv2d(inputs, 4 * inside, 1, stride, bias=False)
            self.downsample = layers.Sequential(convolution, layers.BatchNorm2d(4 * inside))

    def forward(self, x):
        hidden = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return torch.relu(self.bn3(self.conv3(hidden)) + (x if self.downsample is None else self.downsample(x)))


class OracleResNet(torch.nn.Module):
    """Stem with max-pooling, four stages, mean over space; the classifier is there and unused."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        layers, width = torch.nn, config.channels[0]
        self.conv1, self.bn1 = layers.Conv2d(3, width, 7, 2, 3, bias=False), layers.BatchNorm2d(width)
        for i, (inside, count) in enumerate(zip(config.channels, config.layers), 1):
            blocks = []
            for j in range(count):
                blocks.append(OracleBlock(width, inside, 2 if i > 1 and j == 0 else 1, j == 0))
                width = 4 * inside
            setattr(self, f"layer{i}", layers.Sequential(*blocks))
        self.fc = layers.Linear(width, 5)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return x.mean((2, 3))


def test_resnet_equals_its_description():
    oracle = randomised(OracleResNet(RESNET))
    generator = torch.Generator().manual_seed(3)
    for name, value in oracle.named_buffers():
        if value.ndim:
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(noise + 0.5 if name.endswith("var") else noise - 0.5)
    published = publish(oracle.state_dict(), part_of("resnet50"), ResNet(RESNET), jnp.zeros((1, 32, 32, 3)))
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (MEAN, STD))

    def call(x):
        return oracle((x - mean) / std)

    def apply(params, x, dtype):
        return ResNet(RESNET, dtype).apply(params, channels_last(x))

    names = ["layer2.0.downsample.0.weight", "layer1.1.bn3.weight"]
    assert_parity(oracle, call, apply, draw(2, 3, 48, 48), published, names)


def oracle_vgg(config: VGGConfig):
    """torchvision's `features`, named as there, up to the last block's last activation."""
    layers, inputs = OrderedDict(), 3
    names = iter(name.split(".")[1] for _, name in numbered(config))
    for block, (count, channels) in enumerate(zip(config.layers, config.channels)):
        for _ in range(count):
            number = int(next(names))
            layers[str(number)] = torch.nn.Conv2d(inputs, channels, 3, 1, 1)
            layers[str(number + 1)] = torch.nn.ReLU()
            inputs = channels
        if block < len(config.layers) - 1:
            layers[str(number + 2)] = torch.nn.MaxPool2d(2, 2)
    return torch.nn.ModuleDict({"features": torch.nn.Sequential(layers)})


def test_vgg_equals_torchvisions_list_of_layers():
    oracle = randomised(oracle_vgg(VGG_TINY))
    full = part_of("vgg19")
    # The tiny network's numbers differ from VGG-19's, not the rule that gives them.
    names = dict(numbered(VGG_TINY))
    last = names["conv3_2"].replace(".", r"\.")
    table = KeyMap(keep=tuple(names), modules=names, spare=(rf"{last}\.(weight|bias)",))
    part = Part("vgg19", table, full.published, full.signature)
    published = publish(oracle.state_dict(), part, VGG(VGG_TINY), jnp.zeros((1, 16, 16, 3)))
    first = [names[f"conv{block}_1"].split(".")[1] for block in (1, 2, 3)]

    def call(x):
        x = (255 * x - torch.tensor(VGG_TINY.mean)[None, :, None, None])[:, [2, 1, 0]]
        seen = []
        for name, layer in oracle["features"].named_children():
            x = layer(x)
            if str(int(name) - 1) in first:
                seen.append(x)
        return joined(seen)

    def apply(params, x, dtype):
        return joined([channels_first(y) for y in VGG(VGG_TINY, dtype).apply(params, channels_last(x))])

    assert_parity(
        oracle, call, apply, draw(2, 3, 20, 20), published, [f"{names['conv2_1']}.weight", f"{names['conv1_2']}.bias"]
    )
