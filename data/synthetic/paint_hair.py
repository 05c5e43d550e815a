"""Hair: a mass behind the head, a cap that follows the skull, locks before the shoulders, strands and a sheen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.synthetic.canvas import lighten, mix, shadow, taper
from data.synthetic.curves import ellipse, smooth
from data.synthetic.paint_face import Scene
from data.synthetic.topology import SIDES

_ROUND = [(1.0, 0.02), (0.95, -0.25), (0.88, -0.46), (0.72, -0.68), (0.40, -0.83), (0.0, -0.87)]
HAIRLINES: Mapping[str, list[tuple[float, float]]] = {  # from image right to image left, on the face
    "round": _ROUND + [(-x, y) for x, y in _ROUND[-2::-1]],
    "receding": [(1.0, 0.0), (0.93, -0.36), (0.84, -0.62), (0.66, -0.90), (0.42, -0.97), (0.2, -0.88), (0.0, -0.86),
                 (-0.2, -0.88), (-0.42, -0.97), (-0.66, -0.90), (-0.84, -0.62), (-0.93, -0.36), (-1.0, 0.0)],
    "side": [(1.0, 0.03), (0.95, -0.28), (0.86, -0.56), (0.64, -0.82), (0.45, -0.96), (0.30, -0.84), (0.05, -0.74),
             (-0.30, -0.66), (-0.62, -0.56), (-0.86, -0.36), (-0.95, -0.18), (-1.0, 0.03)],
    "bangs": [(1.02, 0.15), (0.96, -0.20), (0.88, -0.44), (0.74, -0.56), (0.56, -0.60), (0.44, -0.57), (0.28, -0.62),
              (0.12, -0.60), (-0.06, -0.64), (-0.24, -0.60), (-0.42, -0.61), (-0.60, -0.57), (-0.76, -0.54),
              (-0.88, -0.42), (-0.96, -0.20), (-1.02, 0.15)],
    "curtain": [(1.02, 0.10), (0.97, -0.16), (0.88, -0.36), (0.68, -0.58), (0.36, -0.80), (0.04, -1.0), (-0.04, -1.0),
                (-0.36, -0.80), (-0.68, -0.58), (-0.88, -0.36), (-0.97, -0.16), (-1.02, 0.10)],
    "jagged": [(1.0, 0.05), (0.93, -0.30), (0.84, -0.44), (0.72, -0.66), (0.56, -0.62), (0.42, -0.80), (0.22, -0.66),
               (0.06, -0.80), (-0.14, -0.64), (-0.34, -0.78), (-0.50, -0.60), (-0.68, -0.72), (-0.84, -0.46),
               (-0.94, -0.30), (-1.0, 0.05)],
}  # fmt: skip


@dataclass(frozen=True)
class HairStyle:
    """A haircut: which hairline, how far the cap stands off the skull, its edge, and what hangs down."""

    line: str
    grow: float
    edge: str = "smooth"  # smooth, spiky, curly
    top: float = 0.0  # extra height
    back: float = 0.0  # how far the mass behind reaches below the eyes; 0 none
    locks: bool = False
    wave: float = 0.0
    extra: str = ""


STYLES: Mapping[str, HairStyle] = {
    "crop": HairStyle("round", 0.09, top=0.05),
    "side_part": HairStyle("side", 0.12, top=0.10),
    "quiff": HairStyle("round", 0.09, top=0.30),
    "spiky": HairStyle("jagged", 0.12, "spiky", top=0.10),
    "curls": HairStyle("round", 0.18, "curly", top=0.08),
    "afro": HairStyle("round", 0.46, "curly"),
    "buzz": HairStyle("round", 0.025),
    "bald": HairStyle("round", 0.0),
    "receding": HairStyle("receding", 0.06),
    "pixie": HairStyle("side", 0.14, top=0.04),
    "bob": HairStyle("side", 0.16, back=1.05, locks=True),
    "bangs": HairStyle("bangs", 0.14, back=1.5, locks=True),
    "long": HairStyle("side", 0.14, back=2.1, locks=True),
    "curtain": HairStyle("curtain", 0.13, back=1.7, locks=True),
    "wavy": HairStyle("curtain", 0.20, back=1.9, locks=True, wave=0.09),
    "bun": HairStyle("round", 0.09, extra="bun"),
    "ponytail": HairStyle("side", 0.09, extra="ponytail"),
    "pigtails": HairStyle("curtain", 0.10, extra="pigtails"),
}
_ANGLES = np.linspace(0.36, -np.pi - 0.36, 61)


def _style(scene: Scene) -> HairStyle:
    return STYLES[scene.identity.styles["hair"]]


def _hang(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Projects head points; below the ears hair hangs straight down instead of turning with the head."""
    held = points.copy()
    held[:, 1] = np.minimum(points[:, 1], 0.35)
    hung = scene.view.project(held)[:, :2]
    sway = 0.015 * np.sin(1.7 * scene.time + 2.0 * points[:, 1])
    below = np.maximum(points[:, 1] - 0.35, 0.0)
    return hung + np.stack([sway * below, below], 1) * scene.unit


