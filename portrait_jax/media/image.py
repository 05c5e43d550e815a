"""Image files as RGB uint8 arrays, and the few ways in which the project resizes them."""

from __future__ import annotations

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from portrait_jax.errors import InputFileError
from portrait_jax.media.files import FilePath, atomic_output, checked_input
from portrait_jax.typing import Image, UInt8

MIN_SIDE, MAX_SIDE, MAX_PIXELS = 16, 16384, 100_000_000


def read_image(path: FilePath) -> Image:
    """Reads the first picture of an image file.

    EXIF rotation is applied, transparency is laid over white, 16-bit and grey images become 8-bit RGB.

    Raises:
        InputFileError: missing, empty, not an image, truncated, or a side below 16 or above 16384 pixels.
    """
    path = checked_input(path, "image")
    try:
        with PillowImage.open(path) as file:
            _check_size(file.size, path)
            return _to_rgb(ImageOps.exif_transpose(file))
    except UnidentifiedImageError:
        raise InputFileError(f"{path} is not an image that can be read; give a PNG, JPEG or WebP file") from None
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        raise InputFileError(f"image {path} cannot be decoded ({error}); it may be damaged, export it again") from error


def _check_size(size: tuple[int, int], path: FilePath) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise InputFileError(f"image {path} is {width}×{height} pixels; each side needs at least {MIN_SIDE}")
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise InputFileError(
            f"image {path} is {width}×{height} pixels; at most {MAX_SIDE} a side and {MAX_PIXELS // 10**6} megapixels "
            "are read, scale it down first"
        )


def _to_rgb(file: PillowImage.Image) -> np.ndarray:
    if file.mode.startswith("I;16") or file.mode == "I":
        grey = (np.asarray(file, np.float64) / 257).clip(0, 255).round().astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if "A" in file.getbands() or "transparency" in file.info:
        rgba = file.convert("RGBA")
        file = PillowImage.alpha_composite(PillowImage.new("RGBA", rgba.size, "white"), rgba)
    return np.array(file.convert("RGB"))


def write_image(path: FilePath, image: Image) -> None:
    """Writes an image; the suffix chooses the format. The file appears only when it is complete."""
    try:
        with atomic_output(path) as partial:
            PillowImage.fromarray(np.ascontiguousarray(image)).save(partial)
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot write the image {path}: {error}") from error


FILTERS = {
    "lanczos": PillowImage.Resampling.LANCZOS,
    "bicubic": PillowImage.Resampling.BICUBIC,
    "bilinear": PillowImage.Resampling.BILINEAR,
}


def resize(image: Image, height: int, width: int, kind: str = "lanczos") -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Resizes without keeping the aspect ratio, anti-aliased when shrinking; `kind` is one of `FILTERS`."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(PillowImage.fromarray(image).resize((width, height), FILTERS[kind]))


def letterbox(image: Image, height: int, width: int, fill: int = 0) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Fits the whole image into `height`×`width`, keeping its aspect ratio, on bars of grey value `fill`."""
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height, inner_width = (min(limit, max(1, round(side * scale)))
                                 for side, limit in zip(image.shape[:2], (height, width), strict=True))  # fmt: skip
    canvas = np.full((height, width, 3), fill, np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas[top : top + inner_height, left : left + inner_width] = resize(image, inner_height, inner_width)
    return canvas
