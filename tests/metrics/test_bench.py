"""Protects the benchmark: what a case shows the system and the judge, and what the numbers mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from portrait_jax.errors import InputFileError, NoFaceError
from portrait_jax.face.alignment import LandmarkSequence, save_landmarks
from portrait_jax.face.detector import FaceDetector
from portrait_jax.media.image import resize, write_image
from portrait_jax.metrics import bench
from portrait_jax.metrics.bench import METRICS, SIDE, Case, landmark_scores, load_case, run_benchmark, score
from portrait_jax.metrics.manifest import read_manifest
from portrait_jax.metrics.suite import eye_distance
from tests.metrics import triples

SIZE = 64


def no_detector():
    raise AssertionError("landmarks are stored, nobody need look")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    own, other, path = triples.fill(tmp_path_factory.mktemp("bench"), SIZE)
    return own, other, read_manifest(path)


@pytest.fixture(scope="module")
def cases(benchmark) -> tuple[Case, Case]:
    return tuple(load_case(triple, SIZE, no_detector) for triple in benchmark[2])


def test_self_reenactment_takes_the_first_frame_as_portrait_and_the_others_as_truth(benchmark, cases):
    own, case = benchmark[0], cases[0]
    assert case.group == "self" and len(case.truth) == len(case.driving_landmarks) == triples.FRAMES - 1
    assert np.abs(case.portrait.astype(int) - own.truth[0]).mean() < 6, "but for what a video file loses"
    np.testing.assert_allclose(case.reference_landmarks, own.truth_landmarks[0], atol=0.02)
    np.testing.assert_allclose(case.driving_landmarks, own.truth_landmarks[1:], atol=0.02)
    np.testing.assert_allclose(case.target, own.truth_landmarks[1:] * SIDE / SIZE, atol=0.1)
    assert case.truth.shape[1:] == (SIDE, SIDE, 3)
    shown = np.stack([resize(frame, SIDE, SIDE) for frame in own.truth[1:]])
    assert np.abs(case.truth.astype(int) - shown).mean() < 6


def test_cross_reenactment_is_aimed_at_the_drivers_motion_on_the_portraits_face(benchmark, cases):
    other, case = benchmark[1], cases[1]
    assert case.group == "cross" and case.truth is None
    np.testing.assert_array_equal(case.portrait, other.portrait)
    own = case.reference_landmarks * SIDE / SIZE
    eyes = eye_distance(np.stack([case.target[0], own]).astype(np.float32))
    assert eyes[0] == pytest.approx(eyes[1], rel=0.1), "the portrait's face"
    assert np.linalg.norm((case.target[0] - own)[:468, :2].mean(axis=0)) < 0.03 * SIDE, "where it stands"
    moved, asked = (
        np.diff(points[:, 168, :2], axis=0) for points in (case.target, case.driving_landmarks * SIDE / SIZE)
    )
    np.testing.assert_allclose(moved, asked, atol=0.05 * np.abs(asked).max() + 0.5)


def test_the_drivers_pictures_are_kept_where_they_are_asked_for(benchmark, cases):
    first, second = benchmark[2]
    filmed = replace(second, driving=first.driving, landmarks=first.landmarks)
    own, cross = (load_case(triple, SIZE, no_detector, pictures=True) for triple in (first, filmed))
    assert (
        cases[0].driving_frames is None and load_case(second, SIZE, no_detector, pictures=True).driving_frames is None
    )
    for case in (own, cross):
        assert len(case.driving_frames) == len(case.driving_landmarks) and case.driving_frames.std() > 10
    assert own.driving_frames.shape[1:3] == (SIZE, SIZE)


def test_no_more_frames_than_asked_are_read(benchmark):
    own, cross = (load_case(triple, SIZE, no_detector, frames=3) for triple in benchmark[2])
    assert len(own.driving_landmarks) == len(own.truth) == 3 and len(cross.driving_landmarks) == 3


def test_a_picture_of_another_size_is_cropped_to_the_face_for_portrait_truth_and_landmarks_alike(benchmark):
    """Landmarks keep lying on the same skin: the crop's truth under them equals the full picture's."""
    case = load_case(benchmark[2][0], 48, no_detector)
    assert case.portrait.shape == (48, 48, 3)
    np.testing.assert_allclose(case.target, case.driving_landmarks * SIDE / 48, atol=1e-3)
    assert (case.driving_landmarks[:, :468, :2] > -1).all() and (case.driving_landmarks[:, :468, :2] < 49).all()
    small = np.stack([resize(frame, 48, 48) for frame in case.truth])
    assert np.abs(small[0].astype(int) - case.portrait).mean() < 25


def test_a_judge_that_sees_the_target_gives_full_marks(cases):
    case = cases[0]
    found = score(case.truth, case, lambda video: case.target[..., :2])
    assert found.keys() == METRICS.keys()
    assert found["landmark_accuracy"] == 1 and found["landmark_error"] == 0 == found["l1"]
    assert found["ssim"] == pytest.approx(1) and np.isnan(found["identity"])


def test_networks_judge_where_their_weights_are_given(cases):
    class Embeds:
        """A recogniser that knows a face by the mean of its red."""

        def embed(self, video, landmarks):
            found = np.array([[frame[..., 0].mean(), 40.0] for frame in video])
            return found / np.linalg.norm(found, axis=1, keepdims=True)

    case = cases[0]
    networks = bench.Networks(Embeds(), lambda result, truth: float(np.abs(result - truth).max()))
    found = score(case.truth, case, lambda video: case.target[..., :2], networks)
    assert found["lpips"] == 0 and found["identity"] > 0.9
    cross = cases[1]
    still = np.repeat(cross.portrait[None], len(cross.target), axis=0)
    assert np.isnan(score(still, cross, lambda video: cross.target[..., :2], networks)["lpips"])


def test_results_of_the_systems_size_are_compared_at_the_benchmarks(cases):
    case, seen = cases[0], []

    def judge(video):
        seen.append(video.shape)
        return case.target[..., :2]

    still = np.repeat(case.portrait[None], len(case.truth), axis=0)
    assert 0 < score(still, case, judge)["l1"] < 0.5
    assert seen == [(len(case.truth), SIDE, SIDE, 3)]


def test_points_count_within_five_percent_of_the_eyes_distance_and_unseen_frames_as_wrong(cases):
    target = cases[1].target
    eyes = eye_distance(target)[:, None, None]
    near, far = (target[..., :2] + np.array([share, 0]) * eyes for share in (0.04, 0.06))
    assert landmark_scores(near, target)["landmark_accuracy"] == 1
    assert landmark_scores(near, target)["landmark_error"] == pytest.approx(4, abs=1e-3)
    assert landmark_scores(far, target)["landmark_accuracy"] == 0
    near[: len(near) // 3] = np.nan
    assert landmark_scores(near, target)["landmark_accuracy"] == pytest.approx(1 - (len(near) // 3) / len(near))
    assert landmark_scores(near, target)["landmark_error"] == pytest.approx(4, abs=1e-3)
    nothing = landmark_scores(np.full_like(near, np.nan), target)
    assert nothing["landmark_accuracy"] == 0 and np.isnan(nothing["landmark_error"])


def animate(case: Case) -> np.ndarray:
    """A perfect system for self-reenactment."""
    if case.truth is not None:
        return case.truth
    return np.repeat(case.portrait[None], len(case.driving_landmarks), axis=0)


def test_the_benchmark_averages_by_group_and_names_what_it_could_not_run(benchmark):
    _, _, both = benchmark
    lost = replace(both[1], name="lost")

    def load(triple):
        if triple.name == "lost":
            raise NoFaceError("no face found in lost.png")
        return load_case(triple, SIZE, no_detector)

    outcome = run_benchmark([*both, lost], load, animate, lambda video: np.full((len(video), 478, 2), np.nan))
    assert outcome.skipped == {"lost": "no face found in lost.png"}
    assert outcome.table.keys() == {"self", "cross"} and outcome.cases.keys() == {"self", "cross"}
    own = outcome.table["self"]
    assert own["result"]["l1"] == 0 < own["still portrait"]["l1"] and own["result"]["landmark_accuracy"] == 0
    assert np.isnan(outcome.table["cross"]["result"]["l1"])
    with pytest.raises(InputFileError, match="no case of the benchmark could be run .*lost: no face"):
        run_benchmark([lost], load, animate, lambda video: None)


def test_landmarks_of_another_video_are_refused(benchmark, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    _, _, path = triples.fill(folder, 48)
    triple = replace(benchmark[2][0], landmarks=read_manifest(path)[0].landmarks)
    with pytest.raises(InputFileError, match="48×48 pixels, but .* has 64×64"):
        load_case(triple, SIZE, no_detector)


def test_where_no_landmarks_are_stored_a_detector_looks(benchmark):
    own, _, both = benchmark

    class Found(FaceDetector):
        """Knows the performance by heart."""

        def __init__(self):
            self._landmarker = None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def detect(self, image, source, frame=None):
            return type("Detection", (), {"landmarks_px": own.truth_landmarks[0]})

        def detect_video(self, frames, source):
            count = sum(1 for _ in frames)
            known = {"landmarks_px": own.truth_landmarks[:count], "expression": np.arange(count)[::-1] / 2}
            return type("DetectedVideo", (), known)

    case = load_case(replace(both[0], landmarks=None), SIZE, Found)
    stored = load_case(both[0], SIZE, no_detector)
    np.testing.assert_allclose(case.driving_landmarks, stored.driving_landmarks, atol=0.02)
    np.testing.assert_array_equal(case.truth, stored.truth)
    assert case.expression.tolist() == (np.arange(triples.FRAMES - 1)[::-1] / 2).tolist() and stored.expression is None
    assert case.driving_size == stored.driving_size == (SIZE, SIZE)


def test_the_driver_of_another_portrait_keeps_its_size_and_expression_and_the_portrait_the_systems_framing(
    benchmark, tmp_path
):
    other, triple = benchmark[1], benchmark[2][1]
    points, scores = other.driving_landmarks * np.float32([2, 2, 2]), np.arange(triples.FRAMES, dtype=np.float32)
    save_landmarks(tmp_path / "large.npz", LandmarkSequence(25.0, 3 * SIZE, 2 * SIZE, points, scores))
    write_image(tmp_path / "wide.png", np.pad(other.portrait, ((0, 0), (SIZE, 0), (0, 0)), mode="edge"))
    moved = other.reference_landmarks[None] + np.float32([SIZE, 0, 0])
    save_landmarks(tmp_path / "wide.npz", LandmarkSequence(1.0, 2 * SIZE, SIZE, moved))
    names = {"driving": "large.npz", "portrait": "wide.png", "portrait_landmarks": "wide.npz"}
    given = replace(triple, **{name: tmp_path / file for name, file in names.items()})
    case, near = (load_case(given, SIZE, no_detector, 4, framing) for framing in ("whole", "face"))
    assert case.driving_size == (3 * SIZE, 2 * SIZE) and case.expression.tolist() == [0, 1, 2, 3]
    assert not case.portrait[: SIZE // 4].any() and near.portrait[: SIZE // 4].any(), "black bars"
    np.testing.assert_allclose(case.reference_landmarks, moved[0] / 2 + [0, SIZE / 4, 0], atol=0.05)


def test_a_frame_without_a_face_is_nan_to_the_judge():
    class Sees(FaceDetector):
        def __init__(self):
            self._landmarker = None

        def detect(self, image, source, frame):
            if frame == 1:
                raise NoFaceError("none")
            return type("Detection", (), {"landmarks_px": np.full((478, 3), frame, np.float32)})

    found = bench.detector_judge(Sees())(np.zeros((3, 8, 8, 3), np.uint8))
    assert np.isnan(found[1]).all() and (found[0] == 0).all() and (found[2] == 2).all()
