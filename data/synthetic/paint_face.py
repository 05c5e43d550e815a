"""Paints the face itself: skin with light and shadow, ears, eyes, brows, nose and mouth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.synthetic.canvas import Canvas, lighten, mix, shadow, taper
from data.synthetic.curves import ellipse, loop, smooth
from data.synthetic.features import Eye, Features
from data.synthetic.head import HeadShape, View
from data.synthetic.identity import Identity, outline_color
from data.synthetic.topology import SIDES


@dataclass(frozen=True)
class Scene:
    """What every painter needs: where to paint, whom, how the head stands, and the face's outline in the image."""

    canvas: Canvas
    identity: Identity
    shape: HeadShape
    features: Features
    view: View
    outline: np.ndarray
    time: float

    @property
    def unit(self) -> float:
        """Half a face width in image sides; every length scales with it."""
        return self.view.half_width

    def on_face(self, xy: np.ndarray, raised: float | np.ndarray = 0.0) -> np.ndarray:
        """Projects frontal points onto the face surface."""
        return self.view.project(self.shape.lift(np.asarray(xy, float), raised))

    @property
    def light(self) -> np.ndarray:
        return np.asarray(self.identity.light)


# Outline and inner fold of an ear, x outwards from its hinge.
_EAR_RIM = [
    (-0.1, -0.20),
    (0.06, -0.27),
    (0.17, -0.20),
    (0.19, -0.04),
    (0.13, 0.12),
    (0.08, 0.24),
    (0.0, 0.28),
    (-0.1, 0.2),
]
_EAR_FOLD = [(0.03, -0.17), (0.11, -0.15), (0.13, -0.04), (0.08, 0.06), (0.06, 0.14)]


def paint_ears(scene: Scene) -> None:
    """Both ears, hinged behind the cheeks so that the face covers the far one."""
    size = scene.identity.traits["ear_size"]
    colors = scene.identity.colors
    line = outline_color(scene.identity)
    for side, sign in SIDES.items():
        hinge = np.array([sign * 0.97, scene.identity.traits["eye_height"] + 0.30, 0.30])
        spread = np.array([[sign * 0.82, 0.0, 0.55], [0.0, 1.0, 0.06]]) * size
        ear = scene.view.project(smooth(np.array(_EAR_RIM), 4, closed=True) @ spread + hinge)
        dark = mix(colors["skin"], colors["skin_shadow"], 0.55 if scene.light[0] * sign < 0 else 0.12)
        scene.canvas.fill(ear, dark)
        hollow = scene.view.project(ellipse((0.07, -0.03), (0.06, 0.13)) @ spread + hinge)
        scene.canvas.soft(hollow, shadow(dark, 0.9), 0.6, 0.03 * scene.unit)
        fold = scene.view.project(smooth(np.array(_EAR_FOLD), 4) @ spread + hinge)
        scene.canvas.stroke(fold, mix(dark, line, 0.55), 0.022 * scene.unit * taper(len(fold), 0.2, 3.0))
        scene.canvas.line(np.concatenate([ear, ear[:1]]), mix(dark, line, 0.6), 0.014 * scene.unit)
        _earring(scene, side, hinge, spread)


def _earring(scene: Scene, side: str, hinge: np.ndarray, spread: np.ndarray) -> None:
    style, color = scene.identity.styles["earring"], (236, 196, 96)
    lobe = scene.view.project(np.array([[0.04, 0.26]]) @ spread + hinge)[0, :2]
    if style == "stud":
        scene.canvas.fill(ellipse(lobe, (0.035 * scene.unit,) * 2), color)
        scene.canvas.fill(ellipse(lobe - 0.01 * scene.unit, (0.012 * scene.unit,) * 2), (255, 250, 230))
    elif style == "hoop":
        ring = ellipse(lobe + (0, 0.12 * scene.unit), (0.085 * scene.unit, 0.12 * scene.unit))
        scene.canvas.line(np.concatenate([ring, ring[:2]]), color, 0.026 * scene.unit)


