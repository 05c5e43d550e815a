"""The face recogniser equals insightface's iResNet, written here in PyTorch from its published description."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from portrait_jax.encoders import ArcFace, ArcFaceConfig
from tests.parity.oracle import (
    assert_parity,
    channels_last,
    draw,
    publish,
    randomised,
    torch,
)
from tests.weights import part_of

pytestmark = pytest.mark.parity

TINY = ArcFaceConfig(layers=(2, 1, 2, 1), channels=(8, 8, 16, 24), embedding=12, image_size=32)


class OracleBlock(torch.nn.Module):
    """Norm, convolution, norm, PReLU, strided convolution, norm; the shortcut is a strided 1×1 convolution and a norm."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        layers = torch.nn
        self.bn1 = layers.BatchNorm2d(inputs)
        self.conv1 = layers.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = layers.BatchNorm2d(outputs)
        self.prelu = layers.PReLU(outputs)
        self.conv2 = layers.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = layers.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            convolution = layers.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = layers.Sequential(convolution, layers.BatchNorm2d(outputs))

    def forward(self, x):
        hidden = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(hidden)) + (x if self.downsample is None else self.downsample(x))


class OracleNet(torch.nn.Module):
    """Stem, four stages, norm, channel-major flattening, linear, norm."""

    def __init__(self, config: ArcFaceConfig):
        super().__init__()
        layers, width = torch.nn, config.channels[0]
        self.conv1 = layers.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1, self.prelu = layers.BatchNorm2d(width), layers.PReLU(width)
        for i, (channels, count) in enumerate(zip(config.channels, config.layers), 1):
            blocks = [OracleBlock(width if j == 0 else channels, channels, 2 if j == 0 else 1) for j in range(count)]
            setattr(self, f"layer{i}", layers.Sequential(*blocks))
            width = channels
        self.bn2 = layers.BatchNorm2d(width)
        self.fc = layers.Linear(width * (config.image_size // 16) ** 2, config.embedding)
        self.features = layers.BatchNorm1d(config.embedding)

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


def test_embedding_equals_the_published_network():
    oracle = randomised(OracleNet(TINY))
    generator = torch.Generator().manual_seed(3)
    for name, value in oracle.named_buffers():
        if value.ndim:
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(noise + 0.5 if name.endswith("var") else noise - 0.5)
    part = part_of("arcface_iresnet50")
    published = publish(oracle.state_dict(), part, ArcFace(TINY), jnp.zeros((1, 32, 32, 3)))

    def apply(params, x, dtype):
        return ArcFace(TINY, dtype).apply(params, channels_last(x), unit=False)

    def call(x):
        return oracle(x)

    names = ["layer2.0.downsample.0.weight", "layer1.1.prelu.weight"]
    assert_parity(oracle, call, apply, draw(2, 3, 32, 32), published, names)
    unit = torch.nn.functional.normalize(oracle(torch.tensor(draw(2, 3, 32, 32)))).detach().numpy()
    found = ArcFace(TINY).apply(published.variables, channels_last(draw(2, 3, 32, 32)))
    assert abs(found - unit).max() < 1e-5
