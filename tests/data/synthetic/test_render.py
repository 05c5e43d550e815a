"""The picture and its ground truth agree: what a landmark names is painted where the landmark lies."""

import os
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from data.synthetic import EXPRESSION_NAMES, render, render_clip, sample_identity, sample_performance
from data.synthetic.palettes import BEARDS, STYLES
from data.synthetic.topology import BROW_LOWER, BROW_UPPER, EYE_LOWER, EYE_UPPER, IRIS, OVAL

FRONTAL = np.array([0.0, 0.0, 0.0, 0.5, 0.47, 0.5])
NEUTRAL = np.zeros(len(EXPRESSION_NAMES))


def person(seed: int = 7, **styles: str):
    """Somebody whose face is not hidden, unless `styles` says otherwise."""
    someone = sample_identity(seed)
    bare = {"glasses": "none", "beard": "none", "hat": "none", "marks": "none", "hair": "crop"}
    return replace(someone, styles={**someone.styles, **bare, **styles})


def face(**values: float) -> np.ndarray:
    expression = NEUTRAL.copy()
    for name, value in values.items():
        expression[EXPRESSION_NAMES.index(name)] = value
    return expression


def posed(**values: float) -> np.ndarray:
    pose = FRONTAL.copy()
    for name, value in values.items():
        pose[("yaw", "pitch", "roll", "x", "y", "scale").index(name)] = value
    return pose


def patch(image: np.ndarray, point: np.ndarray, radius: int = 1) -> np.ndarray:
    """Mean colour about a landmark."""
    x, y = np.floor(point[:2]).astype(int)
    return image[y - radius : y + radius + 1, x - radius : x + radius + 1].reshape(-1, 3).mean(0)


def test_rendering_is_deterministic():
    performance = sample_performance(2, 3)
    first, again = (render_clip(sample_identity(2), performance, 64) for _ in range(2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])


def test_a_clip_holds_what_the_record_schema_needs():
    clip = render_clip(sample_identity(4), sample_performance(4, 4), 64)
    assert clip["frames"].shape == (4, 64, 64, 3) and clip["frames"].dtype == np.uint8
    assert clip["landmarks"].shape == (4, 478, 3) and clip["landmarks"].dtype == np.float32
    assert clip["face_mask"].shape == (4, 64, 64) and clip["face_mask"].dtype == bool
    assert clip["face_box"].shape == (4, 4) and clip["pose"].shape == (4, 6)
    assert clip["expression"].shape == (4, len(EXPRESSION_NAMES)) and clip["audio"].dtype == np.int16
    assert np.all(clip["landmarks"][..., :2].min(1) == clip["face_box"][:, :2])


@pytest.mark.parametrize("size", [31, 4096])
def test_an_unreasonable_size_is_refused(size):
    with pytest.raises(ValueError, match="32..2048"):
        render(person(), FRONTAL, NEUTRAL, size)


def test_sizes_agree_after_scaling_down():
    large = render(person(), FRONTAL, face(smile=0.5), 512)
    for size in (64, 128, 256):
        small = render(person(), FRONTAL, face(smile=0.5), size)
        shrunk = cv2.resize(large.image, (size, size), interpolation=cv2.INTER_AREA)
        assert np.abs(shrunk.astype(float) - small.image).mean() < 2.5
        np.testing.assert_allclose(small.landmarks, large.landmarks * size / 512, atol=1e-3)


@pytest.mark.parametrize("seed", [1, 8, 15, 22])
@pytest.mark.parametrize("yaw", [-20.0, 0.0, 20.0])
def test_pupils_are_painted_at_landmarks_468_and_473(seed, yaw):
    frame = render(person(seed), posed(yaw=yaw), face(gaze_x=0.3), 512)
    for center, *_ in IRIS.values():
        x, y = np.floor(frame.landmarks[center, :2]).astype(int)
        window = frame.image[y - 9 : y + 10, x - 9 : x + 10].mean(2)
        dark = np.argwhere(window < 50) - 9.0
        assert len(dark) > 20, "the pupil is dark"
        assert np.hypot(*dark.mean(0)) < 3.0, "and lies about its landmark"


