"""Runs a benchmark of triples (`metrics.manifest`): self- and cross-reenactment, scored as the paper of EmojiBench does.

Follow-Your-Emoji, sections 4.2 and 4.3: at most 64 frames, compared at 256 pixels. A judge finds the face in every frame of
the result by itself; a frame without one counts as wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from portrait_jax.animation.portrait import LIFT, MARGIN, load_portrait
from portrait_jax.errors import InputFileError, NoFaceError, PortraitError
from portrait_jax.face.alignment import Alignment, load_landmarks
from portrait_jax.face.crops import Crop, face_box, square_crop
from portrait_jax.face.detector import FaceDetector
from portrait_jax.media.image import resize
from portrait_jax.media.video import read_frames
from portrait_jax.metrics import image
from portrait_jax.metrics.lpips import PerceptualDistance
from portrait_jax.metrics.manifest import Triple
from portrait_jax.metrics.points import POINTS
from portrait_jax.metrics.recogniser import Recogniser, cosine
from portrait_jax.metrics.suite import Metric, Scores, eye_distance
from portrait_jax.typing import Float, Image, UInt8, Video

FRAMES, SIDE = 64, 256
TOLERANCE = 0.05
"""Of the distance of the outer eye corners; the paper does not state its own."""

METRICS = {
    "landmark_accuracy": Metric("landmarks within 5 % of eye distance", "high", 3),
    "landmark_error": Metric("landmark error, % of eye distance", "low", 2),
    "l1": Metric("L1", "low", 4),
    "ssim": Metric("SSIM", "high", 3),
    "lpips": Metric("LPIPS, AlexNet", "low", 4),
    "identity": Metric("identity, ArcFace cosine", "high", 3),
}
LEFT_OUT = {
    "fvd": "FVD needs the features of I3D, which this package cannot run: --keep_videos and metrics.frechet (docs/evaluation.md)",
    "image_quality": "the paper's image quality needs a published quality network, which this package cannot run",
}
"""Metrics of the paper that are not computed → why."""
NEEDS_WEIGHTS = {
    "identity": "identity needs a face recogniser: give --face_recogniser (docs/evaluation.md)",
    "lpips": "LPIPS needs its network: give --lpips (docs/evaluation.md)",
}
"""Metrics that are computed where their weights are given → what to give."""

Judge = Callable[[Video], Float[np.ndarray, "f 478 2"]]
"""Frames → landmarks in pixels, NaN where no face is seen."""


class Networks(NamedTuple):
    """Judging networks whose weights the user has; None: their metrics are left out."""

    identity: Recogniser | None = None
    lpips: PerceptualDistance | None = None


NO_NETWORKS = Networks()


@dataclass(frozen=True)
class Case:
    """One loaded triple.

    Attributes:
        name, group: of the triple.
        portrait: at the system's size, with its landmarks in pixels.
        driving_landmarks: in pixels of the portrait's picture (self) or of the driving video (cross).
        driving_size: width and height in these pixels.
        target: where the landmarks of the result should be, in pixels of `SIDE`×`SIDE`: the driver's own (self), or the
            driver's motion on the portrait's face (cross). The latter always by `face.alignment`, whatever the system uses,
            so that all are held to the same.
        truth: frames at `SIDE` pixels, or None where nobody knows them.
        driving_frames: the driver's pictures, in whose pixels its landmarks are; None where they were not asked for or stored.
    """

    name: str
    group: str
    portrait: Image
    reference_landmarks: Float[np.ndarray, "478 3"]
    driving_landmarks: Float[np.ndarray, "f 478 3"]
    driving_size: tuple[int, int]
    target: Float[np.ndarray, "f 478 3"]
    truth: UInt8[np.ndarray, "f H W 3"] | None
    expression: Float[np.ndarray, " f"] | None = None
    """How much expression each driving frame shows, if known."""
    driving_frames: Video | None = None


class Found(NamedTuple):
    """A driver's landmarks, the size of its frames (width, height) and their expression, if known."""

    landmarks: Float[np.ndarray, "g 478 3"]
    size: tuple[int, int]
    expression: Float[np.ndarray, " g"] | None


