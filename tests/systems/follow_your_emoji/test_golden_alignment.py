"""The metric mesh, its pose and the aligned landmarks are those of MediaPipe and of Follow-Your-Emoji's release."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from portrait_jax.face.by_hand import NAMES, complete
from portrait_jax.face.drawing import draw_landmarks
from portrait_jax.face.geometry import load_geometry
from portrait_jax.face.metric import MetricAlignment, MetricFace, metric_face
from portrait_jax.face.topology import EXPRESSION_POINTS, index
from tests.systems.follow_your_emoji.original import case, picture

RECTANGLE = (448, 576)
"""(width, height) that the original was told for `aligned_points_rect`."""


@pytest.fixture(scope="module")
def golden():
    return case("landmarks")


@pytest.fixture(scope="module")
def geometry(face_landmarker_path):
    return load_geometry(face_landmarker_path)


@pytest.fixture(scope="module")
def faces(golden):
    """By name: landmarks in pixels, the picture's size, and the face as the original measured it."""

    def face(name: str) -> SimpleNamespace:
        size = tuple(golden.inputs[f"{name}.width_height"].tolist())
        pose = golden.inputs[f"{name}.trans_mat"]
        points = golden.inputs[f"{name}.landmarks"] * [size[0], size[1], size[0]]
        mesh = golden.outputs[f"{name}.metric_vertices"]
        scores = golden.inputs[f"{name}.blendshapes51"]
        return SimpleNamespace(
            points=points, size=size, face=MetricFace(mesh, pose[:3, :3], pose[:3, 3]), scores=scores
        )

    names = sorted({name.split(".")[0] for name in golden.inputs})
    return {name: face(name) for name in names}


@pytest.fixture(scope="module")
def driving(faces):
    return [face for name, face in sorted(faces.items()) if name != "ref"]


def neutral_index(golden) -> int:
    return int(golden.outputs["neutral_index"][0])


def test_the_mesh_and_its_pose_are_rebuilt_from_the_landmarks(faces, geometry):
    for face in faces.values():
        found = metric_face(face.points, face.size, geometry)
        assert np.abs(found.mesh - face.face.mesh).max() < 5e-5
        assert np.abs(found.rotation - face.face.rotation).max() < 1e-5
        assert np.abs(found.translation - face.face.translation).max() < 2e-4


def test_the_neutral_frame_has_the_least_sum_of_scores(golden, driving):
    assert int(np.argmin([face.scores.sum() for face in driving])) == neutral_index(golden)


@pytest.mark.parametrize(("output", "size"), [("aligned_points", None), ("aligned_points_rect", RECTANGLE)])
def test_aligned_points_match_golden_with_the_stored_mesh(golden, faces, driving, geometry, output, size):
    """As exactly as float64 allows: what differs below is the rebuilt mesh."""
    ref, neutral = faces["ref"], driving[neutral_index(golden)]
    alignment = MetricAlignment(
        geometry, ref.face, neutral.face.mesh, driving[0].face, driving[0].size, size or ref.size
    )
    measured = MetricFace(*(np.stack(parts) for parts in zip(*(face.face for face in driving))))
    placed = alignment.place(measured, np.stack([face.points for face in driving]))
    print(f"{output}: {np.abs(placed - golden.outputs[output]).max():.1e} pixels with the stored mesh")
    assert np.abs(placed - golden.outputs[output]).max() < 1e-4


@pytest.mark.parametrize(("output", "size"), [("aligned_points", None), ("aligned_points_rect", RECTANGLE)])
def test_aligned_points_match_golden_from_landmarks_alone(golden, faces, driving, geometry, output, size):
    """Of the rectangle the original was told nothing but a size: its reference mesh stays that of the square picture."""
    ref, points = faces["ref"], np.stack([face.points for face in driving])
    alignment = MetricAlignment.of(
        points, driving[0].size, ref.points, ref.size, geometry, neutral_index=neutral_index(golden)
    )
    if size is not None:
        alignment = MetricAlignment(
            geometry, alignment.reference, alignment.neutral, alignment.first, driving[0].size, size
        )
    aligned = alignment(points)
    print(f"{output}: {np.abs(aligned - golden.outputs[output]).max():.1e} pixels from landmarks alone")
    assert np.abs(aligned - golden.outputs[output]).max() < 0.02
    stem = f"landmark_{output.replace('_points', '')}"
    width, height = size or ref.size
    for i, frame in enumerate(aligned[1:], 1):  # The release drops the first frame.
        different = draw_landmarks(frame, height, width, "released") != picture(golden, f"{stem}{i}")
        assert different.any(axis=-1).sum() <= 4, "a point near a pixel's edge may fall on its other side"


@pytest.mark.parametrize(
    ("names", "most"),
    [(tuple(NAMES), 0.01), (("right_eye_outer", "left_eye_outer", "mouth_right", "mouth_left", "nose_tip"), 0.02)],
)
def test_points_set_by_hand_give_nearly_the_landmarks_of_the_detector(faces, geometry, names, most):
    """Mean distance of the drawn landmarks, as a share of the face's width."""
    points = faces["ref"].points
    found = complete({NAMES[name]: tuple(points[NAMES[name], :2].tolist()) for name in names}, geometry)
    distance = np.linalg.norm((found - points)[index(EXPRESSION_POINTS), :2], axis=1).mean()
    print(f"{len(names)} points: {distance:.2f} pixels")
    assert distance < most * np.ptp(points[:, 0])
