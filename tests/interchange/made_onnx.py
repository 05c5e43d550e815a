"""ONNX files made up for tests: an iResNet as exporters write it, from tensors with the names of the `.pth` file."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

EPS = 1e-5


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    head = []
    while value > 0x7F:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


def field(number: int, value: bytes | str | int) -> bytes:
    """One field of a message: bytes and text with their length, integers as they are."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, array: np.ndarray) -> bytes:
    """A TensorProto with raw data."""
    kind = {np.dtype(np.float32): 1, np.dtype(np.float16): 10}[array.dtype]
    dims = b"".join(field(1, axis) for axis in array.shape)
    return dims + field(2, kind) + field(8, name) + field(9, np.ascontiguousarray(array).tobytes())


class Graph:
    """Operators and weights in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.weights: list[bytes] = []
        self._numbers = itertools.count(100)

    def weight(self, array: np.ndarray) -> str:
        """Adds a weight under a number, as exporters do."""
        name = str(next(self._numbers))
        self.weights.append(tensor(name, array))
        return name

    def constant(self, array: np.ndarray) -> str:
        """Adds a weight as an operator without inputs."""
        name = str(next(self._numbers))
        attribute = field(1, "value") + field(5, tensor("", array))
        self.nodes.append(field(2, name) + field(4, "Constant") + field(5, attribute))
        return name

    def add(self, operator: str, *inputs: str, **numbers: float) -> str:
        """Adds an operator; returns the name of its result."""
        name = str(next(self._numbers))
        made = b"".join(field(1, value) for value in inputs) + field(2, name) + field(4, operator)
        for key, value in numbers.items():
            bits = field(3, value) if isinstance(value, int) else varint(2 << 3 | 5) + struct.pack("<f", value)
            made += field(5, field(1, key) + bits)
        self.nodes.append(made)
        return name

    def save(self, path: Path) -> Path:
        """Writes the model."""
        graph = b"".join(field(1, node) for node in self.nodes) + b"".join(field(5, one) for one in self.weights)
        path.write_bytes(field(1, 8) + field(2, "made up") + field(7, graph))
        return path


def iresnet(tensors: Mapping[str, np.ndarray], path: Path, *, fold: bool, normalises: bool = False) -> Path:
    """The network of `.pth` tensors: norms folded into the convolutions before them, or not."""
    graph, x = Graph(), "input.1"

    def norm(x: str, name: str) -> str:
        sources = [graph.weight(tensors[f"{name}.{key}"]) for key in ("weight", "bias", "running_mean", "running_var")]
        return graph.add("BatchNormalization", x, *sources, epsilon=EPS)

    def convolution(x: str, name: str, behind: str) -> str:
        kernel = tensors[f"{name}.weight"]
        if not fold:
            return norm(graph.add("Conv", x, graph.weight(kernel)), behind)
        scale, bias, mean, variance = (
            tensors[f"{behind}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
        )
        gain = scale / np.sqrt(variance + np.float32(EPS))
        kernel = (kernel * gain[:, None, None, None]).astype(np.float32)
        return graph.add("Conv", x, graph.weight(kernel), graph.weight((bias - mean * gain).astype(np.float32)))

    def prelu(x: str, name: str) -> str:
        slope = tensors[f"{name}.weight"][:, None, None]
        return graph.add("PRelu", x, graph.constant(slope) if fold else graph.weight(slope))

    if normalises:
        x = graph.add("Sub", x, graph.weight(np.float32([127.5])))
        x = graph.add("Mul", x, graph.weight(np.float32([1 / 127.5])))
    x = prelu(convolution(x, "conv1", "bn1"), "prelu")
    blocks = sorted({tuple(name.split(".")[:2]) for name in tensors if name.startswith("layer")})
    for block in (f"{stage}.{number}" for stage, number in sorted(blocks, key=lambda b: (b[0], int(b[1])))):
        before, x = x, norm(x, f"{block}.bn1")
        x = prelu(convolution(x, f"{block}.conv1", f"{block}.bn2"), f"{block}.prelu")
        x = convolution(x, f"{block}.conv2", f"{block}.bn3")
        if f"{block}.downsample.0.weight" in tensors:
            before = convolution(before, f"{block}.downsample.0", f"{block}.downsample.1")
        x = graph.add("Add", x, before)
    x = graph.add("Flatten", norm(x, "bn2"))
    x = graph.add("Gemm", x, graph.weight(tensors["fc.weight"]), graph.weight(tensors["fc.bias"]), transB=1)
    norm(x, "features")
    return graph.save(path)
