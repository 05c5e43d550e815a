"""Goes on after the driver's end: a motion prior continues what the driver did (video outpainting).

Source: X-NeMo (arXiv 2507.23143), appendix D. The whole driver becomes motion latents, two kilobytes a frame at the published
size; those of the last frames are what the prior goes on from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.animation.signals import Drive, Report, Signals, silent
from portrait_jax.errors import ConfigError
from portrait_jax.media.files import atomic_output
from portrait_jax.motion import MotionPriorTask
from portrait_jax.typing import Float, Image, Int, Params

BATCH, SHOWN = 16, 4
"""Faces encoded together, and frames of what follows that the contact sheet shows."""
MOTION = "motion.npy"
"""Name in the cache."""


@dataclass(frozen=True)
class Extension:
    """How a video goes on.

    Attributes:
        seconds: for how long.
        prior, params: the trained motion prior; it was trained on latents of the system's own motion encoder, at some frame rate,
            which the driver should have.
        emotion: a label that the prior knows, from 0 on; −1: none.
        temperature, top_p: see `motion.sampling.continue_codes`.
    """

    seconds: float
    prior: MotionPriorTask
    params: Params
    emotion: int = -1
    temperature: float = 1.0
    top_p: float = 0.95

    @property
    def settings(self) -> dict[str, Any]:
        """For the record."""
        names = ("seconds", "emotion", "temperature", "top_p")
        return {name: getattr(self, name) for name in names}

    def check(self, system: Any) -> None:
        """Raises ConfigError if it cannot go on from what drives a system, before any work is done."""
        if not hasattr(system, "encode_motion"):
            raise ConfigError(
                f"{system.name} has no motion latents that a prior could go on from; leave the extension out, or "
                "give the config of a system that is driven by faces"
            )
        width = self.prior.vq_config.motion
        if width != system.motion_width:
            raise ConfigError(
                f"the prior continues latents of {width} numbers, {system.name}'s have {system.motion_width}; give a prior "
                "that was trained on latents of this motion encoder"
            )
        if not 0 < self.seconds < float("inf"):
            raise ConfigError(f"a video cannot be extended by {self.seconds} seconds; give a positive number")
        if not -1 <= self.emotion < self.prior.config.emotions:
            known = f"knows {self.prior.config.emotions}, from 0 on" if self.prior.config.emotions else "knows none"
            raise ConfigError(f"emotion {self.emotion} does not exist: the prior {known}")


def extended(
    drive: Drive,
    system: Any,
    params: Params,
    extension: Extension,
    *,
    seed: int = 0,
    cache: Path | None = None,
    report: Report = silent,
) -> Drive:
    """The driver, and what the prior lets follow: all as motion latents.

    Where positions are transferred, the last one stays.

    Args:
        seed: of what is drawn from the prior.
        cache: a folder where the latents are kept, so that a run that goes on has the same.

    Raises:
        ConfigError: see `Extension.check`. ShapeError: for a driver of less than one code's frames.
    """
    extension.check(system)
    count = max(round(extension.seconds * drive.fps), 1)
    path = None if cache is None else cache / MOTION
    if path is not None and path.exists():
        motion = np.load(path, allow_pickle=False)
    else:
        given = encode_drive(drive, system, params, report)
        motion = np.concatenate([given, follow(extension, given, count, seed)])
        if path is not None:
            with atomic_output(path) as partial_file:
                np.save(partial_file, motion)
    last = drive.count - 1

    def at(frames: Int[np.ndarray, " f"]) -> Mapping[str, np.ndarray]:
        found = {"motion": motion[frames]}
        given = drive.signals.at(np.minimum(frames, last)) if positioned else {}
        return found | {name: array for name, array in given.items() if name == "boxes"}

    positioned = "boxes" in drive.signals.at(np.array([0]))
    more = np.unique(np.linspace(drive.count, len(motion) - 1, SHOWN).astype(int)).tolist()
    rows = {label: partial(_until, pictures, drive.count) for label, pictures in drive.rows.items()}
    return Drive(Signals(at, drive.signals.still), len(motion), drive.fps, [*drive.shown, *more], rows)


def follow(extension: Extension, motion: Float[np.ndarray, "f e"], count: int, seed: int) -> Float[np.ndarray, "g e"]:
    """`count` frames of motion after those given."""
    run = jax.jit(
        partial(
            extension.prior.extend,
            frames=count,
            emotion=extension.emotion,
            temperature=extension.temperature,
            top_p=extension.top_p,
        )
    )
    return np.asarray(run(extension.params, jnp.asarray(motion)[None], rng=jax.random.key(seed))[0], np.float32)


def encode_drive(drive: Drive, system: Any, params: Params, report: Report = silent) -> Float[np.ndarray, "f e"]:
    """Motion latents of all frames of a driver that gives faces or latents."""
    encode, parts = jax.jit(system.encode_motion), []
    for first in range(0, drive.count, BATCH):
        # The last batch is filled up, so that the encoder compiles once.
        numbers = np.arange(first, first + BATCH)
        found = drive.signals.at(np.minimum(numbers, drive.count - 1))
        latents = found["motion"] if "motion" in found else np.asarray(encode(params, jnp.asarray(found["faces"])))
        parts.append(latents[: drive.count - first].astype(np.float32))
        report("encoding motion", min(first + BATCH, drive.count), drive.count)
    return np.concatenate(parts)


def _until(pictures: Callable[[Sequence[int]], Sequence[Image]], count: int, frames: Sequence[int]) -> list[Image]:
    """The driver's pictures, and blank ones after its end."""
    there = list(pictures([number for number in frames if number < count]))
    blank = np.full((16, 16, 3), 235, np.uint8)
    return [*there, *(blank for number in frames if number >= count)]
