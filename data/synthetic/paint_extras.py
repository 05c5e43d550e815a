"""Glasses, beards and hats: things worn on the face and head."""

from __future__ import annotations

import numpy as np

from data.synthetic.canvas import lighten, mix, shadow, taper
from data.synthetic.curves import ellipse, loop, smooth
from data.synthetic.features import jaw_shift
from data.synthetic.paint_face import Scene
from data.synthetic.topology import SIDES


def paint_beard(scene: Scene) -> None:
    """Stubble, full beard, goatee or moustache; moves with the jaw. Painted before the mouth."""
    style = scene.identity.styles["beard"]
    if style == "none":
        return
    colors, canvas, unit, t = scene.identity.colors, scene.canvas, scene.unit, scene.identity.traits
    color = mix(colors["hair"], colors["hair_shadow"], 0.45)
    mouth = scene.features.mouth
    if style in ("stubble", "full"):
        rim = scene.outline[8:29, :2]
        grow = 0.10 if style == "full" else -0.015
        center = rim.mean(0)
        outward = (rim - center) / np.linalg.norm(rim - center, axis=1, keepdims=True)
        weight = taper(len(rim), 0, np.pi)[:, None]
        lower = smooth(rim + outward * grow * unit * weight, 3)
        top = t["mouth_height"]
        half = np.array([(-0.93, 0.12), (-0.80, 0.32), (-0.60, top - 0.16), (-0.36, top - 0.18), (-0.14, top - 0.14)])
        xy = np.concatenate([half, [(0.0, top - 0.12)], half[::-1] * (-1.0, 1.0)])
        upper = scene.view.rim(scene.shape, xy, jaw_shift(scene.shape, xy, 0.5 * scene.features.jaw_drop))
        shape = loop(smooth(upper[:, :2], 3), lower[::-1])
        if style == "stubble":
            canvas.soft(shape, mix(color, colors["skin_shadow"], 0.35), 0.42, 0.05 * unit)
            return
        canvas.fill(shape, color)
        canvas.terminator(shape, shape + scene.light * 0.14 * unit, colors["hair_shadow"], 0.8, 0.08 * unit)
        for k in range(3, 10):
            root = lower[int((k + 0.5) / 13 * len(lower))]
            strand = np.stack(
                [
                    root + (center - root) * 0.42,
                    root + (center - root) * 0.2 + (0.01 * unit, 0),
                    root + (center - root) * 0.05,
                ]
            )
            canvas.stroke(smooth(strand, 4), mix(color, colors["hair_shadow"], 0.6), 0.03 * unit * taper(9))
        patch = scene.view.project(mouth.outer_lower[3:8] + np.array([0.0, 0.03, 0.0]))
        canvas.soft(patch, colors["skin_shadow"], 0.35, 0.03 * unit)
    if style == "goatee":
        top, low = t["mouth_height"] + 0.20, 0.97 * t["chin_length"]
        chin = np.array([(-0.20, top), (0.0, top - 0.04), (0.20, top), (0.24, low), (0.0, 1.09 * low), (-0.24, low)])
        shift = jaw_shift(scene.shape, chin, scene.features.jaw_drop)
        canvas.fill(
            scene.view.project(scene.shape.lift(smooth(chin, 4, closed=True)) + np.repeat(shift, 4, axis=0)), color
        )
    if style in ("goatee", "moustache", "full"):
        above = mouth.outer_upper + np.array([0.0, -0.006, -0.01])
        wide = above * np.array([1.04, 1.0, 1.0]) + np.array([0.0, 0.05, 0.0])
        crest = above + np.column_stack(
            [np.zeros(11), -0.105 * np.sqrt(1 - np.linspace(-1, 1, 11) ** 2) + 0.02, np.zeros(11)]
        )
        shape = loop(
            scene.view.project(smooth(crest, 3)),
            scene.view.project(smooth(np.vstack([wide[:1], above[1:-1], wide[-1:]]), 3)),
        )
        canvas.fill(shape, color)
        middle = 0.5 * (shape[: len(shape) // 2] + shape[len(shape) // 2 :][::-1])
        canvas.stroke(middle, mix(color, colors["hair_shadow"], 0.6), 0.02 * unit)


_GLEAM = [(-0.16, 0.02), (-0.02, -0.17), (0.05, -0.17), (-0.13, 0.09)]


def paint_glasses(scene: Scene) -> None:
    """A frame before the eyes with temples to the ears and a reflection in the lenses."""
    style = scene.identity.styles["glasses"]
    if style == "none":
        return
    canvas, unit, t = scene.canvas, scene.unit, scene.identity.traits
    color = scene.identity.colors["frame"]
    width = {"round": 0.036, "square": 0.046, "thin": 0.018}[style] * unit
    power = {"round": 2.0, "square": 3.6, "thin": 2.6}[style]
    angle = np.linspace(0, 2 * np.pi, 33)
    angle = angle - (0.14 * np.sin(4 * angle) if power > 3 else 0.0)  # spreads the points of a squarish curve evenly
    radii = (t["eye_width"] * 1.50, t["eye_width"] * (1.42 if style == "round" else 1.12))
    unit_x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power)
    unit_y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / power)
    depth = float(scene.shape.lift(np.array([[0.32, t["eye_height"]]]))[0, 2]) - 0.10
    for sign in SIDES.values():
        x = sign * t["eye_spacing"] * 1.01 + radii[0] * unit_x
        y = t["eye_height"] + 0.035 + radii[1] * unit_y
        lens = scene.view.project(np.column_stack([x, y, depth + 0.16 * x**2]))[:, :2]
        canvas.soft(lens, (226, 240, 248), 0.08, 0.004 * unit)
        shine = np.array(_GLEAM) + (sign * t["eye_spacing"], t["eye_height"])
        gleam = scene.view.project(np.column_stack([shine, np.full(len(shine), depth)]))
        canvas.soft(gleam, (255, 255, 255), 0.20, 0.006 * unit)
        canvas.line(lens, color, width)
    bridge = np.array([(-1.0, 0.02), (-0.5, -0.05), (0.0, -0.07), (0.5, -0.05), (1.0, 0.02)]) * (
        t["eye_spacing"] - 0.97 * radii[0],
        1.0,
    )
    bridge = np.column_stack([bridge + (0.0, t["eye_height"]), np.full(5, depth - 0.02)])
    canvas.line(scene.view.project(smooth(bridge, 3)), color, width)
    canvas.fill(ellipse(scene.view.project(bridge[2:3])[0], (0.2 * width,) * 2, samples=8), color)


