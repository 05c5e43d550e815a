"""Systems that sound drives and that are told of the person beside its picture: where its face is, and whose it is.

The sound is heard as in `animation.sound`; a prompt may come with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from portrait_jax.animation import sound
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip, Drive, Driver, Request, Signals
from portrait_jax.animation.sound import HeardSystem
from portrait_jax.errors import ConfigError, listed
from portrait_jax.face.five_points import aligned_face
from portrait_jax.face.masks import face_rectangle

ENLARGED = 1.2
"""The rectangle of a portrait's face over the face itself; in training it is not enlarged (Hallo3, hallo3/sample_video.py)."""


class SpeakingSystem(HeardSystem, Protocol):
    """A system that is told `face_mask`, and `face` if it has a recogniser, and maybe `text`."""

    precomputed: bool

    @property
    def recogniser_config(self) -> Any:
        """Its `image_size`."""
        ...


def person(system: SpeakingSystem, portrait: Portrait) -> dict[str, np.ndarray]:
    """The rectangle of the face, and the face on the recogniser's template, cut from the whole picture."""
    height, width = portrait.image.shape[:2]
    mask = face_rectangle(portrait.landmarks, height, width, ENLARGED)
    if system.precomputed:
        return {"face_mask": mask}
    return {"face_mask": mask, "face": aligned_face(*portrait.whole, system.recogniser_config.image_size)}


def told(system: SpeakingSystem, portrait: Portrait, heard: Signals) -> Signals:
    """The signals of a sound, and what is told of the person beside them."""
    return replace(heard, still={**heard.still, **person(system, portrait)})


def load(request: Request) -> Drive:
    """Hears a recording or a video's track.

    Raises:
        ConfigError: for a negative prompt, which means nothing here.
        AudioError: see `animation.sound.load`.
    """
    unknown = [name for name in request.prompts if name != "text"]
    if unknown:
        raise ConfigError(f"{listed(unknown)} means nothing to {request.system.name}; leave it out")
    drive, system = sound.load(request), request.system
    return replace(drive, signals=told(system, request.portrait, drive.signals))  # type: ignore[arg-type]


def clip_signals(system: SpeakingSystem, portrait: Portrait, clip: Clip, alignment: str) -> Signals:
    """The speech features of a clip; raises ConfigError if it has none."""
    return told(system, portrait, sound.clip_signals(system, portrait, clip, alignment))


SPEAKERS = Driver(load, clip_signals, sound.SOUND.detects, sound.SOUND.sound)