def paint_skin(scene: Scene) -> None:
    """The face's surface: base colour, shadow side, light side, blush."""
    canvas, colors, unit = scene.canvas, scene.identity.colors, scene.unit
    face = smooth(scene.outline[:, :2], 3, closed=True)
    canvas.fill(face, colors["skin"])
    center = face.mean(0)
    lit = center + (face - center) * 0.90 + scene.light * 0.20 * unit
    canvas.terminator(face, lit, colors["skin_shadow"], 0.75, 0.17 * unit)
    inner = center + (face - center) * 1.0 - scene.light * 0.10 * unit
    canvas.terminator(face, inner, colors["skin_light"], 0.40, 0.10 * unit)
    blush = mix(colors["skin"], (226, 84, 84), 0.55)
    strength = (0.12 + 0.38 * scene.identity.traits["blush"]) * (0.3 + 0.7 * min(sum(colors["skin"]) / 600.0, 1.0))
    for sign in SIDES.values():
        spot = scene.on_face(ellipse((sign * 0.56, 0.24), (0.24, 0.15)))
        canvas.soft(spot, blush, strength, 0.10 * unit)
    _marks(scene)


def _marks(scene: Scene) -> None:
    style = scene.identity.styles["marks"]
    if style == "none":
        return
    rng = scene.identity.rng(3)
    color = mix(scene.identity.colors["skin"], outline_color(scene.identity), 0.42)
    if style == "freckles":
        spots = np.clip(rng.normal((0, 0.16), (0.34, 0.075), (26, 2)), -0.72, 0.72)[:, None] + ellipse(
            (0, 0), (0.014, 0.012), samples=8
        )
        scene.canvas.fills(scene.on_face(spots.reshape(-1, 2)).reshape(26, 8, 3), color)
    elif style == "mole":
        spot = (float(rng.choice([-1, 1])) * rng.uniform(0.3, 0.5), rng.uniform(0.3, 0.75))
        scene.canvas.fill(scene.on_face(ellipse(spot, (0.022, 0.02), samples=10)), outline_color(scene.identity))


def paint_outline(scene: Scene) -> None:
    """A thin line along cheeks and chin, heavier on the shadow side."""
    face = smooth(scene.outline[4:33, :2], 3)
    normal = face - face.mean(0)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    weight = 0.6 - 0.4 * (normal @ scene.light)
    width = 0.034 * scene.unit * weight * np.clip(taper(len(face), 0.0, np.pi) * 3, 0, 1)
    scene.canvas.stroke(face, mix(scene.identity.colors["skin_shadow"], outline_color(scene.identity), 0.6), width)


def paint_nose(scene: Scene) -> None:
    """Bridge shadow on the side away from the light, wings, nostrils and a lit tip."""
    canvas, unit, identity = scene.canvas, scene.unit, scene.identity
    colors, line = identity.colors, outline_color(identity)
    ridge = scene.view.project(smooth(scene.features.nose_ridge, 4))
    away = "left" if scene.light[0] < 0 else "right"
    wings = {side: scene.view.project(smooth(scene.features.nose_wing[side], 4)) for side in SIDES}
    tip, base = ridge[20], ridge[28]
    flank = np.concatenate([ridge[4:], wings[away][::-1]])
    canvas.soft(flank, colors["skin_shadow"], 0.62, 0.035 * unit)
    under = np.concatenate([wings["right"][4:], base[None], wings["left"][::-1][:9]])
    canvas.soft(under, colors["skin_shadow"], 0.55, 0.03 * unit)
    for side in SIDES:
        wing = wings[side]
        canvas.stroke(wing, mix(colors["skin_shadow"], line, 0.55), 0.034 * unit * taper(len(wing)))
        lower = scene.features.nose_wing[side][-1]
        start = 0.45 * lower + 0.55 * scene.features.nose_ridge[7]
        arc = np.stack([start, 0.5 * (start + lower) + (0, -0.028, 0), 0.9 * lower + 0.1 * start])
        nostril = scene.view.project(arc)
        canvas.stroke(smooth(nostril, 6), mix(line, (40, 14, 18), 0.3), 0.045 * unit * taper(13, 0.15, 2.99))
    ridge_end, ends = scene.features.nose_ridge[7], [scene.features.nose_wing[side][-1] for side in ("right", "left")]
    arc = np.stack([0.5 * (ridge_end + ends[0]), ridge_end + (0, 0.012, 0), 0.5 * (ridge_end + ends[1])])
    septum = scene.view.project(smooth(arc, 5))
    canvas.stroke(septum, mix(colors["skin_shadow"], line, 0.7), 0.024 * unit * taper(len(septum)))
    glow = tip[:2] + (scene.light * 0.03 - (0, 0.03)) * unit
    canvas.soft(ellipse(glow, (0.06 * unit, 0.05 * unit)), colors["skin_light"], 0.85, 0.025 * unit)
    canvas.soft(loop(ridge[4:18] - 0.012 * unit, ridge[4:18] + 0.012 * unit), colors["skin_light"], 0.5, 0.03 * unit)