def paint_back_hair(scene: Scene) -> None:
    """What lies behind head and neck."""
    style, colors, canvas, unit = _style(scene), scene.identity.colors, scene.canvas, scene.unit
    dark = mix(colors["hair"], colors["hair_shadow"], 0.85)
    if style.extra:
        _extras(scene, style.extra)
    if style.back:
        reach = 0.35 + (style.back - 0.35) * (0.75 + 0.5 * scene.identity.traits["hair_length"])
        wide = 1.10 + style.grow * 0.9 + 0.12 * scene.identity.traits["hair_volume"]
        y = np.linspace(-1.0, reach, 12)
        skull = np.sqrt(np.clip(1.0 - (np.minimum(y + 0.36, 0.0) / 1.15) ** 2, 0.0, 1.0))
        bulge = np.minimum(wide, (1.02 + 0.8 * style.grow) * skull)
        bulge = bulge + 0.16 * taper(12, 0, np.pi) ** 2 - 0.10 * np.linspace(0, 1, 12) ** 3
        x = bulge + style.wave * taper(12, 0, 15) * np.clip(y / 0.5, 0.0, 1.0)
        right = _hang(scene, np.column_stack([x, y, np.full(12, 0.35)]))
        left = _hang(scene, np.column_stack([-x, y, np.full(12, 0.35)]))
        mass = smooth(np.concatenate([right, left[::-1]]), 4)
        canvas.fill(mass, dark)
        u = (np.arange(9)[:, None, None] + 0.5) / 9
        strands = smooth(right * u + left * (1 - u), 3)
        widths = np.tile(0.05 * unit * taper(strands.shape[1]), (9, 1))
        canvas.strokes(strands, [mix(dark, shadow(dark, 0.9), 0.6)] * 9, widths)
        canvas.terminator(mass, mass - scene.light * -0.1 * unit, shadow(dark, 0.8), 0.5, 0.1 * unit)
    bald = scene.identity.styles["hair"] == "bald"
    skull = scene.view.skull(np.linspace(0, 2 * np.pi, 48), style.grow * 0.7 - 0.02)
    canvas.fill(skull, mix(colors["skin"], colors["skin_shadow"], 0.5) if bald else dark)


def _extras(scene: Scene, extra: str) -> None:
    colors, unit, canvas = scene.identity.colors, scene.unit, scene.canvas
    hair, dark = colors["hair"], colors["hair_shadow"]
    if extra == "bun":
        center = scene.view.project(np.array([[0.0, -1.52, 0.42]]))[0, :2]
        ball = ellipse(center, (0.42 * unit, 0.38 * unit))
        canvas.fill(ball, hair)
        canvas.terminator(ball, ball + scene.light * 0.14 * unit, dark, 0.9, 0.07 * unit)
        for turn in (0.55, 0.8):
            ring = ellipse(center + 0.05 * unit * scene.light, (0.42 * turn * unit, 0.36 * turn * unit))
            canvas.line(ring[:20], mix(hair, dark, 0.6), 0.02 * unit)
        return
    sides = SIDES.values() if extra == "pigtails" else [1.0 if scene.identity.seed % 4 < 2 else -1.0]
    for sign in sides:
        y = (
            np.array([-0.75, -0.95, -0.75, -0.2, 0.45, 1.0, 1.35])
            if extra == "ponytail"
            else np.array([-0.35, -0.42, -0.2, 0.15, 0.5, 0.8, 1.0])
        )
        x = sign * np.array([0.7, 1.0, 1.26, 1.38, 1.36, 1.26, 1.10])
        spine = smooth(_hang(scene, np.column_stack([x, y, np.full(7, 0.5)])), 4)
        width = 0.50 * unit * taper(len(spine), 0.35, 3.05) ** 0.8
        canvas.stroke(spine, hair, width)
        for shift, tone in ((-0.3, lighten(hair, 0.2)), (0.05, mix(hair, dark, 0.7)), (0.3, dark)):
            line = spine + np.stack([shift * width, np.zeros(len(spine))], 1) * sign
            canvas.stroke(line[2:-2], tone, 0.10 * width[2:-2])
        canvas.fill(ellipse(spine[2], (0.10 * unit, 0.10 * unit)), colors["accent"])