def load_case(
    triple: Triple,
    size: int,
    detector: Callable[[], FaceDetector],
    frames: int = FRAMES,
    framing: str = "face",
    pictures: bool = False,
) -> Case:
    """Reads a triple's files; memory holds its frames at `SIDE` pixels, however large they are, unless `pictures` are asked for.

    Args:
        size: the system's.
        detector: opens a face detector; called only where landmarks are not stored.
        frames: at most as many are used.
        framing: of portraits with a driver of their own, see `animation.portrait`. Where a video drives itself, what is
            compared is the square around the face.
        pictures: whether the driver's frames are kept: at `size` pixels (self), or as they are (cross).

    Raises:
        PortraitError: for unreadable files, faces that are not found, or landmarks of another video.
    """
    if triple.portrait is None:
        return _self_case(triple, size, detector, frames, pictures)
    return _cross_case(triple, size, detector, frames, framing, pictures)


def _self_case(triple: Triple, size: int, detector: Callable[[], FaceDetector], frames: int, pictures: bool) -> Case:
    """The first frame is the portrait; the frames after it drive and are the truth, all in the portrait's crop."""
    stream = islice(read_frames(triple.driving), frames + 1)
    first = next(stream)
    stored = _stored(triple, first.shape[:2])
    if stored is None:
        with detector() as found:
            points = found.detect(first, triple.driving, 0).landmarks_px
    else:
        points = stored.landmarks[0]
    whole = first.shape[:2] == (size, size)
    crop = Crop(0, 0, size) if whole else square_crop(face_box(points), MARGIN, first.shape[:2], LIFT)
    truth: list[np.ndarray] = []
    driving: list[np.ndarray] = []

    def watched() -> Iterator[Image]:
        for frame in chain([first], stream):
            truth.append(crop.apply(frame, SIDE))
            if pictures:
                driving.append(crop.apply(frame, size))
            yield frame

    landmarks, _, expression = _found(watched(), stored, triple, detector)
    if len(truth) < 2 or len(landmarks) < len(truth):
        raise InputFileError(
            f"{triple.name}: {len(truth)} frames and {len(landmarks)} landmarks; give at least 2 of each"
        )
    moved = crop.apply_landmarks(landmarks[: len(truth)], size)
    target = (moved[1:] * (SIDE / size)).astype(np.float32)
    shown = None if expression is None else expression[1 : len(truth)]
    return Case(
        triple.name, triple.group, crop.apply(first, size), moved[0], moved[1:], (size, size), target, np.stack(truth[1:]),
        shown, np.stack(driving[1:]) if pictures else None,
    )  # fmt: skip


def _cross_case(
    triple: Triple, size: int, detector: Callable[[], FaceDetector], frames: int, framing: str, pictures: bool
) -> Case:
    assert triple.portrait is not None
    if triple.portrait_landmarks is None:
        with detector() as found:
            portrait = load_portrait(triple.portrait, size, detector=found, framing=framing)
    else:
        portrait = load_portrait(triple.portrait, size, landmarks=triple.portrait_landmarks, framing=framing)
    shown: list[np.ndarray] = []

    def watched(stream: Iterator[Image]) -> Iterator[Image]:
        for frame in stream:
            if pictures:
                shown.append(frame)
            yield frame

    if triple.driving.suffix.lower() == ".npz":
        driving = _cut(_sequence(triple.driving), frames)
    else:
        stream = islice(read_frames(triple.driving), frames)
        first = next(stream)
        driving = _found(watched(chain([first], stream)), _stored(triple, first.shape[:2]), triple, detector)
    points = driving.landmarks
    target = Alignment.of(points, portrait.landmarks)(points) * np.float32(SIDE / size)
    return Case(
        triple.name, triple.group, portrait.image, portrait.landmarks, points, driving.size, target, None,
        driving.expression, np.stack(shown) if shown else None,
    )  # fmt: skip


def _sequence(path: Path) -> Found:
    stored = load_landmarks(path)
    return Found(stored.landmarks, (stored.width, stored.height), stored.expression)


def _cut(found: Found, frames: int) -> Found:
    return found._replace(
        landmarks=found.landmarks[:frames],
        expression=None if found.expression is None else found.expression[:frames],
    )


def _stored(triple: Triple, shape: tuple[int, ...]) -> Found | None:
    if triple.landmarks is None:
        return None
    sequence = _sequence(triple.landmarks)
    width, height = sequence.size
    if (height, width) != tuple(shape):
        raise InputFileError(
            f"{triple.landmarks} holds landmarks of {width}×{height} pixels, but {triple.driving} has "
            f"{shape[1]}×{shape[0]}; give the video that they were found in"
        )
    return sequence


