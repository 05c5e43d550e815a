"""How a Flax leaf and published tensors become each other: names by a key map, axes by a kind.

Most of it is mechanical, because modules here carry the published names: `down_blocks_0/attentions_1/norm/scale` is
`down_blocks.0.attentions.1.norm.weight`. A `KeyMap` holds what is not. Names are only ever computed from Flax paths;
the other direction is the same table read backwards, so that the two cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from portrait_jax.interchange.safetensors_files import Spec

AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}
"""By rank: the order in which PyTorch keeps the axes of a Flax kernel (linear; convolution over one, two, three axes)."""
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
"""Flax leaf → PyTorch parameter; others keep their name."""


@dataclass(frozen=True)
class Kind:
    """A change of layout between published tensors and one leaf; pure, and a view where possible."""

    to_flax: Callable[..., np.ndarray]
    """Published tensors (one argument each) → leaf."""
    to_torch: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    """Leaf → published tensors."""


def same(x: np.ndarray) -> np.ndarray:
    """The tensor as it is."""
    return x


def kernel_to_torch(kernel: np.ndarray) -> tuple[np.ndarray, ...]:
    """(…, in, out) → (out, in, …)."""
    return (kernel.transpose(AXES[kernel.ndim]),)


def kernel_to_flax(weight: np.ndarray) -> np.ndarray:
    """(out, in, …) → (…, in, out)."""
    return weight.transpose(np.argsort(AXES[weight.ndim]))


SAME = Kind(same, lambda x: (x,))
KERNEL = Kind(kernel_to_flax, kernel_to_torch)
POINTWISE = Kind(
    lambda weight: weight.reshape(weight.shape[:2]).T,
    lambda kernel: (kernel.T[:, :, None, None],),
)
"""A dense layer here that is published as a 1×1 convolution; a file may hold it either way."""
LEADING_ONE = Kind(lambda x: x.reshape(x.shape[-2:]), lambda x: (x[None],))
"""A table (rows, width) here that is published with an axis of length 1 before it."""


def flattened(height: int, width: int) -> Kind:
    """A dense layer on a flattened picture: published channel by channel (c, h, w), here pixel by pixel (h, w, c)."""

    def to_flax(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(len(weight), -1, height, width).transpose(2, 3, 1, 0).reshape(-1, len(weight))

    def to_torch(kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        out = kernel.shape[1]
        return (kernel.reshape(height, width, -1, out).transpose(3, 2, 0, 1).reshape(out, -1),)

    return Kind(to_flax, to_torch)


def fold_weight_norm(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    """w = g · v / ‖v‖, the norm over (out, in) at each kernel position; g is (1, 1, k)."""
    wide = v.astype(np.float32)
    return kernel_to_flax((g * (wide / np.sqrt(np.square(wide).sum((0, 1), keepdims=True)))).astype(v.dtype))


def unfold_weight_norm(kernel: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same function as (g, v) with v = w."""
    (weight,) = kernel_to_torch(kernel)
    norm = np.sqrt(np.square(weight.astype(np.float32)).sum((0, 1), keepdims=True))
    return norm.astype(kernel.dtype), weight


WEIGHT_NORM = Kind(fold_weight_norm, unfold_weight_norm)
"""A one-dimensional convolution published as magnitude and direction: names g and v."""


@dataclass(frozen=True)
class Fused:
    """Several leaves that are published as equal parts of one tensor, joined along its first axis (out)."""

    pattern: str
    """Regular expression on the mechanical name, e.g. `\\.to_k\\.weight$`."""
    name: str
    """What it becomes, e.g. `.to_kv.weight`."""
    part: int | tuple[int, ...]
    """Which of the equal parts the leaf is, or which several it is made of, in its own order."""
    parts: int


@dataclass(frozen=True)
class Filler:
    """Tensors that files hold and the network does not need: made from a published tensor beside them."""

    pattern: str
    """Regular expression on the name of that tensor, matched as a whole."""
    name: str
    """The filler's name, with groups of the pattern."""
    make: Callable[[tuple[int, ...]], np.ndarray]
    """That tensor's shape → the filler."""


