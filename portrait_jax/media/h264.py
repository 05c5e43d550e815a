"""The one H.264 encoder behind video files and records."""

from __future__ import annotations

import io
import math
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation

from portrait_jax.errors import VideoError
from portrait_jax.typing import Image

MAX_FPS = 240
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Colour conversion with full chroma and correct rounding: FFmpeg's default darkens by one level per pass."""
_BT709, _LIMITED = 1, 1


def exact_rate(fps: float | int) -> Fraction:
    """The frame rate as a fraction (29.97 → 30000/1001), since time stamps are whole multiples of its inverse.

    Raises VideoError if it is not positive or above 240.
    """
    if not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
        raise VideoError(f"cannot write a video at {fps} frames per second; give a rate from 1 to {MAX_FPS}")
    ntsc = Fraction(math.ceil(fps) * 1000, 1001)
    return ntsc if abs(float(ntsc) - fps) < 2e-4 * fps else Fraction(fps).limit_denominator(1001)


class Encoder:
    """Encodes RGB frames in order; odd sizes are padded to even by repeating edge pixels.

    No B-frames, so that a frame's time is its index / fps, and files join without edit lists.
    """

    def __init__(
        self,
        target: str | io.BytesIO,
        container: str,
        size: tuple[int, int],
        fps: float | int,
        crf: int,
        gop: int | None,
    ):
        """`container` is FFmpeg's format name, `size` (height, width), `gop` the key frame distance (None: its own)."""
        height, width = size
        self._padding = ((0, height % 2), (0, width % 2), (0, 0))
        rate = exact_rate(fps)
        self._container = av.open(target, "w", format=container)
        options = {"crf": str(crf), "bf": "0"} | ({"g": str(gop)} if gop else {})
        self._stream = stream = self._container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / rate
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._count = 0

    def encode(self, image: Image) -> None:
        """Appends a frame."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(image, self._padding, "edge")), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", interpolation=EXACT)
        frame.pts, frame.time_base = self._count, self._stream.codec_context.time_base
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Writes what is pending and closes the file."""
        try:
            if self._count:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
