"""A detector that was trained on photographs agrees with our ground truth: the topology is right."""

import numpy as np

from data.synthetic import render, sample_identity, sample_performance
from data.synthetic.topology import EYE_LOWER, EYE_UPPER, LIP_INNER_LOWER, LIP_INNER_UPPER

PARTS = {  # part: ids, tolerated mean distance in eye distances
    "pupils": ((468, 473), 0.12),
    "eyes": (EYE_UPPER["left"] + EYE_LOWER["left"] + EYE_UPPER["right"] + EYE_LOWER["right"], 0.10),
    "lips": (LIP_INNER_UPPER + LIP_INNER_LOWER, 0.10),
}


def test_mediapipe_finds_the_drawn_faces_and_agrees(face_landmarker_path):
    from portrait_jax.face.detector import FaceDetector

    errors = {part: [] for part in PARTS}
    with FaceDetector(face_landmarker_path) as detector:
        for seed in range(8):
            performance = sample_performance(seed, 6)
            frame = render(sample_identity(seed), performance.pose[5], performance.expression[5], 256)
            found = detector.detect(frame.image).landmarks_px
            unit = np.linalg.norm(frame.landmarks[468, :2] - frame.landmarks[473, :2])
            for part, (ids, _) in PARTS.items():
                gap = np.linalg.norm(found[list(ids), :2] - frame.landmarks[list(ids), :2], axis=1)
                errors[part].append(gap.mean() / unit)
    for part, (_, tolerance) in PARTS.items():
        assert np.median(errors[part]) < tolerance, part
