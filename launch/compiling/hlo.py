"""What a compiled program's text tells: collectives with the bytes that they move, and its largest arrays.

Loops are counted as often as they run, where the compiler knows it. Sizes are those of one device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64, "f8e4m3fn": 8,
    "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip
SHAPE = re.compile(r"\b(" + "|".join(BITS) + r")\[([\d,]*)\]")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\(")
CALLED = re.compile(r"\b(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'known_trip_count[^}]*?"n":"(\d+)"')
NAMED = re.compile(r'op_name="([^"]*)"')
UNSEEN = ("parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "constant")
"""Instructions that make no array of their own."""
CONTROL = ("while", "conditional", "call")
"""Instructions whose computations make arrays; what a fusion or a reduction computes is never held."""


class Call(NamedTuple):
    """A computation that an instruction runs."""

    name: str
    operation: str
    times: int


@dataclass
class Computation:
    """One computation: its collectives (kind, bytes), what it calls, and its arrays (bytes, shape, where it comes from)."""

    collectives: list[tuple[str, int]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    arrays: list[tuple[int, str, str]] = field(default_factory=list)


def arrays_of(shape: str) -> list[tuple[int, str]]:
    """(bytes, shape) of each array in a shape's text, such as `(f32[2,3]{1,0}, bf16[])`."""
    found = []
    for kind, axes in SHAPE.findall(shape):
        size = prod(int(axis) for axis in axes.split(",") if axis) * BITS[kind] // 8
        found.append((size, f"{kind}[{axes}]"))
    return found


def read(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a module's text, and the name of the first to run."""
    found: dict[str, Computation] = {}
    current, entry = Computation(), ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            current = found.setdefault(match[2], Computation())
            entry = match[2] if match[1] else entry
        elif match := INSTRUCTION.match(line):
            note(current, match[2], match[3], line)
    return found, entry


def note(computation: Computation, shape: str, operation: str, line: str) -> None:
    """Adds one instruction."""
    made, kind = arrays_of(shape), operation.removesuffix("-start")
    sizes = [size for size, _ in made]
    if kind in KINDS:
        # What a started one returns holds its operands too: the largest is what moves, or is made of what moves.
        computation.collectives.append((kind, sum(sizes) if operation == kind else max(sizes, default=0)))
    trips = TRIPS.search(line) if operation == "while" else None
    called = CALLED.findall(line) + [name for names in BRANCHES.findall(line) for name in names.split(", ")]
    computation.calls += [Call(name.lstrip("%"), operation, int(trips[1]) if trips else 1) for name in called]
    if operation not in UNSEEN and made:
        named = NAMED.search(line)
        computation.arrays.append((*max(made), named[1] if named else operation))


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Kind → `count` and `bytes` of one run of the program on one device."""
    computations, entry = read(text)
    totals: dict[str, dict[str, int]] = {}
    for computation, times in runs(computations, entry):
        for kind, size in computation.collectives:
            total = totals.setdefault(kind, {"count": 0, "bytes": 0})
            total["count"] += times
            total["bytes"] += times * size
    return {kind: totals[kind] for kind in KINDS if kind in totals}


def largest(text: str, count: int = 8) -> list[dict[str, Any]]:
    """The largest arrays that instructions make: bytes, shape, and where in the program."""
    computations, entry = read(text)
    made = {array for each, _ in runs(computations, entry, CONTROL) for array in each.arrays}
    return [{"bytes": size, "shape": shape, "name": name} for size, shape, name in sorted(made, reverse=True)[:count]]


def runs(
    computations: Mapping[str, Computation], name: str, by: Sequence[str] = (), times: int = 1
) -> Iterator[tuple[Computation, int]]:
    """Every computation that is run, with how often; only those that the operations `by` run, if any are named."""
    computation = computations.get(name)
    if computation is None:
        return
    yield computation, times
    for call in computation.calls:
        if not by or call.operation in by:
            yield from runs(computations, call.name, by, times * call.times)
