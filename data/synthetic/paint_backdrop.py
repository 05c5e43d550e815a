"""Backgrounds behind a portrait, some of them moving slowly with time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import cv2
import numpy as np

from data.synthetic.canvas import Canvas, Color, flat, lighten, mix, shadow
from data.synthetic.curves import ellipse, smooth
from data.synthetic.identity import Identity


@lru_cache(maxsize=8)
def _ramp(side: int, angle: float) -> np.ndarray:
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    ramp = axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle)
    return np.clip(ramp + 0.5, 0.0, 1.0).astype(np.float32)


@lru_cache(maxsize=4)
def _gradient(side: int, first: Color, second: Color, angle: float) -> np.ndarray:
    """A straight gradient `side side 3`, `first` where the ramp starts."""
    ramp = _ramp(side, round(angle, 2))
    a, b = flat((side, side, 3), first), flat((side, side, 3), second)
    return cv2.blendLinear(a, b, 1.0 - ramp, ramp)


def _plain(canvas: Canvas, identity: Identity, time: float) -> None:
    del time, canvas, identity


def _halo(canvas: Canvas, identity: Identity, time: float) -> None:
    tone = lighten(identity.colors["backdrop"], 0.45)
    x, y = 0.5 - 0.16 * identity.light[0], 0.42
    canvas.fill(ellipse((x, y), (0.40, 0.40), samples=64), mix(tone, identity.colors["backdrop"], 0.35))
    canvas.fill(ellipse((x, y), (0.31, 0.31), samples=64), tone)


def _diagonal(canvas: Canvas, identity: Identity, time: float) -> None:
    color = mix(identity.colors["backdrop"], lighten(identity.colors["backdrop"], 0.5), 0.35)
    for k in range(-4, 9):
        x = 0.22 * k + (0.03 * time) % 0.22
        canvas.fill(np.array([(x, -0.02), (x + 0.10, -0.02), (x - 0.40, 1.02), (x - 0.50, 1.02)]), color)


def _dots(canvas: Canvas, identity: Identity, time: float) -> None:
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(-1, 8), np.arange(8)))
    centers = np.column_stack([0.15 * column + 0.075 * (row % 2) + (0.02 * time) % 0.15, 0.14 * row + 0.03])
    dots = centers[:, None] + ellipse((0.0, 0.0), (0.022, 0.022), samples=12)
    canvas.fills(dots, lighten(identity.colors["backdrop"], 0.32))


def _bokeh(canvas: Canvas, identity: Identity, time: float) -> None:
    rng = identity.rng(21)
    for x, y, r, w, tone in rng.uniform((0, 0, 0.03, -1, 0), (1, 1, 0.12, 1, 1), (9, 5)):
        center = ((x + 0.02 * w * time) % 1.2 - 0.1, y * 0.8 + 0.02 * np.sin(time * (0.5 + tone) + 6 * x))
        color = mix(lighten(identity.colors["backdrop"], 0.55), lighten(identity.colors["accent"], 0.4), tone * 0.6)
        canvas.soft(ellipse(center, (r, r)), color, 0.35 + 0.25 * tone, 0.012)


def _hills(canvas: Canvas, identity: Identity, time: float) -> None:
    base, rng = identity.colors["backdrop"], identity.rng(22)
    sun = (0.5 + 0.32 * identity.light[0], 0.2)
    canvas.fill(ellipse(sun, (0.09, 0.09), samples=40), (255, 240, 206))
    for cloud in range(2):
        x = (rng.uniform(0, 1.4) + 0.015 * time) % 1.4 - 0.2
        for dx, r in ((-0.06, 0.03), (0.0, 0.045), (0.06, 0.032)):
            canvas.fill(ellipse((x + dx, 0.16 + 0.16 * cloud), (r * 1.6, r), samples=20), lighten(base, 0.62))
    for k, level in enumerate((0.56, 0.68, 0.80)):
        x = np.linspace(-0.05, 1.05, 9)
        y = level + rng.uniform(-0.06, 0.06, 9)
        ridge = smooth(np.column_stack([x, y]), 5)
        tone = mix(lighten(base, 0.1), shadow(base, 1.3), 0.25 + 0.28 * k)
        canvas.fill(np.concatenate([ridge, [(1.05, 1.05), (-0.05, 1.05)]]), tone)


def _window(canvas: Canvas, identity: Identity, time: float) -> None:
    base = identity.colors["backdrop"]
    x0 = 0.05 if identity.light[0] < 0 else 0.53
    canvas.fill(
        np.array([(x0 - 0.02, 0.06), (x0 + 0.44, 0.06), (x0 + 0.44, 0.66), (x0 - 0.02, 0.66)]), lighten(base, 0.75)
    )
    for i in range(2):
        for j in range(2):
            left, top = x0 + 0.215 * i, 0.085 + 0.28 * j
            pane = np.array([(left, top), (left + 0.195, top), (left + 0.195, top + 0.26), (left, top + 0.26)])
            canvas.fill(pane, mix((168, 206, 226), (236, 226, 206), 0.25 + 0.45 * j))
    shift = 0.02 * np.sin(0.6 * time)
    canvas.soft(ellipse((x0 + 0.2 + shift, 0.5), (0.16, 0.10)), (120, 160, 120), 0.6, 0.03)
    canvas.fill(
        np.array([(x0 - 0.04, 0.66), (x0 + 0.46, 0.66), (x0 + 0.46, 0.69), (x0 - 0.04, 0.69)]), lighten(base, 0.6)
    )


def _rays(canvas: Canvas, identity: Identity, time: float) -> None:
    color = mix(identity.colors["backdrop"], lighten(identity.colors["backdrop"], 0.5), 0.4)
    for k in range(12):
        a = 2 * np.pi * k / 12 + 0.06 * time
        tips = np.array([(np.cos(a + d), np.sin(a + d)) for d in (-0.13, 0.13)]) * 1.2
        canvas.fill(np.concatenate([[(0.5, 0.5)], tips + 0.5]), color)


SCENES: Mapping[str, Callable[[Canvas, Identity, float], None]] = {
    "plain": _plain, "halo": _halo, "diagonal": _diagonal, "dots": _dots, "bokeh": _bokeh, "hills": _hills,
    "window": _window, "rays": _rays,
}  # fmt: skip


def paint_backdrop(canvas: Canvas, identity: Identity, time: float) -> None:
    """A gradient lit from the person's light, and the scene of the person's style at `time` seconds."""
    base = identity.colors["backdrop"]
    angle = float(np.arctan2(identity.light[1], identity.light[0])) + np.pi
    canvas.image[:] = _gradient(canvas.side, lighten(base, 0.30), shadow(base, 0.35), angle)
    SCENES[identity.styles["backdrop"]](canvas, identity, time)
