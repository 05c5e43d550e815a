"""Graphs of ONNX files: operators in running order, and weights that are read one at a time.

An ONNX file (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) is one protocol-buffers message. The few fields that a
network of plain layers needs are read here, from a mapped file: the `onnx` package would load all of it, and is not worth a
dependency for the face recognisers that come in no other form.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange.safetensors_files import Spec

DTYPES = {
    1: np.dtype(np.float32), 6: np.dtype(np.int32), 7: np.dtype(np.int64), 10: np.dtype(np.float16),
    11: np.dtype(np.float64), 16: np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip
"""The format's numbers of the dtypes."""
MODEL_GRAPH, GRAPH_NODE, GRAPH_INITIALIZER = 7, 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_OPERATOR, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INTEGER, ATTRIBUTE_TENSOR = 1, 2, 3, 5
TENSOR_DIMS, TENSOR_DTYPE, TENSOR_FLOATS, TENSOR_NAME, TENSOR_RAW, TENSOR_PLACE = 1, 2, 4, 8, 9, 14
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_PARTS = 1 << 17
"""Operators and weights of one graph."""
MAX_AXES = 8

Span = tuple[int, int]


@dataclass(frozen=True)
class Tensor:
    """One weight: what it is, and where its bytes lie in the file."""

    spec: Spec
    span: Span


@dataclass(frozen=True)
class Node:
    """One operator."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[str, float]
    """Attributes that are one number."""
    tensors: dict[str, Tensor]
    """Attributes that are a tensor."""


class OnnxGraph:
    """The graph of one file: `nodes` in running order, `weights` by name, `read`.

    Raises:
        CheckpointError: for a file that is truncated, damaged, no ONNX graph, or has its weights in other files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.nodes: list[Node] = []
        self.weights: dict[str, Tensor] = {}
        try:
            for start, stop in self._spans((0, len(self._bytes)), MODEL_GRAPH):
                self._read_graph((start, stop))
        except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
            raise CheckpointError(f"{path} is truncated, damaged or no ONNX file ({error}); fetch it again") from error
        if not self.nodes:
            raise CheckpointError(f"{path} is no ONNX file with a graph; fetch it again")

    def read(self, tensor: Tensor) -> np.ndarray:
        """One weight in its own dtype."""
        start, stop = tensor.span
        return np.frombuffer(self._bytes[start:stop], tensor.spec.dtype).reshape(tensor.spec.shape)

    def _read_graph(self, span: Span) -> None:
        for number, kind, value in self._fields(span):
            if kind != BYTES:
                continue
            if number == GRAPH_NODE:
                self.nodes.append(self._node(value))
            elif number == GRAPH_INITIALIZER:
                name, tensor = self._tensor(value)
                self.weights[name] = tensor
            if len(self.nodes) + len(self.weights) > MAX_PARTS:
                raise ValueError(f"more than {MAX_PARTS} operators and weights")
        # Exporters write a weight either way: as an initializer, or as an operator without inputs.
        for node in self.nodes:
            if node.operator == "Constant" and "value" in node.tensors:
                self.weights[node.outputs[0]] = node.tensors["value"]

    def _node(self, span: Span) -> Node:
        inputs, outputs, operator = [], [], ""
        numbers: dict[str, float] = {}
        tensors: dict[str, Tensor] = {}
        for number, kind, value in self._fields(span):
            if kind != BYTES:
                continue
            if number == NODE_INPUT:
                inputs.append(self._text(value))
            elif number == NODE_OUTPUT:
                outputs.append(self._text(value))
            elif number == NODE_OPERATOR:
                operator = self._text(value)
            elif number == NODE_ATTRIBUTE:
                self._attribute(value, numbers, tensors)
        return Node(operator, tuple(inputs), tuple(outputs), numbers, tensors)

    def _attribute(self, span: Span, numbers: dict[str, float], tensors: dict[str, Tensor]) -> None:
        name, found = "", {}
        for number, _, value in self._fields(span):
            found[number] = value
        if ATTRIBUTE_NAME in found:
            name = self._text(found[ATTRIBUTE_NAME])
        if ATTRIBUTE_TENSOR in found:
            tensors[name] = self._tensor(found[ATTRIBUTE_TENSOR])[1]
        elif ATTRIBUTE_FLOAT in found:
            numbers[name] = struct.unpack("<f", struct.pack("<I", found[ATTRIBUTE_FLOAT]))[0]
        elif ATTRIBUTE_INTEGER in found:
            numbers[name] = float(found[ATTRIBUTE_INTEGER])

    def _tensor(self, span: Span) -> tuple[str, Tensor]:
        dims: list[int] = []
        found: dict[int, Any] = {}
        for number, kind, value in self._fields(span):
            if number == TENSOR_DIMS:
                dims += [value] if kind == VARINT else list(self._varints(value))
            else:
                found[number] = value
        name = self._text(found[TENSOR_NAME]) if TENSOR_NAME in found else ""
        if found.get(TENSOR_PLACE, 0):
            raise CheckpointError(f"{self.path} keeps its weights in other files, which are not read; export it as one")
        dtype = DTYPES.get(found.get(TENSOR_DTYPE, 0), np.dtype(np.uint8))
        spec = Spec(tuple(dims), dtype)
        data = found.get(TENSOR_RAW, found.get(TENSOR_FLOATS, (0, 0)))
        if len(dims) > MAX_AXES or (dtype.name != "uint8" and data[1] - data[0] not in (0, spec.nbytes)):
            raise ValueError(f"weight '{name}' of shape {dims} has {data[1] - data[0]} bytes")
        return name, Tensor(spec, data)

    def _spans(self, span: Span, wanted: int) -> Iterator[Span]:
        return (value for number, kind, value in self._fields(span) if number == wanted and kind == BYTES)

    def _fields(self, span: Span) -> Iterator[tuple[int, int, Any]]:
        """Field number, wire type, and the value or where the bytes lie, of one message."""
        at, end = span
        while at < end:
            key, at = self._varint(at)
            number, kind = key >> 3, key & 7
            value: int | Span
            if kind == VARINT:
                value, at = self._varint(at)
            elif kind == BYTES:
                length, at = self._varint(at)
                value, at = (at, at + length), at + length
            elif kind in (FIXED32, FIXED64):
                width = 4 if kind == FIXED32 else 8
                value, at = int.from_bytes(self._bytes[at : at + width], "little"), at + width
            else:
                raise ValueError(f"wire type {kind}")
            if at > end or not number:
                raise IndexError("a field that is longer than its message")
            yield number, kind, value

    def _varints(self, span: Span) -> Iterator[int]:
        at, end = span
        while at < end:
            value, at = self._varint(at)
            yield value

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._bytes[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise ValueError("a number of more than ten bytes")

    def _text(self, span: Span) -> str:
        return self._bytes[span[0] : span[1]].decode()
