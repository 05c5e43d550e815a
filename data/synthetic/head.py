"""The head as a surface in space: where a frontal point lies in depth, and where it goes when the head turns.

Head coordinates: half face widths, x towards image right, y down, z away from the viewer (smaller is nearer), origin
in the middle of the head. Poses are (yaw, pitch, roll) in degrees and (x, y, scale): yaw > 0 turns to image right,
pitch > 0 looks up, roll > 0 tilts clockwise; (x, y) is the head's centre and scale its width, in image sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

POSE_NAMES = ("yaw", "pitch", "roll", "x", "y", "scale")

# The right half of a frontal face outline from the top of the forehead to the chin, one row per id of topology.OVAL.
HALF_OVAL = np.array(
    [(0.0, -1.06), (0.20, -1.05), (0.40, -1.01), (0.58, -0.93), (0.74, -0.79), (0.86, -0.61), (0.94, -0.42),
     (0.985, -0.22), (1.0, -0.02), (0.99, 0.18), (0.955, 0.38), (0.89, 0.59), (0.79, 0.78), (0.67, 0.92),
     (0.54, 1.035), (0.42, 1.11), (0.29, 1.165), (0.15, 1.20), (0.0, 1.21)]
)  # fmt: skip
_Y = np.array([-1.3, -1.06, -0.75, -0.4, 0.0, 0.55, 0.9, 1.21, 1.5])
_FRONT = np.array([-0.30, -0.48, -0.62, -0.66, -0.66, -0.74, -0.70, -0.56, -0.5])
_SIDE = np.array([-0.25, -0.20, 0.05, 0.24, 0.30, 0.20, -0.06, -0.42, -0.45])
_FAMILY = np.linspace(1.0, 0.64, 25)  # parallels inward of a rim point
SKULL_CENTER = np.array([0.0, -0.36, 0.22])
SKULL_RADII = np.array([1.07, 1.05, 1.12])


_GRID = np.linspace(-2.0, 2.2, 841)  # heights at which a head's depths are tabulated


@dataclass(frozen=True)
class HeadShape:
    """Face outline of one person: `half (19, 2)`, the vertical stretch of lower and upper face, and by height
    (`_GRID`) the surface's depth at the sides, how much nearer its middle is, and its half width `(841, 3)`."""

    half: np.ndarray
    stretch_down: float
    stretch_up: float
    profile: np.ndarray

    @classmethod
    def of(cls, traits: Mapping[str, float]) -> HeadShape:
        return _shape(*(traits[name] for name in _SHAPE_TRAITS))

    def oval(self) -> np.ndarray:
        """Closed frontal outline `(36, 2)` in the order of `topology.OVAL`."""
        mirrored = self.half[-2:0:-1] * (-1.0, 1.0)
        return np.concatenate([self.half, mirrored])

    def canonical_y(self, y: np.ndarray) -> np.ndarray:
        """Undoes the person's vertical stretch."""
        return np.where(y > 0, y / self.stretch_down, y / self.stretch_up)

    def lift(self, xy: np.ndarray, raised: float | np.ndarray = 0.0) -> np.ndarray:
        """Frontal points `(n, 2)` on the face surface `(n, 3)`; `raised` moves them towards the viewer."""
        place = np.minimum(np.maximum((xy[:, 1] - _GRID[0]) * 200.0, 0.0), 839.0)
        row = place.astype(int)
        part = (place - row)[:, None]
        side, near, width = (self.profile[row] * (1.0 - part) + self.profile[row + 1] * part).T
        across = xy[:, 0] / width
        points = np.empty((len(xy), 3))
        points[:, :2] = xy
        points[:, 2] = side - near * np.sqrt(np.maximum(1.0 - across * across, 0.0)) - raised
        return points


_SHAPE_TRAITS = ("forehead_width", "jaw_width", "chin_width", "chin_length", "forehead_height")


@lru_cache(maxsize=64)
def _shape(forehead: float, jaw: float, chin: float, length: float, height: float) -> HeadShape:
    """The head of the traits `_SHAPE_TRAITS`."""
    x, y = HALF_OVAL.T
    width = np.interp(
        y, [-1.06, -0.6, -0.1, 0.3, 0.75, 1.05, 1.21], [forehead, forehead, 1.0, 1.0, jaw, 0.5 * (jaw + chin), chin]
    )
    down, up = length / 1.21, height / 1.06
    half = np.stack([x * width, y * np.where(y > 0, down, up)], 1)
    canonical = np.where(_GRID > 0, _GRID / down, _GRID / up)
    side = np.interp(canonical, _Y, _SIDE)
    near = side - np.interp(canonical, _Y, _FRONT)
    reach = 1.01 * np.interp(_GRID, half[:, 1], np.maximum(half[:, 0], 0.12))
    return HeadShape(half, down, up, np.column_stack([side, near, reach]))


@dataclass(frozen=True)
class View:
    """A pose as a map from head coordinates to the image (weak perspective)."""

    rotation: np.ndarray
    center: np.ndarray
    half_width: float
    level: np.ndarray  # the roll as it appears: a right-hand factor `(3, 3)` that undoes it

    @classmethod
    def of(cls, pose: np.ndarray) -> View:
        yaw, pitch, roll = np.deg2rad(np.asarray(pose[:3], float))
        cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
        turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        rotation = tilt @ nod @ turn
        c, s = rotation[:2, 0] / max(np.hypot(*rotation[:2, 0]), 1e-9)
        level = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        return cls(rotation, np.array([pose[3], pose[4], 0.0], float), 0.5 * float(pose[5]), level)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Head coordinates `(n, 3)` to image fractions `(n, 3)`; z stays relative depth in image sides."""
        return points @ self.rotation.T * self.half_width + self.center

    def rim(self, shape: HeadShape, xy: np.ndarray, shift: np.ndarray | float = 0.0) -> np.ndarray:
        """Projects points near the face's rim onto its visible silhouette `(n, 3)`.

        A point that the turning head carries behind its own cheek is replaced by the outermost point of the surface
        between it and the middle of the face. `shift (n, 3)` is a displacement added on the surface (an opened jaw).
        """
        n = len(xy)
        family = xy[None] * np.stack([_FAMILY, np.ones_like(_FAMILY)], 1)[:, None]
        points = shape.lift(family.reshape(-1, 2)).reshape(len(_FAMILY), n, 3) + shift
        outward = (points @ self.rotation.T @ self.level) * np.sign(xy[:, :1] + 1e-9)
        best = outward[..., 0].argmax(0)
        return self.project(points[best, np.arange(n)])

    @property
    def roll(self) -> float:
        """In-plane turn in radians of the head's x axis, as it appears."""
        return float(np.arctan2(self.rotation[1, 0], self.rotation[0, 0]))

    def skull(self, angles: np.ndarray, grow: np.ndarray | float = 0.0) -> np.ndarray:
        """Silhouette of the cranium `(n, 2)`: 0 is image right, −π/2 the top; `grow` in half face widths."""
        middle = self.project(SKULL_CENTER[None])[0, :2]
        axes = self.level[:2, :2].T
        spread = np.sqrt(((self.level.T @ self.rotation) ** 2) @ (SKULL_RADII**2))
        local = np.stack([np.cos(angles) * (spread[0] + grow), np.sin(angles) * (spread[1] + grow)], 1)
        return middle + local @ axes.T * self.half_width
