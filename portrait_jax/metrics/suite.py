"""The suite: runs methods on cases with known truth and averages all metrics.

A method maps a case to a video. Beside the system under test stand two baselines that any animation must beat: the
portrait standing still, and the same system untrained. A third row, the truth judged as if it were a result, shows
the probe's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from portrait_jax.errors import ShapeError
from portrait_jax.face.measures import EYE_CORNERS, mouth_opening
from portrait_jax.metrics import image, temporal
from portrait_jax.metrics.detector import Detection, Detector
from portrait_jax.metrics.following import correlation, face_width, yaw_ratio
from portrait_jax.metrics.points import POINTS
from portrait_jax.typing import Float, UInt8


@dataclass(frozen=True)
class Case:
    """One animation task with its exact answer."""

    name: str
    portrait: UInt8[np.ndarray, "h w 3"]
    reference_landmarks: Float[np.ndarray, "478 3"]
    driving_landmarks: Float[np.ndarray, "f 478 3"]
    """Of the driver, who may be another person."""
    truth: UInt8[np.ndarray, "f h w 3"]
    """The portrait's person doing what the driver does."""
    truth_landmarks: Float[np.ndarray, "f 478 3"]
    driving_frames: UInt8[np.ndarray, "f H W 3"] | None = None
    """The driver's pictures, which systems that are driven by faces see."""
    sound: Float[np.ndarray, " samples"] | None = None
    """What the driver says, −1..1 at 16 kHz, which systems that are driven by sound hear."""


Method = Callable[[Case], UInt8[np.ndarray, "f h w 3"]]


@dataclass(frozen=True)
class Metric:
    """How a number is shown and read."""

    label: str
    best: Literal["low", "high", "one"]
    digits: int


METRICS: Mapping[str, Metric] = {
    "landmark_error": Metric("landmark error, % of face width", "low", 2),
    "landmark_accuracy": Metric("landmarks within 5 % of eye distance", "high", 3),
    "mouth": Metric("mouth opening, correlation", "high", 3),
    "yaw": Metric("yaw, correlation", "high", 3),
    "l1": Metric("L1", "low", 4),
    "l1_moving": Metric("L1 where the truth moves", "low", 4),
    "psnr": Metric("PSNR, dB", "high", 2),
    "ssim": Metric("SSIM", "high", 3),
    "identity": Metric("identity, cosine", "high", 3),
    "smoothness": Metric("acceleration relative to truth", "one", 2),
    "flicker": Metric("flicker where the truth is still", "low", 4),
}
MOTION_METRICS = ("landmark_error", "landmark_accuracy", "mouth", "yaw", "l1_moving")
"""Where a method that does not move must lose."""

Scores = dict[str, float]
Table = dict[str, dict[str, Scores]]
"""Group of cases → method → metric → mean."""


def still_reference(case: Case) -> UInt8[np.ndarray, "f h w 3"]:
    """Baseline: the portrait, standing still."""
    return np.repeat(case.portrait[None], len(case.truth), axis=0)


def truth(case: Case) -> UInt8[np.ndarray, "f h w 3"]:
    """No method: what the suite says of the exact answer."""
    return case.truth


def shuffled(method: Method, seed: int = 0) -> Method:
    """Control: the method driven by the driver's frames in random order; the truth stays as it is.

    What it scores needs no following: being the right person somewhere near the driver's usual pose and expression. The first frame
    stays the first, since motion may be counted from it.
    """

    def run(case: Case) -> UInt8[np.ndarray, "f h w 3"]:
        rest = 1 + np.random.default_rng(seed).permutation(len(case.truth) - 1)
        order = np.concatenate([[0], rest])
        frames = None if case.driving_frames is None else case.driving_frames[order]
        return method(replace(case, driving_landmarks=case.driving_landmarks[order], driving_frames=frames))

    return run


BASELINES: Mapping[str, Method] = {"truth": truth, "still reference": still_reference}


