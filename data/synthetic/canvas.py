"""A small anti-aliased painter on uint8 images: crisp shapes, tapered strokes, soft shading, clipped groups.

Coordinates are fractions of the image side (0..1, origin at the top-left corner, y down); widths and blurs too.
Colours are RGB triples 0..255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np

Number = float | int
Color = tuple[Number, Number, Number]
SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates


class Canvas:
    """Holds `image` (uint8 `side side 3`) and paints on it in place."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.image = np.zeros((side, side, 3), np.uint8)
        self.origin = (0, 0)  # of `image` within the canvas, in pixels; not zero inside `clipped`

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Fractions to OpenCV fixed point; its pixel centres are at integers, ours at +0.5."""
        return (points[..., :2] * (self.side << SHIFT) - ((1 << SHIFT) / 2 - 0.5)).astype(np.int32)

    def _draw(self, polygons: Sequence[np.ndarray], color: Color) -> None:
        offset = (-self.origin[0] << SHIFT, -self.origin[1] << SHIFT)
        cv2.fillPoly(self.image, polygons, color, cv2.LINE_AA, SHIFT, offset)

    def _cover(self, pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        """Coverage (uint8) of one polygon within a box."""
        x0, y0, x1, y1 = box
        coverage = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(coverage, [pixels], 255, cv2.LINE_AA, SHIFT, (-x0 << SHIFT, -y0 << SHIFT))
        return coverage

    def _box(self, pixels: np.ndarray, pad: int) -> tuple[int, int, int, int] | None:
        """The polygon's box in whole pixels, padded and cut to the image; None when nothing is left."""
        left, top, width, height = cv2.boundingRect(pixels)
        (rows, columns), (ox, oy) = self.image.shape[:2], self.origin
        x0, y0 = max((left >> SHIFT) - pad, ox), max((top >> SHIFT) - pad, oy)
        x1 = min(((left + width) >> SHIFT) + 2 + pad, ox + columns)
        y1 = min(((top + height) >> SHIFT) + 2 + pad, oy + rows)
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def _region(self, box: tuple[int, int, int, int]) -> np.ndarray:
        (x0, y0, x1, y1), (ox, oy) = box, self.origin
        return self.image[y0 - oy : y1 - oy, x0 - ox : x1 - ox]

    def fill(self, points: np.ndarray, color: Color) -> None:
        """Fills a closed polygon `(n, ≥2)` with one colour."""
        self._draw([self._pixels(points)], color)

    def fills(self, polygons: np.ndarray, color: Color) -> None:
        """Fills polygons `(k, n, ≥2)` that do not overlap."""
        self._draw(list(self._pixels(polygons)), color)

    def line(self, points: np.ndarray, color: Color, width: float) -> None:
        """A polyline of constant width (full width)."""
        self.stroke(points, color, width)

    def stroke(self, points: np.ndarray, color: Color, width: np.ndarray | float) -> None:
        """A line of varying width (full width per point, may be 0 at the ends)."""
        self.fill(ribbon(points, width), color)

    def strokes(self, curves: np.ndarray, colors: Sequence[Color], widths: np.ndarray) -> None:
        """Many lines `(k, n, 2)` of widths `(k, n)` at once, one colour each."""
        for outline, color in zip(self._pixels(ribbon(curves, widths)), colors, strict=True):
            self._draw([outline], color)

    def mask(self, points: np.ndarray, blur: float = 0.0) -> tuple[np.ndarray, tuple[int, int, int, int]] | None:
        """Coverage of a polygon (uint8) in its bounding box, optionally blurred; None when outside the image."""
        pixels = self._pixels(points)
        box = self._box(pixels, int(2.0 * blur * self.side) + 1)
        if box is None:
            return None
        coverage = self._cover(pixels, box)
        return (_blurred(coverage, blur * self.side) if blur else coverage), box

    def blend(self, coverage: np.ndarray, box: tuple, color: Color, alpha: float = 1.0) -> None:
        """Mixes one colour into a box by a uint8 coverage."""
        region = self._region(box)
        paint = flat(region.shape, color)
        weight = coverage.astype(np.float32) * np.float32(alpha / 255.0)
        region[:] = cv2.blendLinear(region, paint, 1.0 - weight, weight)

    def soft(self, points: np.ndarray, color: Color, alpha: float, blur: float) -> None:
        """A blurred, translucent polygon."""
        masked = self.mask(points, blur=blur)
        if masked is not None:
            self.blend(masked[0], masked[1], color, alpha)

    def terminator(self, points: np.ndarray, lit: np.ndarray, color: Color, alpha: float, blur: float) -> None:
        """Shades the part of polygon `points` outside the blurred polygon `lit`: a soft shadow side."""
        masked = self.mask(points)
        if masked is None:
            return
        coverage, box = masked
        light = _blurred(self._cover(self._pixels(lit), box), blur * self.side)
        self.blend(cv2.multiply(coverage, 255 - light, scale=1 / 255.0), box, color, alpha)

    def clipped(self, points: np.ndarray, paint: Callable[[], None]) -> None:
        """Runs `paint` on a copy of the polygon's box and keeps the result only inside the polygon."""
        masked = self.mask(points)
        if masked is None:
            return
        coverage, box = masked
        whole, origin = self.image, self.origin
        before = self._region(box)
        self.image, self.origin = before.copy(), box[:2]
        paint()
        after, self.image, self.origin = self.image, whole, origin
        weight = coverage.astype(np.float32) * np.float32(1 / 255.0)
        before[:] = cv2.blendLinear(before, after, 1.0 - weight, weight)


