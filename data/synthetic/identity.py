"""Who is drawn: a procedural person as a table of traits, a palette and a few styles, all decided by one integer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from data.synthetic import palettes
from data.synthetic.canvas import Color, mix

TRAITS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {  # lengths in half face widths
        "forehead_width": (0.93, 1.06),
        "jaw_width": (0.84, 1.07),
        "chin_width": (0.80, 1.15),
        "chin_length": (1.10, 1.32),
        "forehead_height": (0.96, 1.10),
        "eye_spacing": (0.43, 0.48),
        "eye_height": (-0.30, -0.20),
        "eye_width": (0.195, 0.24),
        "eye_open": (0.120, 0.175),
        "eye_tilt": (-0.06, 0.09),
        "iris_size": (0.118, 0.140),
        "lash": (0.45, 1.3),
        "brow_height": (0.29, 0.37),
        "brow_thickness": (0.045, 0.095),
        "brow_arch": (0.0, 0.09),
        "brow_slope": (-0.05, 0.06),
        "nose_length": (0.40, 0.52),
        "nose_width": (0.15, 0.235),
        "nose_depth": (0.20, 0.36),
        "mouth_height": (0.58, 0.67),
        "mouth_width": (0.27, 0.37),
        "upper_lip": (0.045, 0.085),
        "lower_lip": (0.065, 0.115),
        "ear_size": (0.85, 1.15),
        "neck_width": (0.50, 0.66),
        "shoulders": (1.75, 2.35),
        "hair_volume": (0.0, 1.0),
        "hair_length": (0.0, 1.0),
        "age": (0.0, 1.0),
        "blush": (0.0, 1.0),
    }
)
"""Every continuous trait with its range; values are drawn uniformly."""

COLORS = ("skin", "hair", "iris", "lip", "cloth", "backdrop")
ATTRIBUTE_NAMES = (*TRAITS, *(f"{name}_{channel}" for name in COLORS for channel in "rgb"), "glasses", "beard")
SPLITS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class Identity:
    """One person. `traits` by name, `colors` by name (RGB 0..255), `styles` by name; `light` is the unit direction
    in the image from which light comes (x right, y down), `seed` also decides details such as strands and freckles."""

    seed: int
    traits: Mapping[str, float]
    colors: Mapping[str, Color]
    styles: Mapping[str, str]
    light: tuple[float, float]

    def rng(self, purpose: int) -> np.random.Generator:
        """Random numbers of one detail; equal at every call."""
        return np.random.default_rng((self.seed, 7919 + purpose))


def split_seed(split: str, index: int) -> int:
    """The identity seed of the index-th person of a split; train and test never share one."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known are: {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"index must not be negative, got {index}")
    return 2 * index + SPLITS[split]


def sample_identity(seed: int) -> Identity:
    """The person of a seed (any non-negative integer); the same at every call and on every machine."""
    rng = np.random.default_rng((int(seed), 1))
    traits = {name: float(rng.uniform(low, high)) for name, (low, high) in TRAITS.items()}
    styles = palettes.sample_styles(rng, traits)
    colors = palettes.sample_colors(rng, styles, traits)
    side = -1.0 if rng.random() < 0.5 else 1.0
    angle = rng.uniform(0.35, 1.1)
    light = (side * float(np.sin(angle)), -float(np.cos(angle)))
    return Identity(int(seed), MappingProxyType(traits), MappingProxyType(colors), MappingProxyType(styles), light)


def identity_attributes(identity: Identity) -> np.ndarray:
    """What can be measured of a person, float32 `(A,)` like `ATTRIBUTE_NAMES`, about zero mean, unit spread."""
    values = [
        (identity.traits[name] - 0.5 * (low + high)) / ((high - low) / np.sqrt(12.0))
        for name, (low, high) in TRAITS.items()
    ]
    values += [(channel - 128.0) / 64.0 for name in COLORS for channel in identity.colors[name]]
    values += [1.0 if identity.styles[name] != "none" else -1.0 for name in ("glasses", "beard")]
    return np.asarray(values, np.float32)


def outline_color(identity: Identity) -> Color:
    """Colour of the lines within skin: the deep shade of the person's own skin, never black."""
    return mix(identity.colors["skin_shadow"], (58, 22, 30), 0.62)
