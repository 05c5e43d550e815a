"""Made-up faces in head coordinates (cm, as `measures.FRONTAL_FACE`), for tests that need exact truth."""

import zipfile

import numpy as np

from portrait_jax.face.geometry import ENTRY, FaceGeometry
from portrait_jax.face.measures import FRONTAL_FACE, RIGID_POINTS, RIGID_WEIGHTS
from portrait_jax.face.topology import EYES, LEFT_BROW, OVAL, RIGHT_BROW

UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)


def make_face(eyes=1.0, mouth=0.3, gaze=(0.0, 0.0), mouth_width=4.0, eye_height=0.9, brows=0.0):
    """A face (478, 3): lids `eyes`·`eye_height` apart in the middle, lips `mouth` apart, pupils at `gaze` (−1..1)."""
    face = np.zeros((478, 3))
    face[RIGID_POINTS] = FRONTAL_FACE
    turn = np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False)
    face[list(OVAL)] = np.stack([8 * np.sin(turn), 1.5 - 10 * np.cos(turn), 2 + 0 * turn], -1)
    across = np.linspace(-1, 1, len(UPPER))
    arch = np.sqrt(1 - across**2)
    x, middle = across * mouth_width / 2, 4 + 0.2 * across**2
    face[list(UPPER)] = np.stack([x, middle - arch * mouth / 2, -5 + across**2], -1)
    face[list(LOWER)] = np.stack([x, middle + arch * mouth / 2, -5 + across**2], -1)
    for eye in EYES:
        outer, inner = face[list(eye.corners)]
        steps = np.linspace(0, 1, len(eye.lids) + 2)[1:-1, None]
        line = outer + (inner - outer) * steps
        half = np.sin(np.pi * steps) * eyes * eye_height / 2 * np.array([0, 1, 0])
        upper, lower = np.array(eye.lids).T
        face[upper], face[lower] = line - half, line + half
        width = abs(inner[0] - outer[0])
        pupil = (outer + inner) / 2 + np.array([gaze[0] * width / 2, gaze[1] * eye_height / 2, 0])
        rim = np.array([[0, 0, 0], [1, 0, 0], [0, -1, 0], [-1, 0, 0], [0, 1, 0]]) * 0.25 * width
        face[list(eye.iris)] = pupil + rim
    for side, brow in ((-1, RIGHT_BROW), (1, LEFT_BROW)):
        along = np.linspace(1.5, 5, len(brow))
        face[list(brow)] = np.stack([side * along, -4.2 - brows + 0 * along, -4 + 0 * along], -1)
    return face


def rotation(yaw=0.0, pitch=0.0, roll=0.0):
    """The rotation matrix with these angles in degrees (signs as `measures.euler_degrees`)."""
    a, b, c = np.deg2rad([yaw, pitch, roll])
    turn = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    tilt = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return tilt @ nod @ turn


def placed(face, yaw=0.0, pitch=0.0, roll=0.0, scale=10.0, at=(128.0, 128.0)):
    """Turns a face and places it into an image; `scale` in pixels per cm."""
    return (scale * face @ rotation(yaw, pitch, roll).T + np.array([*at, 0.0])).astype(np.float32)


def write_bundle(path, geometry):
    """A model bundle that holds a canonical face (`face.geometry.FaceGeometry`) and nothing else, as MediaPipe writes it."""

    def message(number, data):
        return bytes([number << 3 | 2]) + varint(len(data)) + data

    def varint(value):
        low, rest = value & 127, value >> 7
        return bytes([low | 128]) + varint(rest) if rest else bytes([low])

    vertices = np.concatenate([geometry.vertices, np.zeros((len(geometry.vertices), 2))], axis=1).astype("<f4")
    data = message(1, message(3, vertices.tobytes()))
    for number in np.flatnonzero(geometry.weights):
        weight = np.float32(geometry.weights[number]).tobytes()
        data += message(2, bytes([8]) + varint(int(number)) + bytes([2 << 3 | 5]) + weight)
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr(ENTRY, data)
    return path


def canonical():
    """A made-up canonical face: `make_face` with y up and z towards the camera, weighed at its rigid points."""
    weights = np.zeros(468)
    weights[RIGID_POINTS] = RIGID_WEIGHTS
    return FaceGeometry(make_face(mouth=0.0)[:468] * [1.0, -1.0, -1.0], weights)
