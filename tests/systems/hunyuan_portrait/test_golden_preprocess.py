"""HunyuanPortrait's squares, crops, alignment and paste-back are the original's.

Pictures agree to a level or two: Pillow rounds between the two directions, the original's resizers do not.
"""

import jax
import numpy as np
import pytest

from portrait_jax.encoders.dinov2 import imagenet_pixels
from portrait_jax.face.five_points import TEMPLATE, similarity, template_face
from portrait_jax.face.intensity import RELEASED, motion_levels
from portrait_jax.face.squares import driving_crops, driving_levels, paste, soft_mask, source_crop, widened_square
from tests.systems.hunyuan_portrait.original import case

LEVELS = 2.5


@pytest.fixture(scope="module")
def golden():
    return case("preprocess")


@pytest.fixture(scope="module")
def source(golden):
    boxes = golden.inputs["source_boxes_xywh"]
    largest = boxes[np.argmax(boxes[:, 2] * boxes[:, 3])]
    return source_crop(golden.inputs["image_u8"], corners(largest), golden.config["image_size"])


def corners(box: np.ndarray) -> np.ndarray:
    """x, y, width, height → left, top, right, bottom."""
    return np.concatenate([box[:2], box[:2] + box[2:]])


def sampled(picture: np.ndarray, expected: np.ndarray, axis: int = 0) -> np.ndarray:
    """Every n-th pixel, as the golden file has it; space begins at `axis`."""
    step = picture.shape[axis] // expected.shape[axis]
    return picture[(slice(None),) * axis + (slice(None, None, step),) * 2].astype(float)


def test_squares_match_golden(golden):
    cases, expected = golden.inputs["square_box_cases(x0,y0,x1,y1,ratio,h,w)"], golden.outputs["square_box"]
    assert len(cases)
    for (*box, ratio, height, width), square in zip(cases, expected, strict=True):
        np.testing.assert_array_equal(widened_square(np.array(box), ratio, (int(height), int(width))), square)


def test_portrait_crop_and_the_encoders_pixels_match_golden(golden, source):
    np.testing.assert_array_equal(source.square, golden.outputs["crop_bbox"])
    expected = np.moveaxis(golden.outputs["ref_img_u8"], 0, -1)
    assert np.abs(sampled(source.image, expected) - expected).max() <= LEVELS
    pixels = jax.jit(imagenet_pixels)(source.image[None] / np.float32(127.5) - 1)[0]
    expected = np.moveaxis(golden.outputs["transformed_image"], 0, -1)
    # A level is 1/255 of a range that is divided by about 0.225.
    assert np.abs(sampled(np.asarray(pixels), expected) - expected).max() <= LEVELS / 255 / 0.22


def test_alignment_for_the_recogniser_matches_golden(golden, source):
    (points,) = golden.inputs["crop_landmarks"]
    np.testing.assert_allclose(similarity(points, TEMPLATE), golden.outputs["arcface_similarity"][:2], atol=1e-4)
    expected = 255 * golden.outputs["arcface_image"]
    assert np.abs(sampled(template_face(source.image, points), expected) - expected).max() <= LEVELS


def test_driving_crops_and_intensities_match_golden(golden):
    points, (box, *_) = golden.inputs["drive_landmarks"], golden.inputs["drive_boxes_xywh"]
    cut = [driving_crops(*frame, corners(box)) for frame in zip(golden.inputs["frames_u8"], points, strict=True)]
    made = {name: np.stack([one[name] for one in cut]) for name in ("faces", "heads")}
    made |= driving_levels(points, RELEASED)
    for name, stored in (("faces", "motion_face_u8"), ("heads", "motion_pose_u8")):
        expected = np.moveaxis(golden.outputs[stored], 1, -1)
        assert np.abs(sampled(made[name], expected, 1) - expected).max() <= LEVELS
    np.testing.assert_array_equal(motion_levels(points), golden.outputs["head_exp_id"])
    np.testing.assert_array_equal(made["head_level"], golden.outputs["head_exp_id"][0])
    np.testing.assert_array_equal(made["expression_level"], golden.outputs["head_exp_id"][1])


def test_soft_mask_and_paste_back_match_golden(golden):
    (name,) = (name for name in golden.outputs if name.startswith("soft_mask"))
    expected = golden.outputs[name]
    np.testing.assert_allclose(soft_mask(*expected.shape[:2]), expected, atol=1e-6)
    pasted = paste(golden.inputs["generated_u8"], golden.inputs["image_u8"], golden.outputs["crop_bbox"])
    assert np.abs(pasted.astype(int) - golden.outputs["pasted_u8"]).max() <= LEVELS
