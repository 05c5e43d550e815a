"""Landmark drawings and the face mask equal Follow-Your-Emoji's in every pixel."""

import re

import numpy as np
import pytest

from portrait_jax.face.drawing import draw_landmarks
from portrait_jax.face.masks import polygon_mask
from portrait_jax.face.topology import JAW
from tests.systems.follow_your_emoji.original import case, picture


@pytest.fixture(scope="module")
def golden():
    return case("landmarks")


def landmarks_px(golden, name: str, width: int, height: int) -> np.ndarray:
    return golden.inputs[f"{name}.landmarks"] * [width, height, width]


def test_unaligned_drawings_equal_golden_in_every_pixel(golden):
    names = [name.removesuffix(".landmarks") for name in golden.inputs if name.endswith(".landmarks")]
    assert names
    for name in names:
        width, height = golden.inputs[f"{name}.width_height"].tolist()
        drawn = draw_landmarks(landmarks_px(golden, name, width, height), height, width, "released")
        np.testing.assert_array_equal(drawn, picture(golden, f"landmark_{name}_unaligned"))


def test_aligned_drawings_equal_golden_in_every_pixel(golden):
    kinds = [name for name in golden.outputs if name.startswith("aligned_points")]
    assert kinds
    for kind in kinds:
        frames = golden.outputs[kind][1:]  # The release drops the first frame.
        stem = f"landmark_{kind.replace('_points', '')}"
        pictures = [path.stem for path in golden.folder.glob("*.png") if re.fullmatch(rf"{stem}\d+", path.stem)]
        assert len(pictures) == len(frames)
        for i, frame in enumerate(frames, 1):
            expected = picture(golden, f"{stem}{i}")
            np.testing.assert_array_equal(draw_landmarks(frame, *expected.shape[:2], "released"), expected)


def test_jaw_mask_equals_golden_in_every_pixel(golden):
    expected = picture(golden, "face_mask_ref")[..., 0] > 0
    height, width = expected.shape
    points = landmarks_px(golden, "ref", width, height)
    np.testing.assert_array_equal(polygon_mask(points, JAW, height, width), expected)
