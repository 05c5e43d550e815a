"""Neck, shoulders and clothes."""

from __future__ import annotations

import numpy as np

from data.synthetic.canvas import lighten, mix, shadow, taper
from data.synthetic.curves import ellipse, smooth
from data.synthetic.identity import outline_color
from data.synthetic.paint_face import Scene


class _Body:
    """A frame that follows the head only partly: shoulders stay while the head turns and tilts."""

    def __init__(self, scene: Scene) -> None:
        jaw = scene.view.project(np.array([[0.0, 0.75, 0.35]]))[0, :2]
        self.unit = scene.unit
        build = 1.08 if scene.identity.styles["build"] == "broad" else 0.92
        self.stretch = np.array([scene.identity.traits["neck_width"] * build / 0.56, 1.0])
        self.anchor = np.array([0.7 * scene.view.center[0] + 0.3 * jaw[0], scene.view.center[1] + 1.72 * self.unit])

    def at(self, points) -> np.ndarray:
        """Body coordinates (half face widths about the pit of the neck) to image fractions."""
        return self.anchor + np.asarray(points, float) * self.stretch * self.unit


def paint_neck(scene: Scene) -> None:
    """The neck from behind the jaw to the collar, with the chin's shadow."""
    body, unit, colors = _Body(scene), scene.unit, scene.identity.colors
    width = 0.56 * body.stretch[0]
    top = scene.view.project(np.array([[-width, 0.55, 0.38], [width, 0.55, 0.38]]))[:, :2]
    right = smooth(np.stack([top[1], body.at((0.54, -0.35)), body.at((0.60, -0.02)), body.at((0.84, 0.20))]), 5)
    left = smooth(np.stack([top[0], body.at((-0.54, -0.35)), body.at((-0.60, -0.02)), body.at((-0.84, 0.20))]), 5)
    pit = body.at((0.0, 0.75))
    neck = np.concatenate([right, pit[None], left[::-1]])
    skin = mix(colors["skin"], colors["skin_shadow"], 0.25)
    scene.canvas.fill(neck, skin)
    chin = scene.outline[6:31, :2]
    below = chin + (np.array([0.02, 0.24]) - 0.08 * scene.light) * unit
    cast = np.concatenate([below, chin[::-1] - (0, 0.4 * unit)])
    scene.canvas.clipped(neck, lambda: scene.canvas.soft(cast, shadow(colors["skin_shadow"], 0.55), 0.85, 0.05 * unit))
    line = mix(colors["skin_shadow"], outline_color(scene.identity), 0.5)
    for sign in (-1.0, 1.0):
        bone = smooth(body.at([(sign * 0.12, 0.26), (sign * 0.4, 0.22), (sign * 0.75, 0.15)]), 4)
        scene.canvas.stroke(bone, line, 0.022 * unit * taper(len(bone)))


def _torso(scene: Scene, body: _Body, neckline: list[tuple[float, float]]) -> np.ndarray:
    """Shoulders to below the picture; `neckline` runs from image left to image right."""
    wide = scene.identity.traits["shoulders"] * (1.08 if scene.identity.styles["build"] == "broad" else 0.92)
    shoulder = [(0.66, 0.04), (0.55 * wide, 0.24), (0.85 * wide, 0.46), (wide, 0.95), (1.06 * wide, 1.8)]
    right = smooth(body.at(shoulder), 4)
    left = smooth(body.at([(-x, y) for x, y in shoulder]), 4)
    floor = np.array([[1.3, 1.6], [-0.3, 1.6]])
    return np.concatenate([smooth(body.at(neckline), 4), right, floor, left[::-1]])