def evaluate(
    methods: Mapping[str, Method],
    groups: Mapping[str, Iterable[Case]],
    detector: Detector,
    *,
    average_person: Float[np.ndarray, " a"] | float = 0.0,
    done: Callable[[str, str, Case, np.ndarray], None] = lambda *_: None,
) -> Table:
    """Runs every method on every case and averages over each group's cases (NaN left out).

    Args:
        methods: by name, the baselines among them.
        groups: e.g. `{"same identity": cases, "cross identity": cases}`.
        detector: judges results and truths alike.
        average_person: mean identity attributes of all people; identities are compared by how they differ from it.
        done: called with (group, method, case, video) after each result.
    """
    table: Table = {}
    for group, cases in groups.items():
        scores: dict[str, list[Scores]] = {name: [] for name in methods}
        for case in cases:
            seen_truth = detector.detect(case.truth)
            for name, method in methods.items():
                video = method(case)
                scores[name].append(measure(video, case, detector.detect(video), seen_truth, average_person))
                done(group, name, case, video)
        table[group] = {name: average(rows) for name, rows in scores.items()}
    return table


def measure(
    video: UInt8[np.ndarray, "..."],
    case: Case,
    seen: Detection,
    seen_truth: Detection,
    average_person: Float[np.ndarray, " a"] | float = 0.0,
) -> Scores:
    """All metrics of one result; `seen` and `seen_truth` are the detector's views of the result and of the truth.

    Raises:
        ShapeError: if result and truth differ in shape.
    """
    if video.shape != case.truth.shape:
        raise ShapeError(f"{case.name}: the result has shape {video.shape}, the truth {case.truth.shape}")
    distance = point_distance(seen.landmarks_px, case.truth_landmarks)
    width = face_width(case.truth_landmarks)[:, None]
    eyes = eye_distance(case.truth_landmarks)[:, None]
    return {
        "landmark_error": float(100 * (distance / width).mean()),
        "landmark_accuracy": float((distance <= 0.05 * eyes).mean()),
        "mouth": correlation(mouth_opening(case.truth_landmarks), mouth_opening(seen.landmarks_px)),
        "yaw": correlation(yaw_ratio(case.truth_landmarks), yaw_ratio(seen.landmarks_px)),
        "l1": image.l1(video, case.truth),
        "l1_moving": l1_moving(video, case),
        "psnr": image.psnr(video, case.truth),
        "ssim": image.ssim(video, case.truth),
        "identity": identity(seen.attributes - average_person, seen_truth.attributes - average_person),
        "smoothness": temporal.smoothness(video, case.truth),
        "flicker": temporal.flicker(video, case.truth),
    }


def point_distance(
    found_px: Float[np.ndarray, "f 478 2"], truth_px: Float[np.ndarray, "f 478 d"]
) -> Float[np.ndarray, "f p"]:
    """Distance in pixels of each of the probe's points from where it should be."""
    return np.linalg.norm(found_px[:, POINTS] - truth_px[:, POINTS, :2], axis=-1)


def eye_distance(landmarks_px: Float[np.ndarray, "f 478 d"]) -> Float[np.ndarray, " f"]:
    """Distance of the outer eye corners in pixels."""
    outer_right, outer_left = landmarks_px[:, EYE_CORNERS[0], :2], landmarks_px[:, EYE_CORNERS[-1], :2]
    return np.linalg.norm(outer_left - outer_right, axis=-1)


def identity(result: Float[np.ndarray, "f a"], truth: Float[np.ndarray, "f a"]) -> float:
    """Cosine of the clips' mean identity attributes, -1 to 1: 1 the same person, about 0 two strangers."""
    a, b = result.mean(axis=0), truth.mean(axis=0)
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-8))


def l1_moving(video: UInt8[np.ndarray, "f h w 3"], case: Case, level: float = 0.1) -> float:
    """L1 over the pixels whose truth departs from the portrait by more than `level` (0..1); NaN if there are none."""
    moving = np.abs(image.as_float01(case.truth) - image.as_float01(case.portrait)).max(axis=-1) > level
    error = np.abs(image.as_float01(video) - image.as_float01(case.truth)).mean(axis=-1)
    return float(error[moving].mean()) if moving.any() else float("nan")


def average(rows: list[Scores]) -> Scores:
    """Mean of each metric over cases that have it."""
    defined = {name: [row[name] for row in rows if np.isfinite(row[name])] for name in METRICS}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in defined.items()}
