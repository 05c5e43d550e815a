"""X-NeMo's face boxes, crops and smoothing are the original's."""

import numpy as np
import pytest

from portrait_jax.face.boxes import (
    box_triplet,
    portrait_crop,
    portrait_square,
    scaled_square,
    smoothed,
    tracked_boxes,
)
from tests.systems.xnemo.original import case


@pytest.fixture(scope="module")
def golden():
    return case("preprocess")


def boxes(given: dict, *names: str) -> list[np.ndarray]:
    return [np.array(given[name], float) for name in names]


def test_triplets_and_squares_match_golden(golden):
    assert golden.settings["cases"]
    for given in golden.settings["cases"]:
        box, reference = boxes(given, "bbox_ltrb", "ref_bbox_ltrb")
        np.testing.assert_allclose(box_triplet(box, reference), given["triplet"], atol=1e-6)
        np.testing.assert_allclose(scaled_square(box, tuple(given["frame_hw"])), given["scale_bb_1p1"], atol=1e-6)


def test_squares_around_portraits_match_golden(golden):
    for given in golden.settings["cases"]:
        (box,) = boxes(given, "bbox_ltrb")
        square, expected = portrait_square(box, tuple(given["frame_hw"])), given["ref_box_increase_0p5"]
        np.testing.assert_array_equal(square.box - square.padding, expected["ltrb"])
        assert bool(square.padding) == expected["still_out_of_frame"]


def test_tracked_boxes_match_golden(golden):
    for given in golden.settings["cases"]:
        track = given["from_center"]
        found = tracked_boxes(np.array([track["center_xy"]]), tuple(track["length_wh"]), tuple(given["frame_hw"]))
        np.testing.assert_allclose(found[0], track["ltrb"], atol=1e-6)


def test_portrait_crops_match_golden(golden):
    names = sorted({name.split("/")[0] for name in golden.tensors if name.startswith("crop")})
    assert names
    for name in names:
        image, box, expected = (golden.tensors[f"{name}/{key}"] for key in ("in", "bbox", "out"))
        square = portrait_square(box.astype(float), image.shape[:2])
        np.testing.assert_array_equal(square.box, golden.tensors[f"{name}/final_box"])
        crop = portrait_crop(image, square, expected.shape[0])
        # Of these products of twelfths some lie halfway between two levels, where the order of sums decides.
        assert np.abs(crop.astype(int) - expected).max() <= 1 and (crop != expected).mean() < 0.01


def test_smoothing_matches_golden(golden):
    np.testing.assert_allclose(smoothed(golden.tensors["smooth/in"]), golden.tensors["smooth/out"], atol=1e-4)
