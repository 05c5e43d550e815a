"""Who is seen, by a published face recogniser: aligned faces to identity embeddings (ArcFace, `encoders.arcface`)."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.encoders.arcface import ArcFace, ArcFaceConfig
from portrait_jax.errors import CheckpointError, ShapeError
from portrait_jax.face.five_points import FIVE_POINTS, aligned_face
from portrait_jax.training.checkpoints import compare
from portrait_jax.training.params import load_params
from portrait_jax.typing import Float, Params, Video

SUBNET = "face_recogniser"


class Recogniser:
    """A face recogniser with its weights."""

    def __init__(self, params: Params, config: ArcFaceConfig) -> None:
        self.config = config
        self._params = jax.device_put(params)
        self._embed = jax.jit(lambda params, faces: ArcFace(config).apply({"params": params}, faces / 127.5 - 1))

    @classmethod
    def load(cls, path: str | Path) -> Recogniser:
        """Reads what `launch.convert import --layout arcface_iresnet50` (or `100`) wrote.

        Raises:
            CheckpointError: if there is nothing to read, or it holds no such network.
        """
        params, _ = load_params(path)
        if SUBNET not in params:
            raise CheckpointError(
                f"{path} has no sub-network '{SUBNET}'; make it by launch.convert import --layout arcface_iresnet50"
            )
        network = cls(params[SUBNET], config_of(params[SUBNET], str(path)))
        compare(params[SUBNET], jax.eval_shape(network.fresh), str(path))
        return network

    def fresh(self) -> Params:
        """Untrained parameters of the same network."""
        size = self.config.image_size
        return ArcFace(self.config).init(jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]

    def embed(self, video: Video, landmarks_px: Float[np.ndarray, "g 478 d"]) -> Float[np.ndarray, "n e"]:
        """Unit embeddings of the frames in which a face was found (those whose landmarks are finite).

        Raises:
            ShapeError: for another number of landmarks than frames.
        """
        if len(video) != len(landmarks_px):
            raise ShapeError(
                f"{len(video)} frames have landmarks of {len(landmarks_px)} frames; give one face per frame"
            )
        size = self.config.image_size
        seen = np.isfinite(landmarks_px[:, [point for points in FIVE_POINTS for point in points], :2]).all(axis=(1, 2))
        faces = [aligned_face(image, points, size) for image, points in zip(video[seen], landmarks_px[seen])]
        found = [self._embed(self._params, np.asarray(face, np.float32)[None])[0] for face in faces]
        return np.stack(found) if found else np.zeros((0, self.config.embedding), np.float32)


def config_of(params: Params, source: str) -> ArcFaceConfig:
    """The sizes of an iResNet, read off its parameters.

    Raises:
        CheckpointError: if they are not those of an iResNet.
    """
    counts = [0] * 4
    for name in params:
        if block := re.fullmatch(r"layer([1-4])_(\d+)", name):
            counts[int(block[1]) - 1] += 1
    try:
        channels = tuple(int(params[f"layer{i}_0"]["conv2"]["kernel"].shape[-1]) for i in range(1, 5))
        inputs, embedding = params["fc"]["kernel"].shape
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{source} is no face recogniser of this kind ({error} is missing)") from error
    size = 16 * round((inputs / channels[-1]) ** 0.5)
    return ArcFaceConfig(tuple(counts), channels, int(embedding), size)


def cosine(first: Float[np.ndarray, "f e"], second: Float[np.ndarray, "g e"]) -> float:
    """Mean cosine between all frames of one and all of the other, −1 to 1; NaN if either shows no face."""
    return float((first @ second.T).mean()) if len(first) and len(second) else float("nan")