def _found(
    stream: Iterator[Image], stored: Found | None, triple: Triple, detector: Callable[[], FaceDetector]
) -> Found:
    """Landmarks of every frame of the stream, which is read to its end."""
    if stored is not None:
        return _cut(stored, sum(1 for _ in stream))
    sizes: list[tuple[int, int]] = []

    def watched() -> Iterator[Image]:
        for frame in stream:
            sizes.append((frame.shape[1], frame.shape[0]))
            yield frame

    with detector() as found:
        faces = found.detect_video(watched(), triple.driving)
    return Found(faces.landmarks_px, sizes[0], faces.expression)


def detector_judge(detector: FaceDetector) -> Judge:
    """Judges by MediaPipe, each frame alone."""

    def judge(video: Video) -> np.ndarray:
        found = np.full((len(video), 478, 2), np.nan, np.float32)
        for number, frame in enumerate(video):
            try:
                found[number] = detector.detect(frame, "the result", number).landmarks_px[:, :2]
            except NoFaceError:
                continue
        return found

    return judge


def score(video: Video, case: Case, judge: Judge, networks: Networks = NO_NETWORKS) -> Scores:
    """The metrics of one result of any square size; those that a case does not have are NaN."""
    shown = np.stack([resize(frame, SIDE, SIDE) for frame in video])
    seen = judge(shown)
    scores = dict.fromkeys(METRICS, float("nan")) | landmark_scores(seen, case.target)
    if case.truth is not None:
        scores |= {"l1": image.l1(shown, case.truth), "ssim": image.ssim(shown, case.truth)}
        if networks.lpips is not None:
            scores["lpips"] = networks.lpips(shown, case.truth)
    if networks.identity is not None:
        portrait = resize(case.portrait, SIDE, SIDE)[None]
        scale = np.float32(SIDE / case.portrait.shape[0])
        own = networks.identity.embed(portrait, case.reference_landmarks[None] * scale)
        scores["identity"] = cosine(networks.identity.embed(shown, seen), own)
    return scores


def landmark_scores(seen: Float[np.ndarray, "f 478 d"], target: Float[np.ndarray, "f 478 e"]) -> Scores:
    """Share of points within the tolerance, unseen ones counted as wrong; and the mean error of those seen, in percent."""
    distance = np.linalg.norm(seen[:, POINTS, :2] - target[:, POINTS, :2], axis=-1) / eye_distance(target)[:, None]
    known = np.isfinite(distance)
    return {
        "landmark_accuracy": float((known & (np.nan_to_num(distance, nan=np.inf) <= TOLERANCE)).mean()),
        "landmark_error": float(100 * distance[known].mean()) if known.any() else float("nan"),
    }


@dataclass(frozen=True)
class Outcome:
    """What a benchmark gave.

    Attributes:
        table: group → method → metric → mean over the group's cases.
        cases: name → method → metric.
        skipped: name → why the case could not be run.
    """

    table: dict[str, dict[str, Scores]]
    cases: dict[str, dict[str, Scores]]
    skipped: dict[str, str]


def run_benchmark(
    triples: Iterable[Triple],
    load: Callable[[Triple], Case],
    animate: Callable[[Case], Video],
    judge: Judge,
    networks: Networks = NO_NETWORKS,
    done: Callable[[Case, Video], None] = lambda *_: None,
) -> Outcome:
    """Animates and scores case after case, the still portrait beside the result; one case is in memory at a time.

    A case that cannot be run is named with its reason and left out of the means.

    Raises:
        InputFileError: if no case could be run.
    """
    cases: dict[str, dict[str, Scores]] = {}
    groups: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    for triple in triples:
        try:
            case = load(triple)
            video = animate(case)
        except PortraitError as error:
            skipped[triple.name] = str(error)
            continue
        still = np.repeat(case.portrait[None], len(video), axis=0)
        cases[case.name] = {
            "result": score(video, case, judge, networks), "still portrait": score(still, case, judge, networks)
        }  # fmt: skip
        groups.setdefault(case.group, []).append(case.name)
        done(case, video)
    if not cases:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise InputFileError(f"no case of the benchmark could be run ({reasons})")
    table = {
        group: {method: mean([cases[name][method] for name in names]) for method in cases[names[0]]}
        for group, names in groups.items()
    }
    return Outcome(table, cases, skipped)


def mean(rows: Sequence[Scores]) -> Scores:
    """Mean of each metric over the cases that have it; NaN if none has."""
    defined = {name: [row[name] for row in rows if np.isfinite(row[name])] for name in METRICS}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in defined.items()}