def _cap(scene: Scene, style: HairStyle) -> tuple[np.ndarray, np.ndarray]:
    """Outer edge (skull side, image right to left) and hairline of the cap, in the image."""
    volume = scene.identity.traits["hair_volume"]
    up = np.maximum(-np.sin(_ANGLES), 0.0)
    flip = -1.0 if scene.identity.seed % 4 >= 2 else 1.0
    grow = style.grow * (0.75 + 0.5 * volume) * (0.55 + 0.45 * up) + style.top * up**2 * (0.75 + 0.5 * volume)
    grow = grow + 0.35 * style.top * up**2 * np.cos(_ANGLES) * flip
    if style.edge == "curly":
        phase = np.cumsum(scene.identity.rng(11).uniform(0.7, 1.3, len(_ANGLES))) * np.pi / 3.2
        grow = grow + (0.045 + 0.05 * style.grow) * (np.abs(np.sin(phase)) - 0.3)
    elif style.edge == "spiky":
        phase = np.arange(len(_ANGLES)) % 6 / 6
        grow = (
            grow
            + (
                0.26
                * (1 - np.abs(2 * phase - 1))
                * np.repeat(scene.identity.rng(11).uniform(0.6, 1.2, 11), 6)[: len(_ANGLES)]
            )
            * up
        )
    line = np.asarray(HAIRLINES[style.line]) * (flip, 1.0)
    line = line[::-1] if flip < 0 else line
    line = line * (1.0, scene.shape.stretch_up)
    if style.edge != "spiky":
        line = smooth(line, 4)
    return scene.view.skull(_ANGLES, grow), scene.view.rim(scene.shape, line)[:, :2]


def paint_front_hair(scene: Scene) -> None:
    """The cap with its strands and sheen, then locks that fall before the shoulders."""
    style, canvas, unit = _style(scene), scene.canvas, scene.unit
    if scene.identity.styles["hair"] == "bald":
        return _bald(scene)
    colors = scene.identity.colors
    outer, line = _cap(scene, style)
    cap = np.concatenate([outer, line[::-1]])
    canvas.soft(
        np.concatenate([line[2:-2] + (0, 0.10 * unit), line[-3:1:-1] - (0, 0.1 * unit)]),
        colors["skin_shadow"],
        0.6,
        0.035 * unit,
    )
    if style.locks:
        for sign in SIDES.values():
            _lock(scene, style, sign)
    tone = mix(colors["hair"], colors["skin"], 0.32) if scene.identity.styles["hair"] == "buzz" else colors["hair"]
    canvas.fill(cap, tone)
    canvas.clipped(cap, lambda: _texture(scene, style, outer, line, tone))
    if style.edge != "curly" and style.grow > 0.05:
        canvas.stroke(line, mix(tone, colors["hair_shadow"], 0.8), 0.022 * unit * taper(len(line), 0.05, 3.09))


def _bald(scene: Scene) -> None:
    colors, unit = scene.identity.colors, scene.unit
    outer = scene.view.skull(_ANGLES, 0.0)
    line = scene.view.rim(scene.shape, np.asarray(HAIRLINES["round"]))[:, :2]
    cap = np.concatenate([outer, line[::-1]])
    scene.canvas.fill(cap, colors["skin"])
    scene.canvas.terminator(cap, cap + scene.light * 0.12 * unit, colors["skin_shadow"], 0.7, 0.14 * unit)
    shine = scene.view.project(np.array([[0.0, -1.02, -0.45]]))[0, :2] + scene.light * 0.30 * unit
    scene.canvas.soft(ellipse(shine, (0.26 * unit, 0.13 * unit)), colors["skin_light"], 0.7, 0.08 * unit)