def paint_brows(scene: Scene) -> None:
    """Tapered brows with a few hairs of the hair's colour."""
    color = scene.identity.colors["brow"]
    for side in SIDES:
        upper = scene.view.project(smooth(scene.features.brow_upper[side], 4))
        lower = scene.view.project(smooth(scene.features.brow_lower[side], 4))
        scene.canvas.fill(loop(upper, lower), color)
        middle = 0.45 * upper + 0.55 * lower
        scene.canvas.stroke(middle[2:-1], shadow(color, 0.5), 0.018 * scene.unit)


def paint_eyes(scene: Scene) -> None:
    """Sockets, eyeballs, irises clipped by the lids, lashes and folds."""
    for side, sign in SIDES.items():
        _paint_eye(scene, scene.features.eyes[side], sign)


def _paint_eye(scene: Scene, eye: Eye, sign: float) -> None:
    canvas, unit, identity = scene.canvas, scene.unit, scene.identity
    colors, line = identity.colors, outline_color(identity)
    upper, lower = (scene.view.project(smooth(lid, 4)) for lid in (eye.upper, eye.lower))
    crease = scene.view.project(smooth(eye.crease, 3))
    canvas.soft(loop(crease, upper), colors["skin_shadow"], 0.42, 0.035 * unit)
    canvas.soft(lower + (0, 0.05 * unit, 0), colors["skin_shadow"], 0.3 + 0.3 * identity.traits["age"], 0.035 * unit)
    opening = loop(upper, lower)
    if eye.openness > 0.04:
        canvas.clipped(opening, lambda: _paint_eyeball(scene, eye, opening, upper))
    lash = mix(line, (24, 14, 20), 0.72)
    thick = 0.032 + 0.030 * identity.traits["lash"]
    width = thick * unit * (0.35 + 0.65 * taper(len(upper), 0.86 * np.pi, 0.14 * np.pi))
    raised = upper[:, :2] - np.stack([np.zeros(len(upper)), 0.32 * width], 1)
    canvas.stroke(raised, lash, width)
    if identity.traits["lash"] > 0.75 and identity.styles["build"] == "slim":
        tail = scene.view.project(eye.upper[:1] + np.array([[0, 0, 0], [sign * 0.07, -0.05, 0.02]]))
        canvas.stroke(np.concatenate([upper[2:0:-1], tail]), lash, 0.6 * thick * unit * np.array([1, 1, 0.8, 0.0]))
    canvas.stroke(lower, mix(colors["skin_shadow"], line, 0.6), 0.020 * unit * taper(len(lower), 0.25, 2.8))
    canvas.stroke(crease, mix(colors["skin_shadow"], line, 0.45), 0.024 * unit * taper(len(crease), 0.0, 3.1))