def paint_temples(scene: Scene) -> None:
    """The glasses' side pieces, which run to the ears below the hair."""
    if scene.identity.styles["glasses"] == "none":
        return
    t, color = scene.identity.traits, shadow(scene.identity.colors["frame"], 0.5)
    for sign in SIDES.values():
        ends = np.array(
            [
                (sign * (t["eye_spacing"] + 1.42 * t["eye_width"]), t["eye_height"] - 0.01),
                (sign * 0.985, t["eye_height"] + 0.03),
            ]
        )
        scene.canvas.line(scene.view.rim(scene.shape, ends), color, 0.03 * scene.unit)


def paint_hat(scene: Scene) -> None:
    """A knitted cap or a headband over the hair."""
    style, color, canvas, unit = scene.identity.styles["hat"], scene.identity.colors["accent"], scene.canvas, scene.unit
    if style == "headband":
        turn = np.linspace(-1.45, 1.45, 15)
        band = np.column_stack([1.12 * np.sin(turn), -0.30 - 0.97 * np.cos(turn), 0.15 - 0.50 * np.cos(turn)])
        line = scene.view.project(smooth(band, 3))
        ends = np.sqrt(taper(len(line), 0.3, np.pi - 0.3))
        canvas.stroke(line, shadow(color, 0.8), 0.17 * unit * ends)
        canvas.stroke(line - (0, 0.01 * unit, 0), color, 0.13 * unit * ends)
        canvas.stroke(line[10:-10] - (0, 0.03 * unit, 0), lighten(color, 0.3), 0.03 * unit * taper(len(line) - 20))
    elif style == "beanie":
        _beanie(scene, color)


def _beanie(scene: Scene, color) -> None:
    canvas, unit = scene.canvas, scene.unit
    angles = np.linspace(0.02, -np.pi - 0.02, 41)
    dome = scene.view.skull(angles, 0.16 + 0.10 * np.maximum(-np.sin(angles), 0.0) ** 2)
    edge = np.array(
        [
            (1.10, -0.34),
            (0.92, -0.50),
            (0.62, -0.62),
            (0.3, -0.67),
            (0.0, -0.69),
            (-0.3, -0.67),
            (-0.62, -0.62),
            (-0.92, -0.50),
            (-1.10, -0.34),
        ]
    )
    lower = smooth(scene.view.rim(scene.shape, edge)[:, :2], 4)
    cap = np.concatenate([dome, lower[::-1]])
    pompom = dome[20] - (dome[20] - scene.view.skull(angles[20:21], -0.1)[0]) * 0.1
    canvas.fill(ellipse(pompom, (0.24 * unit, 0.22 * unit)), lighten(color, 0.35))
    canvas.soft(ellipse(pompom - scene.light * 0.08 * unit, (0.15 * unit, 0.13 * unit)), color, 0.6, 0.05 * unit)
    canvas.fill(cap, color)
    canvas.terminator(cap, cap + scene.light * 0.24 * unit, shadow(color, 0.95), 0.75, 0.14 * unit)
    up = scene.view.level[:2, :2] @ np.array([0.0, -1.0]) * unit
    band = np.concatenate([lower + up * 0.02, (lower + up * 0.26)[::-1]])
    canvas.soft(band + up * 0.03, shadow(color, 1.2), 0.5, 0.03 * unit)
    canvas.fill(np.concatenate([lower - up * 0.03, (lower + up * 0.24)[::-1]]), mix(color, lighten(color, 0.4), 0.45))
    for k in range(1, len(lower) - 1):
        canvas.line(
            np.stack([lower[k] - up * 0.01, lower[k] + up * 0.22]), mix(color, shadow(color, 1.0), 0.45), 0.022 * unit
        )