@dataclass(frozen=True, eq=False)
class KeyMap:
    """One component's names: what differs from the mechanical rule, in the order in which it is applied."""

    prefix: str = ""
    """Before every published name."""
    keep: tuple[str, ...] = ("linear_1", "linear_2")
    """Path segments whose number is part of the name; all other trailing numbers become segments of their own."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Dotted beginning of the mechanical name → published one; the longest wins."""
    renames: tuple[tuple[str, str], ...] = ()
    """Regular expression → replacement on the whole name, one after the other."""
    kinds: tuple[tuple[str, Kind], ...] = ()
    """Regular expression on the Flax path → kind; the first that is found wins. Otherwise kernels are kernels."""
    split: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """End of a name → its ends in a file that publishes one leaf as several tensors (weight norm)."""
    fused: tuple[Fused, ...] = ()
    stacked: tuple[str, ...] = ()
    """Flax paths of scanned layers: a leaf below one holds all of them along its first axis, and each is published by itself
    as if its path had the layer's number (`blocks/…` is `blocks_0/…`, `blocks_1/…`)."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Regular expression → replacement that brings names of other (older) files to those of this map."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of names that files may hold besides: buffers that are computed, weights nobody uses."""
    spare: tuple[str, ...] = ()
    """Regular expressions of tensors that nothing here uses, but that an export of an import gives back unchanged."""
    fillers: tuple[Filler, ...] = ()

    def name(self, path: str) -> str:
        """The published name of a Flax path, without prefix."""
        dotted = self._renamed(mechanical(path, self.keep))
        for pattern, replacement in self.renames:
            dotted = re.sub(pattern, replacement, dotted)
        return dotted

    def _renamed(self, dotted: str) -> str:
        head = dotted
        while head:
            if head in self.modules:
                return (self.modules[head] + dotted[len(head) :]).lstrip(".")
            head = head.rpartition(".")[0]
        return dotted

    def kind(self, path: str) -> Kind:
        """How a leaf is laid out."""
        found = next((kind for pattern, kind in self.kinds if re.search(pattern, path)), None)
        return found or (KERNEL if path.endswith("/kernel") or path == "kernel" else SAME)

    def link(self, path: str, shape: Sequence[int]) -> Link:
        """Everything about one leaf."""
        for stack in self.stacked:
            if path.startswith(f"{stack}/"):
                rest = path.removeprefix(stack)
                layers = [self.link(f"{stack}_{i}{rest}", shape[1:]) for i in range(shape[0])]
                names = tuple(name for layer in layers for name in layer.names)
                return replace(layers[0], path=path, shape=tuple(shape), names=names, layers=len(layers))
        name, parts = self.prefix + self.name(path), 1
        part: int | tuple[int, ...] = 0
        for fused in self.fused:
            joined = re.sub(fused.pattern, fused.name, name)
            if joined != name:
                name, part, parts = joined, fused.part, fused.parts
                break
        ends = next(((end, several) for end, several in self.split if name.endswith(end)), None)
        names = (name,) if ends is None else tuple(name.removesuffix(ends[0]) + end for end in ends[1])
        taken = part if isinstance(part, tuple) else (part,)
        return Link(path, tuple(shape), names, self.kind(path), taken, parts)

    def canonical(self, name: str) -> str:
        """A file's name as this map spells it."""
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name

    def ignores(self, name: str) -> bool:
        """Whether a tensor of this name may be passed over."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)

    def spares(self, name: str) -> bool:
        """Whether a tensor of this name is kept for an export and used for nothing else."""
        return any(re.fullmatch(pattern, name) for pattern in self.spare)


@dataclass(frozen=True)
class Link:
    """A Flax leaf and the published tensors it is made of."""

    path: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    """Of stacked layers all names of the first, then all of the second and so on."""
    kind: Kind
    taken: tuple[int, ...] = (0,)
    """Which of the equal parts of each published tensor belong to it, in its own order."""
    parts: int = 1
    layers: int = 0
    """How many layers lie along its first axis; 0: it has no such axis."""

    @property
    def each(self) -> int:
        """Published tensors per layer: more than one where they are folded into each other."""
        return len(self.names) // max(self.layers, 1)

    def published(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the published tensors; of a fused one, the whole."""
        # A view that repeats one byte costs no memory, whatever the shape.
        small = np.broadcast_to(np.ones((), np.uint8), self.shape[1:] if self.layers else self.shape)
        shapes = [tensor.shape for tensor in self.kind.to_torch(small)]
        if self.parts > 1:
            shapes = [(self.parts * (shape[0] // len(self.taken)), *shape[1:]) for shape in shapes]
        return dict(zip(self.names, shapes * max(self.layers, 1)))

    def layer(self, index: int) -> Link:
        """One layer of a stack by itself."""
        names = self.names[index * self.each : (index + 1) * self.each]
        return replace(self, shape=self.shape[1:], names=names, layers=0)

    def row(self, name: str) -> int | None:
        """Where along the first axis of a stack the layer of one published tensor lies; None: it is no stack."""
        return self.names.index(name) // self.each if self.layers else None

    def to_flax(self, *tensors: np.ndarray) -> np.ndarray:
        """The leaf from whole published tensors."""
        if self.layers:
            groups = (tensors[i * self.each : (i + 1) * self.each] for i in range(self.layers))
            return np.stack([self.layer(i).to_flax(*group) for i, group in enumerate(groups)])
        if self.parts > 1:
            tensors = tuple(join([np.split(tensor, self.parts)[i] for i in self.taken]) for tensor in tensors)
        return self.kind.to_flax(*tensors)

    def to_torch(self, leaf: np.ndarray) -> dict[str, np.ndarray]:
        """The published tensors from the leaf; of a fused one, its parts."""
        if self.layers:
            return {
                name: tensor for i in range(self.layers) for name, tensor in self.layer(i).to_torch(leaf[i]).items()
            }
        return dict(zip(self.names, self.kind.to_torch(leaf)))


def join(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenation along the first axis; a single piece is not copied."""
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def mechanical(path: str, keep: Sequence[str] = ()) -> str:
    """`down_blocks_0/norm/scale` → `down_blocks.0.norm.weight`: trailing numbers become segments, leaves PyTorch's."""
    *modules, leaf = path.split("/")
    segments = []
    for segment in modules:
        match = None if segment in keep else re.fullmatch(r"(.+?)((?:_\d+)+)", segment)
        segments.append(segment if match is None else match[1] + match[2].replace("_", "."))
    return ".".join([*segments, LEAVES.get(leaf, leaf)])


def fillers(table: KeyMap, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[Filler, tuple[int, ...]]]:
    """Name of every filler beside these published tensors → how to make it, and from which shape.

    What the network has itself is no filler: so a pattern may say "the one transformer without an output projection".
    """
    found = {}
    for filler in table.fillers:
        for name, shape in shapes.items():
            match = re.fullmatch(filler.pattern, name)
            if match and (made := match.expand(filler.name)) not in shapes:
                found[made] = (filler, shape)
    return found


def fits(have: Spec, want: tuple[int, ...]) -> bool:
    """Whether shapes agree, a 1×1 convolution counting as a linear layer."""

    def bare(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:2] if len(shape) > 2 and set(shape[2:]) == {1} else shape

    return have.shape == want or bare(have.shape) == bare(want)
