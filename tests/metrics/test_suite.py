"""The suite with fake methods and a detector that reads the answer from one pixel."""

from dataclasses import replace

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.metrics import suite
from portrait_jax.metrics.detector import Detection, Detector
from portrait_jax.metrics.points import POINTS
from portrait_jax.metrics.suite import BASELINES, METRICS, MOTION_METRICS, Case, evaluate, identity, l1_moving, measure
from tests.metrics.faces import face

FRAMES, SIZE = 40, 16
TIME = np.linspace(0, 2 * np.pi, FRAMES)


class PixelReader(Detector):
    """Finds the face that the first pixel describes: mouth, yaw, person."""

    def __init__(self):
        pass

    def detect(self, images):
        mouth, yaw, person = (images[:, 0, 0, c] / 255.0 for c in range(3))
        landmarks = np.full((len(images), 478, 2), np.nan)
        landmarks[:, POINTS] = read_face(mouth, yaw)[:, POINTS, :2]
        return Detection(landmarks, np.stack([np.cos(6 * person), np.sin(6 * person)], axis=-1))


def read_face(mouth, yaw):
    return face(0.4 * mouth, yaw - 0.5, scale=5, centre=(8, 8), fill=True)


def video(mouth, yaw, person):
    """Frames whose lower half brightens with the mouth and whose first pixel says everything."""
    frames = np.full((len(mouth), SIZE, SIZE, 3), 90, np.uint8)
    frames[:, SIZE // 2 :] = np.round(200 * mouth)[:, None, None, None]
    frames[:, 0, 0] = np.round(255 * np.stack([mouth, yaw, np.full(len(mouth), person)], axis=-1))
    return frames


def case(person=0.3):
    truth = video(0.5 + 0.45 * np.sin(5 * TIME), 0.5 + 0.4 * np.cos(2 * TIME), person)
    read = read_face(truth[:, 0, 0, 0] / 255.0, truth[:, 0, 0, 1] / 255.0)
    portrait = video(np.zeros(1), np.full(1, 0.5), person)[0]
    landmarks = read.astype(np.float32)
    return Case("one", portrait, landmarks[0], landmarks, truth, landmarks)


def shuffled(case):
    return np.random.default_rng(0).permutation(case.truth)


def stranger(case):
    other = case.truth.copy()
    other[:, 0, 0, 2] = 255 * 0.9
    return other


@pytest.fixture(scope="module")
def scores():
    methods = {**BASELINES, "shuffled": shuffled, "stranger": stranger}
    return evaluate(methods, {"same": [case(0.3), case(0.5)]}, PixelReader())["same"]


def test_the_truth_itself_scores_perfectly(scores):
    perfect = {"landmark_error": 0, "landmark_accuracy": 1, "mouth": 1, "yaw": 1, "l1": 0, "l1_moving": 0, "psnr": 100,
               "ssim": 1, "identity": 1, "smoothness": 1, "flicker": 0}  # fmt: skip
    assert scores["truth"] == pytest.approx(perfect, abs=1e-5)


def test_a_still_portrait_loses_every_motion_metric_but_keeps_the_identity(scores):
    still, best = scores["still reference"], scores["truth"]
    for name in MOTION_METRICS:
        if METRICS[name].best == "low":
            assert still[name] > best[name] + 0.05, name
        else:
            assert still[name] < best[name] - 0.05, name
    assert still["mouth"] == still["yaw"] == 0
    assert still["smoothness"] == 0
    assert still["identity"] == pytest.approx(1)


def test_frames_in_random_order_do_not_correlate(scores):
    assert abs(scores["shuffled"]["mouth"]) < 0.35 and abs(scores["shuffled"]["yaw"]) < 0.35
    assert scores["shuffled"]["landmark_error"] > 5
    assert scores["shuffled"]["smoothness"] > 2


def test_another_person_moving_alike_loses_only_the_identity(scores):
    assert scores["stranger"]["identity"] < 0.2
    assert scores["stranger"]["landmark_error"] == pytest.approx(0, abs=1e-5)


def test_every_result_is_shown_to_the_caller():
    seen = []
    evaluate(BASELINES, {"a": [case()], "b": [case()]}, PixelReader(), done=lambda *found: seen.append(found[:2]))
    assert seen == [(group, method) for group in "ab" for method in BASELINES]


def test_identity_is_the_cosine_of_the_clips_means():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 4))
    p, q = a.mean(0), b.mean(0)
    assert identity(a, b) == pytest.approx(np.cos(np.arccos(p.dot(q) / np.sqrt(p.dot(p) * q.dot(q)))))
    assert identity(a, -a) == pytest.approx(-1)


def test_moving_l1_counts_only_pixels_that_leave_the_portrait():
    one = case()
    wrong = one.truth.copy()
    wrong[:, 1 : SIZE // 2] += 50
    assert l1_moving(wrong, one) == pytest.approx(0, abs=1e-9)
    wrong[:, SIZE // 2 :] ^= 1
    assert l1_moving(wrong, one) > 0.003


def test_a_result_of_another_length_is_refused_with_both_shapes():
    one, reader = case(), PixelReader()
    seen = reader.detect(one.truth)
    with pytest.raises(ShapeError, match=r"\(39, .*\(40, "):
        measure(one.truth[:-1], one, seen, seen)


def test_the_shuffled_control_sees_every_frame_of_the_driver_once_in_another_order_and_starts_alike():
    seen, number = [], np.arange(FRAMES)
    landmarks = np.broadcast_to(number[:, None, None].astype(np.float32), (FRAMES, 478, 3))
    frames = np.broadcast_to(number[:, None, None, None].astype(np.uint8), (FRAMES, SIZE, SIZE, 3))
    one = replace(case(), driving_landmarks=landmarks, driving_frames=frames)
    suite.shuffled(lambda given: seen.append(given) or given.truth, seed=1)(one)
    (given,) = seen
    order = given.driving_frames[:, 0, 0, 0].tolist()
    assert order == given.driving_landmarks[:, 0, 0].tolist()
    assert order[0] == 0 and sorted(order) == list(range(FRAMES)) != order
    assert given.truth is one.truth and given.portrait is one.portrait


def test_a_method_that_copies_its_driver_loses_to_itself_when_the_driver_is_shuffled():
    def copy(given):
        return given.driving_frames

    one = replace(case(), driving_frames=case().truth)
    table = evaluate({"own": copy, "control": suite.shuffled(copy)}, {"a": [one]}, PixelReader())["a"]
    assert table["own"]["mouth"] > 0.99 and abs(table["control"]["mouth"]) < 0.35