def _blurred(coverage: np.ndarray, width: float) -> np.ndarray:
    """A soft copy; `width` is the blur's standard deviation in pixels, nearly."""
    size = 2 * int(round(1.6 * width)) + 1
    return cv2.stackBlur(coverage, (size, size)) if size > 1 else coverage


def flat(shape: tuple[int, ...], color: Color) -> np.ndarray:
    """A one-coloured uint8 image `(h, w, 3)` (OpenCV fills several times faster than a broadcast)."""
    image = np.empty(shape, np.uint8)
    cv2.rectangle(image, (0, 0), (shape[1], shape[0]), color, cv2.FILLED)
    return image


def ribbon(points: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Outline polygon `(…, 2n, 2)` of lines `(…, n, ≥2)` with full `width` per point."""
    xy = points[..., :2]
    n = xy.shape[-2]
    tangent = np.empty(xy.shape)
    tangent[..., 1:-1, :] = xy[..., 2:, :] - xy[..., :-2, :]
    tangent[..., 0, :], tangent[..., -1, :] = xy[..., 1, :] - xy[..., 0, :], xy[..., -1, :] - xy[..., -2, :]
    dx, dy = tangent[..., 0], tangent[..., 1]
    reach = 0.5 * width / np.sqrt(dx * dx + dy * dy + 1e-18)
    outline = np.empty((*xy.shape[:-2], 2 * n, 2))
    outline[..., :n, 0], outline[..., :n, 1] = xy[..., 0] - reach * dy, xy[..., 1] + reach * dx
    outline[..., : n - 1 : -1, :] = 2.0 * xy - outline[..., :n, :]
    return outline


@lru_cache(maxsize=512)
def taper(samples: int, first: Number = 0.1, last: Number = 3.05) -> np.ndarray:
    """Widths of a brush stroke, 0..1: the sine from `first` to `last` (π ends in a point)."""
    return np.sin(np.linspace(first, last, samples))


def mix(a: Color, b: Color, t: float) -> Color:
    """Linear mix of two colours."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def shadow(color: Color, amount: float = 1.0) -> Color:
    """The same surface turned from the light: darker, a little cooler and more saturated."""
    return (color[0] * (1.0 - 0.24 * amount), color[1] * (1.0 - 0.36 * amount), color[2] * (1.0 - 0.30 * amount))


def lighten(color: Color, amount: float) -> Color:
    """Towards a warm white light."""
    return mix(color, (255, 248, 232), amount)
