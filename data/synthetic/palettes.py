"""Colours and styles from which people, clothes and backgrounds are put together."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from data.synthetic.canvas import Color, lighten, mix, shadow

T = TypeVar("T")

SKIN = (
    (255, 224, 204), (250, 211, 184), (243, 198, 165), (232, 182, 146), (219, 164, 124), (200, 143, 104),
    (176, 119, 82), (150, 98, 66), (122, 77, 52), (96, 60, 43),
)  # fmt: skip
HAIR = (
    (38, 30, 36), (56, 38, 34), (84, 54, 40), (116, 74, 48), (152, 100, 58), (196, 144, 84), (228, 190, 122),
    (168, 70, 40), (206, 96, 52), (120, 42, 44), (44, 48, 68),
)  # fmt: skip
FANCY_HAIR = ((232, 122, 156), (96, 140, 196), (86, 160, 140), (150, 110, 190), (240, 170, 110), (70, 84, 150))
GREY_HAIR = ((150, 148, 152), (196, 194, 194), (228, 226, 222), (112, 110, 116))
IRIS = (
    (92, 58, 36), (122, 80, 44), (70, 46, 36), (96, 122, 70), (72, 120, 150), (96, 150, 190), (110, 128, 140),
    (128, 110, 60),
)  # fmt: skip
CLOTH_BACKDROP = (
    ((214, 84, 72), (250, 226, 196)), ((46, 84, 122), (240, 206, 160)), ((242, 186, 72), (92, 138, 160)),
    ((74, 128, 106), (246, 226, 206)), ((238, 238, 232), (232, 142, 118)), ((52, 52, 66), (140, 184, 190)),
    ((150, 96, 156), (248, 218, 178)), ((236, 140, 126), (120, 170, 172)), ((98, 158, 182), (250, 232, 186)),
    ((62, 70, 92), (238, 170, 140)), ((222, 204, 176), (86, 116, 108)), ((122, 60, 74), (226, 206, 190)),
    ((244, 206, 190), (108, 104, 152)), ((60, 110, 100), (244, 196, 110)), ((200, 110, 60), (70, 96, 120)),
    ((230, 232, 238), (112, 150, 204)), ((88, 64, 60), (176, 200, 172)), ((240, 120, 100), (60, 76, 110)),
)  # fmt: skip
"""Pairs (clothes, background) that sit well together."""

STYLES: Mapping[str, Mapping[str, float]] = {
    "hair": {
        "crop": 1.0, "side_part": 1.3, "quiff": 0.9, "spiky": 0.8, "curls": 1.0, "afro": 0.8, "buzz": 0.5, "bald": 0.4,
        "bob": 1.2, "bangs": 1.2, "long": 1.4, "curtain": 1.2, "wavy": 1.2, "bun": 0.9, "ponytail": 0.9,
        "pigtails": 0.6, "receding": 0.5, "pixie": 0.9,
    },
    "clothes": {"tee": 1.2, "shirt": 1.0, "hoodie": 0.9, "vneck": 0.9, "turtleneck": 0.8, "suit": 0.8, "stripes": 0.7},
    "backdrop": {
        "plain": 1.0, "halo": 1.0, "diagonal": 0.8, "dots": 0.8, "bokeh": 1.0, "hills": 0.9, "window": 0.8, "rays": 0.6,
    },
    "glasses": {"none": 3.0, "round": 0.5, "square": 0.5, "thin": 0.4},
    "beard": {"none": 1.0},
    "hat": {"none": 6.0, "beanie": 0.7, "headband": 0.6},
    "earring": {"none": 2.5, "stud": 0.6, "hoop": 0.5},
    "marks": {"none": 2.0, "freckles": 0.7, "mole": 0.4},
}  # fmt: skip
"""Discrete styles with their relative frequencies."""

SHORT_HAIR = ("crop", "side_part", "quiff", "spiky", "curls", "buzz", "bald", "receding", "afro")
NO_HAT = ("bald", "buzz", "afro", "bun", "quiff", "spiky", "receding")
BEARDS = {"none": 1.4, "stubble": 0.9, "full": 0.7, "moustache": 0.4, "goatee": 0.4}


def _choice(rng: np.random.Generator, table: Mapping[str, float]) -> str:
    weights = np.asarray(list(table.values()))
    return str(rng.choice(list(table), p=weights / weights.sum()))


def sample_styles(rng: np.random.Generator, traits: Mapping[str, float]) -> dict[str, str]:
    """One style per kind; beards grow on half of those with short hair."""
    styles = {kind: _choice(rng, table) for kind, table in STYLES.items()}
    beard = _choice(rng, BEARDS)
    masculine = styles["hair"] in SHORT_HAIR and rng.random() < 0.75
    styles["beard"] = beard if masculine else "none"
    if styles["hair"] in NO_HAT:
        styles["hat"] = "none"
    styles["build"] = "broad" if masculine else "slim"
    return styles


def _jitter(rng: np.random.Generator, color: Color, hue: float, sat: float, value: float) -> Color:
    h, s, v = colorsys.rgb_to_hsv(*(c / 255.0 for c in color))
    h = (h + rng.uniform(-hue, hue)) % 1.0
    s = min(max(s * (1 + rng.uniform(-sat, sat)), 0.0), 1.0)
    v = min(max(v * (1 + rng.uniform(-value, value)), 0.0), 1.0)
    return tuple(255.0 * c for c in colorsys.hsv_to_rgb(h, s, v))


def _pick(rng: np.random.Generator, table: tuple[T, ...]) -> T:
    return table[int(rng.integers(len(table)))]


def sample_colors(rng: np.random.Generator, styles: Mapping[str, str], traits: Mapping[str, float]) -> dict[str, Color]:
    """A harmonious palette: skin with its shadow and light, hair, eyes, lips, clothes, background."""
    tone = rng.uniform(0, len(SKIN) - 1)
    low = int(tone)
    skin = _jitter(rng, mix(SKIN[low], SKIN[min(low + 1, len(SKIN) - 1)], tone - low), 0.012, 0.12, 0.03)
    darkness = tone / (len(SKIN) - 1)
    dark_hair = HAIR[:4] if darkness > 0.5 else HAIR
    table = GREY_HAIR if traits["age"] > 0.85 else FANCY_HAIR if rng.random() < 0.12 else dark_hair
    hair = _jitter(rng, _pick(rng, table), 0.02, 0.15, 0.12)
    iris = _jitter(rng, _pick(rng, IRIS[:3] if darkness > 0.55 else IRIS), 0.03, 0.2, 0.12)
    tint = _jitter(rng, (196, 64, 72), 0.03, 0.2, 0.12)
    lip = mix(mix(skin, (176, 74, 76), 0.42), tint, 0.0 if styles["build"] == "broad" else rng.uniform(0.1, 0.75))
    cloth, backdrop = _pick(rng, CLOTH_BACKDROP)
    cloth, backdrop = _jitter(rng, cloth, 0.03, 0.15, 0.08), _jitter(rng, backdrop, 0.03, 0.15, 0.06)
    second = _jitter(rng, _pick(rng, CLOTH_BACKDROP)[0], 0.03, 0.2, 0.1)
    gloss = tuple(min(255.0, 1.35 * c + 14) for c in hair)
    return {
        "skin": skin, "skin_shadow": shadow(skin, 0.95), "skin_light": lighten(skin, 0.42),
        "hair": hair, "hair_shadow": shadow(hair, 1.25), "hair_light": mix(gloss, (255, 236, 214), 0.14),
        "brow": mix(shadow(hair, 0.8), shadow(skin, 1.5), 0.18), "iris": iris, "lip": lip,
        "cloth": cloth, "accent": second, "backdrop": backdrop,
        "frame": _pick(rng, ((44, 40, 48), (120, 62, 46), (150, 40, 52), (52, 74, 98), (196, 160, 96))),
    }  # fmt: skip
