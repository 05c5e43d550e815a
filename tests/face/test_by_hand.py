"""Protects: a few points set by hand become a whole face that goes through them, and a mistyped file says where."""

from __future__ import annotations

import json

import numpy as np
import pytest

from portrait_jax.errors import InputFileError
from portrait_jax.face.by_hand import NAMES, complete, load_points, upright
from portrait_jax.face.topology import EYES, index
from tests.face.faces import canonical

FACE = upright(canonical())


def spots(names, change=lambda x: x):
    return {NAMES[name]: tuple(change(FACE[NAMES[name], :2]).tolist()) for name in names}


def turned(x):
    c, s = np.cos(0.3), np.sin(0.3)
    return 20 * (x @ np.array([[c, s], [-s, c]])) + np.array([200.0, 150.0])


FEW = ("right_eye_outer", "left_eye_outer", "mouth_right")


SHUT = tuple(name for name in NAMES if name not in ("mouth_top", "mouth_bottom"))


@pytest.mark.parametrize("names", [FEW, SHUT])
def test_a_face_that_is_only_scaled_turned_and_moved_is_found_from_any_points(names):
    found = complete(spots(names, turned), canonical())
    np.testing.assert_allclose(found[:, :2], turned(FACE[:, :2]), atol=1e-2)
    np.testing.assert_allclose(found[:, 2], 20 * FACE[:, 2], atol=1e-2)


def test_the_face_goes_through_every_point_and_bends_between():
    wide = spots(NAMES, lambda x: turned(x * np.array([1.4, 1.0])))
    wide[NAMES["mouth_bottom"]] = (230.0, 330.0)
    found = complete(wide, canonical())
    np.testing.assert_allclose(found[list(wide), :2], list(wide.values()), atol=1e-2)
    plain = complete(spots(NAMES, turned), canonical())
    between = [87, 317]  # neighbours of the lower lip's middle
    assert np.abs(found[between, :2] - plain[between, :2]).max() > 5


@pytest.mark.parametrize("gap", [0.0, 60.0])
def test_lips_lie_as_far_apart_as_they_are_set(gap):
    """On the canonical face they lie on each other."""
    places = spots(NAMES, turned)
    x, y = places[13]
    places[14] = (x, y + gap)
    found = complete(places, canonical())
    assert np.linalg.norm(found[14, :2] - found[13, :2]) == pytest.approx(gap, abs=0.05)
    assert np.isfinite(found).all() and np.ptp(found[:, :2], axis=0).max() < 600


def test_irises_lie_in_the_eyes_unless_they_are_set():
    for eye in EYES:
        box = FACE[index(eye.contour), :2]
        assert (box.min(0) <= FACE[eye.iris[0], :2]).all() and (FACE[eye.iris[0], :2] <= box.max(0)).all()


def test_names_and_numbers_are_read(tmp_path):
    (tmp_path / "a.json").write_text('{"nose_tip": [1, 2.5], "33": [7, 8], "chin": [3, 90]}')
    assert load_points(tmp_path / "a.json") == {4: (1.0, 2.5), 33: (7.0, 8.0), 152: (3.0, 90.0)}


GOOD = {name: [i, 2 * i] for i, name in enumerate(FEW)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "is no JSON"),
        ("[1, 2]", "is no JSON object"),
        (json.dumps({**GOOD, "nose_tipp": [1, 2]}), "'nose_tipp' is no landmark; did you mean 'nose_tip'"),
        (json.dumps({**GOOD, "478": [1, 2]}), "'478' is no landmark"),
        (json.dumps({**GOOD, "4": [1]}), r"'4' must be a place in pixels, \[x, y\], not \[1\]"),
        (json.dumps({**GOOD, "4": [1, True]}), "must be a place"),
        (json.dumps({**GOOD, "4": [1e300, 0]}), "must be a place"),
        (json.dumps({**GOOD, "33": [1, 1]}), "twice where landmark 33"),
        (json.dumps({"4": [1, 2], "5": [2, 3]}), "has 2 points; set at least 3"),
        (json.dumps({"4": [1, 2], "5": [1, 2], "6": [1, 2]}), "that lie apart"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputFileError, match=words):
        load_points(tmp_path / "a.json")
