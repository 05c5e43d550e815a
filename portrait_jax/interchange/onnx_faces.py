"""insightface's ONNX packs (`w600k_r50.onnx`, `glintr100.onnx`): iResNets as graphs, with the names of the `.pth` files.

An exporter gives most weights numbers for names and folds batch norms that follow a convolution into it. So the names are
recovered by walking the graph in running order; what was folded becomes a norm that only adds the bias. The layouts
`arcface_iresnet50` and `arcface_iresnet100` then apply as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange.onnx_files import Node, OnnxGraph
from portrait_jax.interchange.safetensors_files import Spec

EPS = 1e-5
"""Of the network's norms (`nn.norms.BatchNorm`)."""
SILENT = ("Flatten", "Reshape", "Identity", "Dropout", "Constant", "Shape", "Gather", "Unsqueeze", "Concat", "Add")
"""Operators that hold no weights of the network, and so name nothing."""
MIDDLE = 127.5
"""`face_pm1` is (pixel − 127.5) / 127.5."""
NORM = ("weight", "bias", "running_mean", "running_var")

Make = Callable[[], np.ndarray]


class OnnxFaces:
    """An iResNet's tensors by the names of the `.pth` files: `specs`, and `read`.

    Raises:
        CheckpointError: for a damaged file, or another network.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.kind = path, "ONNX graph of an iResNet"
        self.metadata: dict[str, str] = {}
        self._graph = OnnxGraph(path)
        self._makers: dict[str, tuple[Spec, Make]] = {}
        self._readers = readers(self._graph.nodes)
        walk = Walk(self)
        for node in self._graph.nodes:
            walk.step(node)
        walk.finish()
        self.specs = {name: spec for name, (spec, _) in self._makers.items()}

    def read(self, name: str, row: int | None = None) -> np.ndarray:
        """One tensor in its own dtype, or one entry of its first axis."""
        spec, make = self._makers[name]
        tensor = make().astype(spec.dtype)
        return tensor if row is None else tensor[row]

    def put(self, name: str, source: str, change: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> None:
        """Names a weight of the graph."""
        tensor = self._graph.weights.get(source)
        if tensor is None or name in self._makers or tensor.spec.dtype.kind not in "fV":
            raise self.other(f"'{name}' would be '{source}'")
        shape = change(np.broadcast_to(np.float32(0), tensor.spec.shape)).shape
        self._makers[name] = (Spec(shape, tensor.spec.dtype), lambda: change(self._graph.read(tensor)))

    def put_folded(self, name: str, bias: str | None, channels: int) -> None:
        """A norm that was folded into the convolution before it: it adds that one's bias and changes nothing else."""
        for key, value in zip(NORM, (np.sqrt(1 + EPS), 0, 0, 1)):
            if key == "bias" and bias:
                self.put(f"{name}.{key}", bias)
            else:
                made = np.full(channels, value, np.float32)
                self._makers[f"{name}.{key}"] = (Spec(made.shape, made.dtype), lambda made=made: made)

    def shape(self, source: str) -> tuple[int, ...]:
        """Of a weight of the graph; empty if it is none."""
        tensor = self._graph.weights.get(source)
        return tensor.spec.shape if tensor else ()

    def number(self, source: str) -> float | None:
        """A weight of one element."""
        tensor = self._graph.weights.get(source)
        if tensor is None or np.prod(tensor.spec.shape, dtype=int) != 1:
            return None
        return float(self._graph.read(tensor).reshape(()))

    def read_by(self, value: str, operator: str) -> list[Node]:
        """The operators of one kind that read a value."""
        return [node for node in self._readers.get(value, []) if node.operator == operator]

    def other(self, what: str) -> CheckpointError:
        """This is not the network that the walk expects."""
        return CheckpointError(
            f"{self.path} is the graph of another network than an iResNet ({what}); no layout reads it"
        )


