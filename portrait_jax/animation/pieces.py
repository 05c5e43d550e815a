"""Arrays of a long driver, kept on the disk in pieces: neither lies it in memory, nor does an interruption lose what is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from portrait_jax.animation.signals import Report
from portrait_jax.media.files import atomic_output
from portrait_jax.typing import Image, Int

PIECE, HELD = 32, 4
"""Frames in a piece of the cache, and pieces that are held in memory."""

Cut = Callable[[int, Image], Mapping[str, np.ndarray]]
"""(frame number, picture) → what is kept of it, by name."""
Pieces = Callable[[Int[np.ndarray, " f"]], dict[str, np.ndarray]]
"""Frame numbers, in any order and more than once → what is kept of them, "f …" by name."""


def cut_pieces(frames: Iterable[Image], whole: int, cut: Cut, cache: Path, report: Report) -> Pieces:
    """Writes what `cut` makes of `whole` frames, `PIECE` of them a file, and reads it back as it is asked for.

    Pieces that are there are not made again; without a missing one no frame is looked at.
    """
    first = next((start for start in range(0, whole, PIECE) if not piece(cache, start).exists()), whole)
    held: list[Mapping[str, np.ndarray]] = []
    if first == whole:
        return stored_pieces(cache)
    for number, image in enumerate(frames):
        if number < first:
            continue
        held.append(cut(number, image))
        if len(held) == PIECE or number == whole - 1:
            arrays: dict[str, Any] = {name: np.stack([one[name] for one in held]) for name in held[0]}
            with atomic_output(piece(cache, number + 1 - len(held))) as partial_file:
                np.savez_compressed(partial_file, **arrays)
            held = []
            report("cutting the face out", number + 1, whole)
    return stored_pieces(cache)


def piece(cache: Path, start: int) -> Path:
    """The piece that begins with frame `start`."""
    return cache / f"faces_{start:08d}.npz"


def stored_pieces(cache: Path) -> Pieces:
    """What lies in a folder; the last few pieces stay in memory."""

    @lru_cache(HELD)
    def read(number: int) -> dict[str, np.ndarray]:
        with np.load(piece(cache, number * PIECE), allow_pickle=False) as stored:
            return dict(stored)

    def at(frames: Int[np.ndarray, " f"]) -> dict[str, np.ndarray]:
        found = [(read(int(i) // PIECE), int(i) % PIECE) for i in frames]
        return {name: np.stack([arrays[name][place] for arrays, place in found]) for name in found[0][0]}

    return at