_CREW = [(-0.66, 0.04), (-0.45, 0.32), (-0.2, 0.44), (0.0, 0.47), (0.2, 0.44), (0.45, 0.32), (0.66, 0.04)]
_VEE = [(-0.66, 0.04), (-0.42, 0.40), (-0.2, 0.78), (0.0, 1.05), (0.2, 0.78), (0.42, 0.40), (0.66, 0.04)]
# Right halves (image right) of collars, from the shoulder inwards, and a whole rolled collar.
_ROLL = [
    (-0.66, 0.16), (-0.62, -0.20), (-0.3, -0.06), (0.0, -0.02), (0.3, -0.06), (0.62, -0.20), (0.66, 0.16), (0.3, 0.36),
    (0.0, 0.40), (-0.3, 0.36),
]  # fmt: skip
_HOOD = [(0.60, -0.12), (0.98, 0.10), (0.86, 0.42), (0.4, 0.66), (0.03, 0.74), (0.10, 0.48), (0.42, 0.30), (0.60, 0.08)]
_FLAP = [(0.58, -0.10), (0.72, 0.12), (0.46, 0.62), (0.06, 0.40), (0.34, 0.16)]
_WHITE_COLLAR = [(0.56, -0.10), (0.60, 0.14), (0.36, 0.52), (0.05, 0.40), (0.32, 0.16)]
_LAPEL = [(0.62, 0.08), (0.92, 0.46), (0.72, 0.56), (0.80, 0.72), (0.06, 1.62), (0.02, 1.15), (0.42, 0.42)]
_HIGH = [(-0.66, 0.04), (-0.55, -0.10), (-0.28, 0.02), (0.0, 0.06), (0.28, 0.02), (0.55, -0.10), (0.66, 0.04)]


def paint_clothes(scene: Scene) -> None:
    """One garment with folds, shadow side and collar."""
    style, colors, canvas, unit = scene.identity.styles["clothes"], scene.identity.colors, scene.canvas, scene.unit
    body = _Body(scene)
    cloth = colors["cloth"]
    dark, light = shadow(cloth, 0.95), lighten(cloth, 0.25)
    neckline = {"vneck": _VEE, "suit": _VEE, "shirt": _VEE, "turtleneck": _HIGH}.get(style, _CREW)
    if style in ("suit", "shirt"):
        inner = (246, 244, 240) if style == "suit" else lighten(cloth, 0.15)
        canvas.fill(_torso(scene, body, _CREW), inner)
        tie = body.at([(-0.07, 0.42), (0.07, 0.42), (0.16, 1.7), (-0.16, 1.7)])
        canvas.fill(tie, colors["accent"] if style == "suit" else mix(inner, dark, 0.18))
    torso = _torso(scene, body, neckline)
    canvas.fill(torso, cloth)
    if style == "stripes":
        canvas.clipped(torso, lambda: _stripes(scene, body))
    canvas.terminator(torso, torso + scene.light * 0.28 * unit, dark, 0.7, 0.16 * unit)
    edge = smooth(body.at(neckline), 4)
    canvas.soft(np.concatenate([edge, edge[::-1] + (0, 0.14 * unit)]), dark, 0.3, 0.04 * unit)
    for sign in (-1.0, 1.0):
        fold = smooth(body.at([(sign * 1.15, 0.75), (sign * 1.22, 1.1), (sign * 1.16, 1.6)]), 4)
        canvas.stroke(fold, mix(cloth, dark, 0.8), 0.05 * unit * taper(len(fold)))
    _DETAILS[style](scene, body, edge, (cloth, dark, light))


def _stripes(scene: Scene, body: _Body) -> None:
    for k in range(7):
        y = 0.42 + 0.30 * k
        top = np.array([(-3.0, y + 0.10), (0.0, y + 0.16), (3.0, y + 0.10)])
        band = body.at(np.concatenate([top, top[::-1] + (0.0, 0.13)]))
        scene.canvas.fill(band, scene.identity.colors["accent"])


def _hem(scene: Scene, body: _Body, edge, tones) -> None:
    """A ribbed border along the neckline."""
    scene.canvas.line(edge, tones[1], 0.10 * scene.unit)
    scene.canvas.line(edge + (0, 0.012 * scene.unit), mix(tones[0], tones[2], 0.4), 0.062 * scene.unit)