def test_the_gaze_moves_pupils_within_still_lids():
    left, right = (render(person(), FRONTAL, face(gaze_x=x), 256).landmarks for x in (-0.8, 0.8))
    assert np.all(right[[468, 473], 0] - left[[468, 473], 0] > 5)
    np.testing.assert_allclose(left[list(EYE_LOWER["left"])], right[list(EYE_LOWER["left"])], atol=1e-4)


def test_between_the_lids_lies_the_eye_and_below_them_skin():
    someone = person(3)
    frame = render(someone, FRONTAL, face(gaze_x=-0.9), 512)
    for side in ("left", "right"):
        inner = frame.landmarks[EYE_UPPER[side][-3]] * 0.5 + frame.landmarks[EYE_LOWER[side][-3]] * 0.5
        outer = frame.landmarks[EYE_UPPER[side][2]] * 0.5 + frame.landmarks[EYE_LOWER[side][2]] * 0.5
        whites = [patch(frame.image, p).min() for p in (inner, outer)]
        assert max(whites) > 170, "the eye's white shows on the side away from the gaze"
    cheek = patch(frame.image, frame.landmarks[50])
    assert np.abs(cheek - someone.colors["skin"]).max() < 70


def test_a_blink_closes_exactly_its_own_eye():
    def height(landmarks, side):
        upper, lower = landmarks[list(EYE_UPPER[side])], landmarks[list(EYE_LOWER[side])]
        return (lower[:, 1] - upper[:, 1]).max()

    open_, winked = (render(person(), FRONTAL, e, 256).landmarks for e in (NEUTRAL, face(blink_left=1.0)))
    assert height(winked, "left") < 0.1 * height(open_, "left")
    assert height(winked, "right") == pytest.approx(height(open_, "right"), abs=1e-4)


def test_brows_are_painted_between_their_landmarks():
    someone = person(5)
    frame = render(someone, FRONTAL, NEUTRAL, 512)
    for side in ("left", "right"):
        middle = 0.5 * (frame.landmarks[BROW_UPPER[side][2]] + frame.landmarks[BROW_LOWER[side][2]])
        assert np.abs(patch(frame.image, middle) - someone.colors["brow"]).max() < 45


def test_the_mouth_opens_with_the_jaw_and_shows_its_inside():
    someone = person(9)
    shut, half, wide = (render(someone, FRONTAL, face(jaw_open=j), 256) for j in (0.0, 0.5, 1.0))
    openings = [f.landmarks[14, 1] - f.landmarks[13, 1] for f in (shut, half, wide)]
    assert openings[0] < 1.0 and openings[1] > 5 and openings[2] > 1.6 * openings[1]
    inside = patch(wide.image, 0.35 * wide.landmarks[13] + 0.65 * wide.landmarks[14])
    lip = patch(wide.image, 0.5 * (wide.landmarks[14] + wide.landmarks[17]))
    assert np.abs(inside - lip).max() > 25
    assert wide.landmarks[152, 1] > shut.landmarks[152, 1] + 5, "the chin follows"
    np.testing.assert_allclose(wide.landmarks[[33, 263, 10]], shut.landmarks[[33, 263, 10]], atol=1e-4)


def test_smile_and_pucker_change_the_mouth_as_named():
    rest, smile, pucker = (
        render(person(), FRONTAL, e, 256).landmarks for e in (NEUTRAL, face(smile=1), face(pucker=1))
    )
    width = [m[291, 0] - m[61, 0] for m in (rest, smile, pucker)]
    assert width[2] < width[0] < width[1]
    assert smile[61, 1] - smile[13, 1] < rest[61, 1] - rest[13, 1], "corners rise"


def test_a_turning_head_shows_parallax():
    still, turned = (render(person(), posed(yaw=y), NEUTRAL, 256).landmarks for y in (0.0, 20.0))
    moved = turned[:, 0] - still[:, 0]
    assert moved[4] > moved[[33, 263]].max() > moved[[234, 454]].min(), "nose before eyes before ears"
    assert moved[4] > 15
    assert np.all(still[4, 2] < still[[234, 454], 2]), "smaller z is nearer"
    assert turned[454, 2] > turned[234, 2], "the far side goes away"