def _texture(scene: Scene, style: HairStyle, outer: np.ndarray, line: np.ndarray, tone) -> None:
    canvas, unit, colors = scene.canvas, scene.unit, scene.identity.colors
    cap = np.concatenate([outer, line[::-1]])
    canvas.terminator(cap, cap + scene.light * 0.22 * unit, colors["hair_shadow"], 0.85, 0.14 * unit)
    dark, light = mix(tone, colors["hair_shadow"], 0.7), mix(tone, colors["hair_light"], 0.42)
    if style.edge == "curly":
        return _curls(scene, style, dark, light)
    if style.grow < 0.05:
        return
    crown = scene.view.project(np.array([[0.45 if style.line == "side" else 0.0, -1.35, -0.05]]))[0, :2]
    if style.line == "side":
        crown = line[np.argmin(line[:, 1])] * 0.7 + crown * 0.3
    along, jitter, breadth = _strand_noise(scene.identity.seed)
    start = crown + jitter * unit
    end, rim = line[(along * (len(line) - 1)).astype(int)], outer[(along * (len(outer) - 1)).astype(int)]
    middle, way = 0.5 * (start + end), end - start
    pull = 0.6 * np.minimum(np.hypot(way[:, 0], way[:, 1]) / (0.9 * unit), 1.0)
    bulge = middle + (rim - middle) * pull[:, None]
    t = np.linspace(0, 1, 9)[:, None]
    strands = (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * bulge[:, None] + t**2 * end[:, None]
    tones = [light if k % 3 == 0 else dark for k in range(len(strands))]
    canvas.strokes(strands, tones, breadth[:, None] * unit * taper(9, 0.15, 3.0))
    angles = np.linspace(-2.75, -0.4, 15)
    wobble = 0.03 * np.where(np.arange(15) % 2, 1, -1)
    ring = np.concatenate([scene.view.skull(angles, -0.20), scene.view.skull(angles[::-1], -0.33 + wobble)])
    canvas.soft(ring + scene.light * 0.10 * unit, colors["hair_light"], 0.55, 0.03 * unit)


@lru_cache(maxsize=8)
def _strand_noise(seed: int, count: int = 22) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where strands end along the hairline (0..1), where they begin about the crown, and how wide they are."""
    rng = np.random.default_rng((seed, 7931))
    along = (np.arange(count) + rng.uniform(0.2, 0.8, count)) / count
    return along, rng.normal(0, 0.02, (count, 2)), rng.uniform(0.016, 0.036, count)


def _curls(scene: Scene, style: HairStyle, dark, light) -> None:
    """Small arcs all over the cap, light on the lit side."""
    angle, depth, size = _curl_noise(scene.identity.seed)
    arc = ellipse((0.0, 0.0), (1.0, 1.0))[4:20]
    middle = scene.view.skull(angle, (depth - 0.75) * (0.5 + style.grow))
    curls = middle[:, None] + arc * (size[:, None, None] * scene.unit)
    lit = np.stack([np.cos(angle), np.sin(angle)], 1) @ scene.light > 0.2
    scene.canvas.strokes(
        curls, [light if on else dark for on in lit], np.tile(0.022 * scene.unit * taper(len(arc)), (len(curls), 1))
    )


@lru_cache(maxsize=8)
def _curl_noise(seed: int, count: int = 46) -> np.ndarray:
    """Angle about the skull, depth under the hair's edge and size of every curl, `(3, count)`."""
    return np.random.default_rng((seed, 7932)).uniform([[-3.3], [0.1], [0.05]], [[0.2], [0.95], [0.10]], (3, count))


def _lock(scene: Scene, style: HairStyle, sign: float) -> None:
    canvas, unit, colors = scene.canvas, scene.unit, scene.identity.colors
    reach = 0.35 + (style.back - 0.35) * (0.7 + 0.45 * scene.identity.traits["hair_length"])
    y = np.linspace(-0.55, reach, 11)
    inner = np.interp(y, [-0.55, -0.1, 0.5, 1.0, 2.2], [0.80, 0.97, 0.98, 0.90, 0.80]) + style.wave * taper(11, 0, 13)
    outer = inner + np.interp(y, [-0.55, 0.2, 0.8 * reach, reach], [0.22, 0.26, 0.30, 0.06])
    depth = np.full(11, 0.12)
    inside = _hang(scene, np.column_stack([sign * inner, y, depth]))
    outside = _hang(scene, np.column_stack([sign * outer, y, depth + 0.15]))
    lock = smooth(np.concatenate([inside, outside[::-1]]), 3)
    canvas.fill(lock, colors["hair"] if sign * scene.light[0] > 0 else mix(colors["hair"], colors["hair_shadow"], 0.45))
    u = np.array([0.3, 0.6, 0.85])[:, None, None]
    strands = smooth(inside * (1 - u) + outside * u, 3)
    tones = [
        mix(colors["hair"], tone, 0.8)
        for tone in (lighten(colors["hair"], 0.16), colors["hair_shadow"], colors["hair_shadow"])
    ]
    canvas.strokes(strands, tones, np.tile(0.028 * unit * taper(strands.shape[1]), (3, 1)))