def readers(nodes: list[Node]) -> dict[str, list[Node]]:
    """Which operators read a value."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            found.setdefault(name, []).append(node)
    return found


class Walk:
    """Gives the weights of a graph in running order their names."""

    def __init__(self, faces: OnnxFaces) -> None:
        self._faces = faces
        self._stage, self._block, self._convolutions = 0, -1, 0
        self._prefix = ""
        self._normalises, self._scale, self._shift = False, 1 / MIDDLE, -1.0
        self._expected: Iterator[str] = iter(())
        self._last = ""

    def step(self, node: Node) -> None:
        """One operator.

        Raises:
            CheckpointError: an iResNet has no such operator there.
        """
        act = {
            "Conv": self._convolution, "BatchNormalization": self._norm, "PRelu": self._prelu, "Gemm": self._gemm,
            "Sub": self._before, "Mul": self._before, "Div": self._before,
        }.get(node.operator)  # fmt: skip
        if act is not None:
            act(node)
        elif node.operator not in SILENT:
            raise self._faces.other(f"it has an operator {node.operator}")

    def finish(self) -> None:
        """Raises CheckpointError unless the last layers were there."""
        if self._last != "features":
            raise self._faces.other(f"it ends with {self._last or 'no layer'}")

    def _before(self, node: Node) -> None:
        """Normalisation inside the graph: it takes pixels of 0 … 255 then."""
        number = self._faces.number(node.inputs[1])
        if self._last or not number:
            raise self._faces.other(f"{node.operator} between its layers")
        if not self._normalises:
            self._normalises, self._scale, self._shift = True, 1.0, 0.0
        if node.operator == "Sub":
            self._shift -= number
        else:
            factor = number if node.operator == "Mul" else 1 / number
            self._scale, self._shift = self._scale * factor, self._shift * factor

    def _convolution(self, node: Node) -> None:
        shape = self._faces.shape(node.inputs[1])
        name, norm = self._place(shape)
        self._faces.put(f"{name}.weight", node.inputs[1], self._pixels if name == "conv1" else lambda x: x)
        followed = self._faces.read_by(node.outputs[0], "BatchNormalization")
        if not followed:
            self._faces.put_folded(norm, node.inputs[2] if len(node.inputs) > 2 else None, shape[0])
        elif len(node.inputs) > 2:
            raise self._faces.other("a convolution with a bias and a norm")
        self._expected = iter([norm] if followed else [])
        self._last = name

    def _place(self, shape: tuple[int, ...]) -> tuple[str, str]:
        """The names of a convolution and of the norm behind it."""
        if len(shape) != 4 or shape[2] != shape[3] or shape[2] not in (1, 3):
            raise self._faces.other(f"a convolution of shape {list(shape)}")
        if not self._last:
            if abs(self._scale * MIDDLE + self._shift) > 1e-2:
                raise self._faces.other("its pixels are not centred at 127.5")
            return "conv1", "bn1"
        if shape[2] == 1:
            return f"{self._prefix}.downsample.0", f"{self._prefix}.downsample.1"
        self._convolutions += 1
        return f"{self._prefix}.conv{self._convolutions}", f"{self._prefix}.bn{self._convolutions + 1}"

    def _pixels(self, kernel: np.ndarray) -> np.ndarray:
        """The first kernel for pixels of −1 … 1, of which the graph sees scale · (127.5 · pixel + 127.5) + shift."""
        return kernel * np.float32(self._scale * MIDDLE) if self._normalises else kernel

    def _norm(self, node: Node) -> None:
        if abs(node.numbers.get("epsilon", EPS) - EPS) > 1e-7:
            raise self._faces.other(f"a norm with epsilon {node.numbers['epsilon']}")
        name = next(self._expected, None) or self._own_norm(node)
        for key, source in zip(NORM, node.inputs[1:]):
            self._faces.put(f"{name}.{key}", source)
        self._last = name

    def _own_norm(self, node: Node) -> str:
        """A norm that follows no convolution: a block's first, or one of the last two."""
        if self._last == "fc":
            return "features"
        if not self._faces.read_by(node.outputs[0], "Conv"):
            return "bn2"
        self._enter_block(node)
        return f"{self._prefix}.bn1"

    def _enter_block(self, node: Node) -> None:
        # Each stage begins with a block that halves space, and so takes its input through a 1×1 convolution besides.
        new_stage = bool(self._faces.read_by(node.inputs[0], "Conv"))
        self._stage, self._block = (self._stage + 1, 0) if new_stage else (self._stage, self._block + 1)
        self._prefix, self._convolutions = f"layer{self._stage}.{self._block}", 0

    def _prelu(self, node: Node) -> None:
        name = f"{self._prefix}.prelu" if self._prefix else "prelu"
        self._faces.put(f"{name}.weight", node.inputs[1], np.ravel)  # (c, 1, 1) in a graph

    def _gemm(self, node: Node) -> None:
        turned = bool(node.numbers.get("transB", 0))
        self._faces.put("fc.weight", node.inputs[1], lambda x: x if turned else x.T)
        self._faces.put("fc.bias", node.inputs[2])
        self._last = "fc"