@pytest.mark.parametrize("roll", [-20.0, 15.0])
def test_roll_turns_all_landmarks_rigidly(roll):
    upright, tilted = (render(person(), posed(roll=r), NEUTRAL, 256).landmarks[:, :2] for r in (0.0, roll))
    angle = np.deg2rad(roll)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center = FRONTAL[3:5] * 256
    np.testing.assert_allclose((upright - center) @ turn.T + center, tilted, atol=1e-2)


def test_subject_left_is_image_right_and_the_frontal_face_is_symmetric():
    landmarks = render(person(), FRONTAL, NEUTRAL, 256).landmarks
    assert landmarks[263, 0] > landmarks[362, 0] > landmarks[133, 0] > landmarks[33, 0]
    for right, left in ((33, 263), (133, 362), (61, 291), (234, 454), (468, 473), (50, 280)):
        assert landmarks[right, 0] + landmarks[left, 0] == pytest.approx(256, abs=2)
        assert landmarks[right, 1] == pytest.approx(landmarks[left, 1], abs=2)


@pytest.mark.parametrize("yaw", [-30.0, 0.0, 30.0])
def test_all_landmarks_lie_within_the_face(yaw):
    for seed in range(6):
        frame = render(sample_identity(seed), posed(yaw=yaw), face(jaw_open=0.6), 256)
        outline = frame.landmarks[list(OVAL), :2].astype(np.float32)
        distance = [cv2.pointPolygonTest(outline, p.tolist(), True) for p in frame.landmarks[:, :2].astype(np.float32)]
        assert min(distance) > -3
        assert np.isfinite(frame.landmarks).all()


def test_the_face_mask_is_the_painted_outline():
    someone = person(12)
    frame = render(someone, FRONTAL, NEUTRAL, 256)
    chin, cheek = frame.landmarks[152, :2], frame.landmarks[361, :2]
    for point, outward in ((chin, (0, 1)), (cheek, (1, 0))):
        inside, outside = (np.floor(point - np.multiply(outward, d)).astype(int) for d in (4, -4))
        assert frame.face_mask[inside[1], inside[0]] and not frame.face_mask[outside[1], outside[0]]
        change = frame.image[inside[1], inside[0]].astype(float) - frame.image[outside[1], outside[0]]
        assert np.abs(change).max() > 12, "the painted edge lies where the mask ends"


def test_painted_mouth_opening_follows_loudness():
    performance = sample_performance(10, 60)
    clip = render_clip(person(10), performance, 64)
    opening = clip["landmarks"][:, 14, 1] - clip["landmarks"][:, 13, 1]
    sound = performance.audio.astype(float)[: 60 * 640].reshape(60, 640)
    assert np.corrcoef(opening, np.sqrt((sound**2).mean(1)))[0, 1] > 0.7


def test_only_moving_backgrounds_change_with_time():
    for style, moves in (("plain", False), ("halo", False), ("bokeh", True), ("hills", True), ("diagonal", True)):
        someone = person(14, backdrop=style)
        first, later = (render(someone, FRONTAL, NEUTRAL, 64, time=t).image for t in (0.0, 2.0))
        assert np.array_equal(first, later) != moves


def test_every_style_can_be_painted():
    tables = {**STYLES, "beard": BEARDS}
    for kind, table in tables.items():
        pictures = [render(person(6, **{kind: name}), posed(yaw=12.0), face(jaw_open=0.3), 64).image for name in table]
        for k, picture in enumerate(pictures[1:]):
            assert not np.array_equal(picture, pictures[k]), f"{kind} styles look alike"


def test_people_look_different():
    small = [render(sample_identity(s), FRONTAL, NEUTRAL, 64).image.astype(float) for s in range(12)]
    gaps = [np.abs(a - b).mean() for i, a in enumerate(small) for b in small[:i]]
    assert min(gaps) > 8


@pytest.mark.slow
@pytest.mark.skipif(os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1), reason="a busy machine measures its neighbours")
def test_a_hundred_frames_a_second_at_128_pixels():
    people = [(sample_identity(s), sample_performance(s, 10)) for s in range(12)]
    best = np.inf
    for _ in range(3):
        begun = time.thread_time()
        for someone, performance in people:
            render_clip(someone, performance, 128)
        best = min(best, (time.thread_time() - begun) / 120)
    assert best < 0.010