def _paint_eyeball(scene: Scene, eye: Eye, opening: np.ndarray, upper: np.ndarray) -> None:
    canvas, unit = scene.canvas, scene.unit
    iris_color = scene.identity.colors["iris"]
    canvas.fill(opening, (250, 246, 242))
    up, down = upper - (0, 0.03 * unit, 0), (0, unit, 0)
    canvas.soft(loop(upper + np.multiply(down, 0.045), up), (150, 132, 150), 0.55, 0.02 * unit)
    center = scene.view.project(eye.iris[None])[0, :2]
    turned = scene.view.level.T @ scene.view.rotation
    radii = (eye.iris_radius * unit * max(abs(turned[0, 0]), 0.6), eye.iris_radius * unit * max(abs(turned[1, 1]), 0.6))

    def disc(scale: float, shift=(0.0, 0.0)) -> np.ndarray:
        middle = center + np.asarray(shift) * eye.iris_radius * unit
        return ellipse(middle, (radii[0] * scale, radii[1] * scale), scene.view.roll)

    canvas.fill(disc(1.0), shadow(iris_color, 1.7))
    canvas.fill(disc(0.86), iris_color)
    canvas.soft(disc(0.55, (0.0, 0.36)), lighten(iris_color, 0.5), 0.75, 0.012 * unit)
    canvas.fill(disc(0.44), (22, 16, 22))
    canvas.soft(loop(upper + np.multiply(down, 0.03), up), (40, 24, 40), 0.5, 0.014 * unit)
    spark = center + (scene.light * 0.42) * eye.iris_radius * unit
    canvas.fill(ellipse(spark, (0.25 * radii[0], 0.28 * radii[1])), (255, 255, 255))
    glint = center - scene.light * 0.5 * eye.iris_radius * unit
    canvas.fill(ellipse(glint, (0.11 * radii[0], 0.11 * radii[1])), lighten(iris_color, 0.75))


def paint_mouth(scene: Scene) -> None:
    """Lips with light, and between them teeth and tongue."""
    canvas, unit, identity = scene.canvas, scene.unit, scene.identity
    mouth, lip, line = scene.features.mouth, identity.colors["lip"], outline_color(identity)
    project = scene.view.project
    outer_up, outer_low = project(smooth(mouth.outer_upper, 3)), project(smooth(mouth.outer_lower, 3))
    inner_up, inner_low = project(smooth(mouth.inner_upper, 3)), project(smooth(mouth.inner_lower, 3))
    canvas.soft(outer_low[6:-6] + (0, 0.07 * unit, 0), identity.colors["skin_shadow"], 0.6, 0.03 * unit)
    canvas.fill(loop(outer_up, outer_low), lip)
    canvas.soft(loop(outer_up, inner_up), shadow(lip, 0.8), 0.75, 0.008 * unit)
    shine = 0.5 * (inner_low + outer_low)[9:-9]
    half = (0, 0.012 * unit, 0)
    canvas.soft(loop(shine - half, shine + half), lighten(lip, 0.55), 0.65, 0.012 * unit)
    if mouth.opening > 0.012:
        opening = loop(inner_up, inner_low)
        canvas.clipped(opening, lambda: _paint_inside(scene, opening, inner_up))
    width = (0.030 if mouth.opening < 0.012 else 0.016) * unit
    canvas.stroke(inner_up, mix(line, shadow(lip, 1.6), 0.35), width * (0.45 + 0.55 * taper(len(inner_up), 0, np.pi)))
    for end in (outer_up[0], outer_up[-1]):
        canvas.soft(ellipse(end[:2], (0.035 * unit, 0.03 * unit)), line, 0.55, 0.012 * unit)


def _paint_inside(scene: Scene, opening: np.ndarray, inner_up: np.ndarray) -> None:
    canvas, unit, mouth = scene.canvas, scene.unit, scene.features.mouth
    canvas.fill(opening, (92, 26, 38))
    tongue = mouth.inner_lower[5] + np.array([0.0, 0.02, 0.06])
    spot = scene.view.project(tongue[None])[0, :2]
    radii = (0.19 * unit, (0.05 + 0.28 * mouth.opening) * unit)
    canvas.soft(ellipse(spot, radii, scene.view.roll), (206, 92, 96), 0.95, 0.014 * unit)
    height = min(0.085, 0.35 * mouth.opening + 0.03)
    edge = smooth(mouth.inner_upper + np.array([0.0, height, 0.05]), 3)
    teeth = loop(inner_up - (0, 0.05 * unit, 0), scene.view.project(edge))
    canvas.fill(teeth, (250, 246, 238))
    canvas.soft(loop(inner_up - (0, 0.03 * unit, 0), inner_up + (0, 0.022 * unit, 0)), (120, 60, 66), 0.5, 0.012 * unit)
