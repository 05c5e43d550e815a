"""Whatever an image file holds comes out as RGB uint8, or as a message."""

import numpy as np
import pytest
from PIL import Image as PillowImage

from portrait_jax.errors import InputFileError
from portrait_jax.media.image import letterbox, read_image, resize, write_image

QUADRANTS = np.zeros((40, 60, 3), np.uint8)
QUADRANTS[:20, :30] = (255, 0, 0)
QUADRANTS[20:, 30:] = (0, 0, 255)


def test_a_written_image_is_read_back_exactly(tmp_path):
    write_image(tmp_path / "a.png", QUADRANTS)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), QUADRANTS)


def test_exif_rotation_is_applied(tmp_path):
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # Rotate by 90° clockwise to show.
    PillowImage.fromarray(QUADRANTS).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(QUADRANTS, -1))


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.dstack([QUADRANTS, np.zeros((40, 60), np.uint8)])
    PillowImage.fromarray(rgba).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    PillowImage.fromarray(QUADRANTS).convert(mode).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path):
    PillowImage.fromarray(np.full((32, 32), 32896, np.uint16)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 128).all()


def _truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PillowImage.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize("make, words", [
    (lambda path: path.write_text("hello"), "not an image"),
    (lambda path: path.touch(), "empty"),
    (lambda path: None, "does not exist"),
    (_truncated, "cannot be decoded"),
    (lambda path: PillowImage.new("RGB", (3, 300)).save(path), "3×300"),
    (lambda path: PillowImage.new("1", (20000, 20)).save(path), "20000×20"),
])  # fmt: skip
def test_unusable_images_are_refused_by_name(tmp_path, make, words):
    path = tmp_path / "portrait.png"
    make(path)
    with pytest.raises(InputFileError, match=words) as caught:
        read_image(path)
    assert "portrait.png" in str(caught.value)


def test_an_unknown_format_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(InputFileError, match="cannot write"):
        write_image(tmp_path / "a.nonsense", QUADRANTS)
    assert not list(tmp_path.iterdir())


def test_letterbox_keeps_the_aspect_ratio_and_centres():
    boxed = letterbox(np.full((10, 40, 3), 200, np.uint8), 64, 64, fill=7)
    rows = np.flatnonzero((boxed[:, 32] == 200).all(-1))
    assert (rows[0], rows[-1]) == (24, 39) and (boxed[0] == 7).all()


def test_resizing_gives_the_asked_size():
    assert resize(QUADRANTS, 17, 23).shape == (17, 23, 3)
    assert resize(QUADRANTS, 40, 60) is QUADRANTS
