"""Skeletons of stored clips, for what is trained with them: a folder of sequences, CLIP_ID.npz (`face.skeleton_files`).

    python -m launch.prepare --config configs/prepare.py:skeletons --input CLIPS --output FOLDER

makes them with MediaPipe's pose; those of any other program fit too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.builder import read_statistics
from data.views import RecordSource, RecordView
from portrait_jax.errors import ConfigError, InputFileError
from portrait_jax.face.pose import PoseDetector
from portrait_jax.face.skeleton import JOINTS, draw_skeleton, random_limbs
from portrait_jax.face.skeleton_files import SkeletonSequence, load_skeletons, save_skeletons
from portrait_jax.progress import Bars
from portrait_jax.typing import Float, Video


@dataclass(frozen=True)
class SkeletonsConfig:
    """`configs/prepare.py:skeletons`."""

    pose_landmarker: str = ""
    """MediaPipe's pose model; empty: $PORTRAIT_POSE_LANDMARKER."""


def write_skeletons(config: SkeletonsConfig, clips: Path, output: Path) -> int:
    """Finds the joints of every clip of a prepared data set; goes on where it was interrupted. Returns how many clips have them.

    Raises:
        InputFileError: there is no finished data set, or no pose model.
    """
    splits, made = read_statistics(clips)["splits"], 0
    with PoseDetector(config.pose_landmarker or None) as detector, Bars("clips") as bars:
        for split in (name for name, found in splits.items() if found["clips"]):
            largest = max(int(shape.split("x")[0]) for shape in splits[split]["sizes"])
            source = RecordSource(clips, split, largest)
            for index in bars.track(range(len(source)), f"finding {split}", len(source)):
                view = source.view(source[index], np.random.default_rng(0))
                target, made = stored_at(str(output), view.clip_id), made + 1
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    joints = detector.detect_video(view.frames(range(view.num_frames)))
                    save_skeletons(target, SkeletonSequence(view.fps, largest, largest, joints))
    return made


def check_skeletons(folder: str) -> None:
    """Raises InputFileError if there is no such folder, or no sequence in it."""
    if not Path(folder).is_dir() or next(Path(folder).rglob("*.npz"), None) is None:
        raise InputFileError(
            f"data.skeletons: {folder} is no folder with skeletons of clips (CLIP_ID.npz); make it by launch.prepare --config "
            "configs/prepare.py:skeletons"
        )


def stored_at(folder: str, clip_id: str) -> Path:
    """Where a clip's sequence lies."""
    return Path(folder) / f"{clip_id}.npz"


def joints_of(folder: str, view: RecordView, indices: Sequence[int]) -> Float[np.ndarray, "f 12 2"]:
    """Joints in pixels of the view's frames; nothing is seen of a clip without a sequence.

    Raises:
        InputFileError: if the sequence is damaged, or has another number of frames than the clip.
    """
    path = stored_at(folder, view.clip_id)
    if not path.exists():
        return np.full((len(indices), len(JOINTS), 2), np.nan, np.float32)
    found = load_skeletons(path)
    if len(found.points) != view.num_frames:
        raise InputFileError(f"{path} has {len(found.points)} frames, its clip {view.num_frames}; make it anew")
    return found.points[list(indices)] * np.float32(view.size / max(found.width, found.height))


def drawn(points_px: Float[np.ndarray, "f 12 2"], size: int, drop: float, rng: np.random.Generator) -> Video:
    """Drawings of one clip's joints; each limb is left out of all frames with probability `drop` (§3.5)."""
    limbs = random_limbs(rng, drop)
    return np.stack([draw_skeleton(points, size, size, limbs) for points in points_px])


def check_drop(drop: float) -> None:
    """Raises ConfigError for what is no probability."""
    if not 0 <= drop <= 1:
        raise ConfigError(f"data.skeleton_drop {drop} is a share of the limbs; give 0 to 1")
