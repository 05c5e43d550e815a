"""The moving parts of a face as curves in head coordinates: eyes, brows, nose, mouth under an expression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.synthetic.head import HeadShape
from data.synthetic.identity import Identity
from data.synthetic.topology import SIDES

EXPRESSION_NAMES = (
    "jaw_open", "smile", "pucker", "wide", "mouth_shift", "brow_raise", "brow_frown", "brow_sad",
    "blink_right", "blink_left", "squint", "gaze_x", "gaze_y",
)  # fmt: skip
"""0..1 each; smile −1..1 (sadness to joy); mouth_shift, gaze_x, gaze_y −1..1 (image right and down positive)."""

_LID = np.linspace(0.0, 1.0, 9)
_UPPER_LID = np.array([0.0, 0.42, 0.72, 0.91, 1.0, 0.97, 0.80, 0.47, 0.0])
_LOWER_LID = np.array([0.0, 0.36, 0.66, 0.88, 1.0, 0.96, 0.78, 0.46, 0.0])
_EYE_RAISED = np.repeat([0.015, 0.01, 0.01, 0.02], [9, 9, 9, 1])  # upper lid, lower lid, fold, iris
_LIP_RAISED = np.repeat([0.0, 0.0, 0.02, 0.01], 11)  # outer upper, outer lower, inner upper, inner lower
_LIP = np.array([-1.0, -0.84, -0.65, -0.44, -0.21, 0.0, 0.21, 0.44, 0.65, 0.84, 1.0])
_BOW = np.array([0.0, 0.36, 0.66, 0.90, 1.03, 0.86, 1.03, 0.90, 0.66, 0.36, 0.0])
_FULL = np.array([0.0, 0.38, 0.68, 0.88, 0.98, 1.0, 0.98, 0.88, 0.68, 0.38, 0.0])


@dataclass(frozen=True)
class Eye:
    """Lids `(9, 3)` from outer to inner corner, iris centre `(3,)` and radius, fold above the lid, how open it is."""

    upper: np.ndarray
    lower: np.ndarray
    crease: np.ndarray
    iris: np.ndarray
    iris_radius: float
    openness: float


@dataclass(frozen=True)
class Mouth:
    """Lip borders, each `(11, 3)` from image left to image right, and the height of the opening."""

    outer_upper: np.ndarray
    outer_lower: np.ndarray
    inner_upper: np.ndarray
    inner_lower: np.ndarray
    opening: float


@dataclass(frozen=True)
class Features:
    """All drawn parts of a face in head coordinates."""

    eyes: dict[str, Eye]
    brow_upper: dict[str, np.ndarray]
    brow_lower: dict[str, np.ndarray]
    nose_ridge: np.ndarray
    nose_wing: dict[str, np.ndarray]
    mouth: Mouth
    jaw_drop: float


def jaw_shift(shape: HeadShape, xy: np.ndarray, drop: float) -> np.ndarray:
    """How far an opened jaw moves surface points `(n, 3)`: all of the chin, nothing above the mouth's corners."""
    weight = np.clip((shape.canonical_y(xy[:, 1]) - 0.30) / 0.72, 0.0, 1.0) ** 1.4
    return weight[:, None] * np.array([0.0, drop, 0.22 * drop])


def build(identity: Identity, shape: HeadShape, expression: np.ndarray) -> Features:
    """Poses every feature of a person by the expression `(E,)`, values clipped to sense."""
    e = dict(zip(EXPRESSION_NAMES, np.clip(expression, -1.0, 1.0).tolist(), strict=True))
    t = identity.traits
    drop = 0.31 * max(e["jaw_open"], 0.0)
    eyes = {side: _eye(t, shape, e, side) for side in SIDES}
    brows = {side: _brow(t, shape, e, side) for side in SIDES}
    ridge, wings = _nose(t, shape, e)
    return Features(
        eyes, {s: b[0] for s, b in brows.items()}, {s: b[1] for s, b in brows.items()}, ridge, wings,
        _mouth(t, shape, e, drop), drop,
    )  # fmt: skip


def _eye(t, shape: HeadShape, e: dict[str, float], side: str) -> Eye:
    sign = SIDES[side]
    blink = max(e[f"blink_{side}"], 0.0)
    squint = min(max(0.85 * e["squint"] + 0.35 * max(e["smile"], 0.0), 0.0), 1.0)
    surprise = 0.22 * e["brow_raise"] - 0.18 * e["brow_frown"] - 0.10 * e["gaze_y"]
    x = sign * (t["eye_spacing"] + t["eye_width"] * (1.0 - 2.0 * _LID))
    base = t["eye_height"] - t["eye_tilt"] * (0.5 - _LID) * 1.1 * t["eye_width"] / 0.2
    high = t["eye_open"] * (1.0 + surprise) * (1.0 - 0.18 * squint)
    low = 0.72 * t["eye_open"] * (1.0 - 0.75 * squint)
    upper_y = -high * (1.0 - blink) * _UPPER_LID + blink * (0.62 * low) * _LOWER_LID
    lower_y = low * (1.0 - 0.38 * blink) * _LOWER_LID
    fold = -(high + 0.055 + 0.02 * t["eye_open"] / 0.1) * (0.35 + 0.65 * _UPPER_LID) * (1.0 - 0.25 * blink)
    gaze_x = sign * t["eye_spacing"] + 0.50 * t["eye_width"] * e["gaze_x"]
    gaze_y = t["eye_height"] + t["eye_open"] * (0.55 * e["gaze_y"] - 0.16)
    across = np.concatenate([x, x, x, [gaze_x]])
    down = np.concatenate([base + upper_y, base + lower_y, base + fold, [gaze_y]])
    points = shape.lift(np.column_stack([across, down]), _EYE_RAISED)
    return Eye(
        points[:9],
        points[9:18],
        points[18:27],
        points[27],
        t["iris_size"] * (t["eye_open"] / 0.147) ** 0.45,
        1.0 - blink,
    )


