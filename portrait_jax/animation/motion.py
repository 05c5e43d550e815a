"""How a driver's motion is moved onto a portrait: the choices of `sampling.alignment`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from portrait_jax.animation.portrait import Portrait
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.face.alignment import Alignment, LandmarkSequence
from portrait_jax.face.detector import model_path
from portrait_jax.face.geometry import load_geometry
from portrait_jax.face.metric import MetricAlignment
from portrait_jax.typing import Float

Align = Callable[[np.ndarray], np.ndarray]
"""Landmarks of some driving frames (pixels of these) → landmarks in pixels of the portrait."""


def make_alignment(
    kind: str, driving: LandmarkSequence, portrait: Portrait, *, rotation: str, bundle: Callable[[], Path]
) -> Align:
    """Settles an alignment by the whole clip.

    Args:
        kind: "proportional" (`face.alignment`), "metric" (`face.metric`, the release's), or "none": the driver's face and
            place, its frames scaled to the portrait's about their middle.
        rotation: "absolute" or "relative", see there.
        bundle: where MediaPipe's face model is; only called for "metric".

    Raises:
        ConfigError: an unknown kind or rotation. InputFileError: a face model without the canonical face.
    """
    if kind not in ALIGNMENTS:
        raise ConfigError(f"sampling.alignment '{kind}' is not known{nearest(kind, list(ALIGNMENTS))}")
    return ALIGNMENTS[kind](driving, portrait, rotation, bundle)


def clip_alignment(
    kind: str,
    driving_px: Float[np.ndarray, "f 478 3"],
    portrait: Portrait,
    *,
    size: tuple[int, int] | None = None,
    expression: Float[np.ndarray, " f"] | None = None,
    bundle: Callable[[], Path] = model_path,
) -> Align:
    """`make_alignment` of landmarks in memory, by the driver's own rotation.

    Args:
        size: width and height of the frames that the landmarks were found in; None: as large as the portrait.
        expression: see `LandmarkSequence`; None: the neutral frame is chosen by the landmarks.
    """
    width, height = size or portrait.image.shape[1::-1]
    sequence = LandmarkSequence(1.0, width, height, driving_px, expression)
    return make_alignment(kind, sequence, portrait, rotation="absolute", bundle=bundle)


def _proportional(driving: LandmarkSequence, portrait: Portrait, rotation: str, bundle: Callable[[], Path]) -> Align:
    return Alignment.of(driving.landmarks, portrait.landmarks, mode=rotation)


def _metric(driving: LandmarkSequence, portrait: Portrait, rotation: str, bundle: Callable[[], Path]) -> Align:
    height, width = portrait.image.shape[:2]
    scores = driving.expression
    return MetricAlignment.of(
        driving.landmarks,
        (driving.width, driving.height),
        portrait.landmarks,
        (width, height),
        load_geometry(bundle()),
        neutral_index=None if scores is None else int(np.argmin(scores)),
        mode=rotation,
    )


def _none(driving: LandmarkSequence, portrait: Portrait, rotation: str, bundle: Callable[[], Path]) -> Align:
    height, width = portrait.image.shape[:2]
    scale = min(width, height) / min(driving.width, driving.height)
    middle, target = (np.array([w / 2, h / 2, 0.0]) for w, h in ((driving.width, driving.height), (width, height)))
    return lambda points: ((points - middle) * scale + target).astype(np.float32)


ALIGNMENTS: Mapping[str, Callable[..., Align]] = MappingProxyType(
    {"proportional": _proportional, "metric": _metric, "none": _none}
)
