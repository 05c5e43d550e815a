"""Where a run's numbers go: means over a few steps, as lines of JSON, and to whatever other writers listen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from portrait_jax.media.files import atomic_output
from portrait_jax.typing import Image

METRICS_FILE = "metrics.jsonl"


@runtime_checkable
class Writer(Protocol):
    """Something that keeps numbers and pictures, e.g. TensorBoard."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def images(self, step: int, values: Mapping[str, Image]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`{"step": n, "loss": …}` per line.

    Opening drops lines of steps after `start`: those that a killed run wrote after its last checkpoint are run again.
    """

    def __init__(self, path: Path, start: int) -> None:
        kept = [line for line in read_lines(path) if line["step"] <= start]
        with atomic_output(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line and flushes it."""
        # JSON knows no NaN or infinity; Python's repr of other floats is exact.
        clean = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **clean}) + "\n")
        self._file.flush()

    def images(self, step: int, values: Mapping[str, Image]) -> None:
        """Pictures have no place here."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file; a line cut short by a kill is dropped."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class Journal:
    """Collects each step's metrics and hands their means to the writers every `every` steps."""

    def __init__(self, writers: Sequence[Writer], every: int) -> None:
        self._writers, self._every = writers, max(every, 1)
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def record(self, step: int, metrics: Mapping[str, float], *, last: bool = False) -> None:
        """Adds one step; at multiples of `every`, and at the last step, writes the means since the line before: each over the
        steps that have that metric."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if step % self._every == 0 or last:
            means = {name: total / self._counts[name] for name, total in self._sums.items()}
            for writer in self._writers:
                writer.scalars(step, means)
            self._sums, self._counts = {}, {}

    def images(self, step: int, images: Mapping[str, Image]) -> None:
        """Hands pictures on."""
        for writer in self._writers:
            writer.images(step, images)

    def close(self) -> None:
        """Closes all writers."""
        for writer in self._writers:
            writer.close()