def _brow(t, shape: HeadShape, e: dict[str, float], side: str) -> tuple[np.ndarray, np.ndarray]:
    sign = SIDES[side]
    u = np.linspace(0.0, 1.0, 5)  # outer to inner
    width = t["eye_width"] * 1.28
    x = sign * (t["eye_spacing"] + width * (1.06 - 2.0 * u) - 0.06 * e["brow_frown"] * u)
    arch = t["brow_arch"] * np.sin(np.pi * np.clip(u * 1.1, 0, 1)) + 0.05 * np.sin(np.pi * u)
    y = t["eye_height"] - t["brow_height"] - arch + t["brow_slope"] * (0.5 - u) + 0.09 * (1 - u) ** 2
    y += -0.13 * e["brow_raise"] + e["brow_frown"] * (0.02 + 0.12 * u**1.5) - 0.12 * e["brow_sad"] * u**1.3
    y += 0.02 * e[f"blink_{side}"]
    half = 0.5 * t["brow_thickness"] * np.array([0.20, 0.70, 1.0, 1.02, 0.66])
    both = shape.lift(np.column_stack([np.tile(x, 2), np.concatenate([y - half, y + half])]), 0.03)
    return both[:5], both[5:]


def _nose(t, shape: HeadShape, e: dict[str, float]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    top = t["eye_height"] - 0.02
    base = t["eye_height"] + t["nose_length"] + 0.06 - 0.015 * max(e["smile"], 0.0)
    along = np.array([0.0, 0.22, 0.42, 0.60, 0.76, 0.87, 0.96, 1.09])
    raised = t["nose_depth"] * np.array([0.10, 0.28, 0.48, 0.70, 0.95, 1.06, 0.98, 0.42])
    y = top + (base - top) * along
    ridge = shape.lift(np.column_stack([np.zeros(8), y]), raised)
    spread = t["nose_width"] * (1.0 + 0.10 * max(e["smile"], 0.0))
    wing = np.array([(0.78, -0.10), (1.0, 0.0), (0.98, 0.065), (0.72, 0.10)]) * (spread, 1.0) + (0.0, base - 0.03)
    wings = {
        s: shape.lift(wing * (sign, 1.0), t["nose_depth"] * np.array([0.5, 0.34, 0.3, 0.34]))
        for s, sign in SIDES.items()
    }
    return ridge, wings


def _mouth(t, shape: HeadShape, e: dict[str, float], drop: float) -> Mouth:
    smile, pucker = e["smile"], max(e["pucker"], 0.0)
    width = t["mouth_width"] * (1.0 + 0.16 * e["wide"] + 0.22 * max(smile, 0.0) - 0.42 * pucker)
    center = t["mouth_height"] + 0.02 * pucker
    x = _LIP * width + 0.10 * e["mouth_shift"]
    corners = np.abs(_LIP) ** 1.8 * (-0.016 - 0.13 * max(smile, 0.0) - 0.10 * min(smile, 0.0))
    round_ = np.sqrt(np.maximum(1.0 - np.abs(_LIP) ** (2.6 - 0.6 * pucker), 0.0))
    opening = 1.06 * drop * (1.0 - 0.22 * pucker)
    middle = center + 0.02 + corners + 0.04 * e["mouth_shift"] * _LIP
    up = 0.20 * opening * round_ + 0.035 * max(smile, 0.0) * round_
    down = 0.80 * opening * round_ - 0.015 * max(smile, 0.0) * round_
    down = np.maximum(down, -up)
    thick = 1.0 + 0.35 * pucker - 0.22 * max(smile, 0.0) - 0.10 * e["wide"]
    forward = 0.10 + 0.12 * pucker - 0.03 * max(smile, 0.0)
    inner_x = (x - x[5]) * (0.93 - 0.03 * pucker) + x[5]
    raised = forward * (0.45 + 0.55 * round_)
    heights = [
        middle - up - t["upper_lip"] * thick * _BOW,
        middle + down + t["lower_lip"] * thick * _FULL,
        middle - up,
        middle + down,
    ]
    across = np.concatenate([x, x, inner_x, inner_x])
    points = shape.lift(np.column_stack([across, np.concatenate(heights)]), np.tile(raised, 4) + _LIP_RAISED)
    return Mouth(points[:11], points[11:22], points[22:33], points[33:], opening)