def _roll(scene: Scene, body: _Body, edge, tones) -> None:
    """A turtleneck's rolled collar."""
    cloth, dark, light = tones
    roll = body.at(smooth(np.array(_ROLL), 4, closed=True))
    scene.canvas.fill(roll, mix(cloth, light, 0.35))
    scene.canvas.terminator(roll, roll + scene.light * 0.12 * scene.unit, dark, 0.75, 0.08 * scene.unit)
    for x in np.linspace(-0.5, 0.5, 9):
        rib = body.at([(x, -0.04 - 0.2 * x * x), (x * 1.02, 0.34 - 0.2 * x * x)])
        scene.canvas.line(rib, mix(cloth, dark, 0.45), 0.018 * scene.unit)


def _hood(scene: Scene, body: _Body, edge, tones) -> None:
    """The hood's two rolls about the neck, and cords."""
    cloth, dark, light = tones
    for sign in (-1.0, 1.0):
        roll = body.at(smooth(np.array(_HOOD) * (sign, 1.0), 4, closed=True))
        scene.canvas.fill(roll, mix(cloth, light, 0.3))
        scene.canvas.terminator(
            roll, roll + (scene.light * 0.10 + (0, -0.05)) * scene.unit, dark, 0.75, 0.06 * scene.unit
        )
        cord = body.at([(sign * 0.22, 0.62), (sign * 0.26, 0.95), (sign * 0.24, 1.2)])
        scene.canvas.line(cord, (244, 238, 228), 0.035 * scene.unit)


def _collar(scene: Scene, body: _Body, edge, tones) -> None:
    """A shirt's turned-down collar with a button."""
    cloth, dark, light = tones
    canvas = scene.canvas
    for sign in (-1.0, 1.0):
        flap = body.at(np.array(_FLAP) * (sign, 1.0))
        canvas.soft(flap + (0, 0.05 * scene.unit), dark, 0.6, 0.025 * scene.unit)
        canvas.fill(flap, mix(cloth, light, 0.55 if sign * scene.light[0] > 0 else 0.25))
        canvas.line(flap[1:4], mix(cloth, dark, 0.6), 0.015 * scene.unit)
    for y in (0.62, 0.98):
        canvas.fill(ellipse(body.at((0.0, y)), (0.035 * scene.unit,) * 2, samples=12), mix(dark, (30, 30, 40), 0.3))


def _lapels(scene: Scene, body: _Body, edge, tones) -> None:
    """A jacket's lapels over a white collar."""
    cloth, dark, light = tones
    canvas = scene.canvas
    for sign in (-1.0, 1.0):
        white = body.at(np.array(_WHITE_COLLAR) * (sign, 1.0))
        canvas.fill(white, (252, 250, 246) if sign * scene.light[0] > 0 else (224, 224, 230))
        canvas.line(white[1:4], (176, 178, 190), 0.014 * scene.unit)
        lapel = body.at(np.array(_LAPEL) * (sign, 1.0))
        canvas.fill(lapel, mix(cloth, light, 0.35 if sign * scene.light[0] > 0 else 0.12))
        canvas.line(lapel, dark, 0.016 * scene.unit)
    knot = body.at([(-0.10, 0.40), (0.10, 0.40), (0.07, 0.58), (-0.07, 0.58)])
    canvas.fill(knot, mix(scene.identity.colors["accent"], (255, 255, 255), 0.15))


def _seam(scene: Scene, body: _Body, edge, tones) -> None:
    """A plain V with a thin border."""
    scene.canvas.line(edge, tones[1], 0.075 * scene.unit)
    scene.canvas.line(edge, mix(tones[0], tones[2], 0.6), 0.04 * scene.unit)


_DETAILS = {
    "tee": _hem,
    "stripes": _hem,
    "hoodie": _hood,
    "vneck": _seam,
    "turtleneck": _roll,
    "shirt": _collar,
    "suit": _lapels,
}
