"""Stylised copies of clips: the same performance in another style, made by whatever program draws so.

HunyuanPortrait trains on such copies (arXiv 2503.18860, section 3.5, by AnimeGANv3), so that portraits may be drawings. A copy
has its clip's frames one by one. Nobody searches its faces: the clip's landmarks hold for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.records import decode_frames
from data.views import RecordView, fitted
from portrait_jax.errors import InputFileError
from portrait_jax.media.files import checked_input
from portrait_jax.media.video import probe
from portrait_jax.typing import Video


def check_copies(folder: str) -> None:
    """Raises InputFileError if there is no such folder, or no copy in it."""
    if not Path(folder).is_dir() or next(Path(folder).rglob("*.mp4"), None) is None:
        raise InputFileError(
            f"data.stylised: {folder} is no folder with copies of clips; put them there as CLIP_ID.mp4, or several of a clip "
            "as CLIP_ID/NAME.mp4"
        )


def copies_of(folder: str, clip_id: str) -> list[Path]:
    """All copies of a clip, by name: `CLIP_ID.mp4` and `CLIP_ID/*.mp4`."""
    alone, several = Path(folder) / f"{clip_id}.mp4", Path(folder) / clip_id
    return [*([alone] if alone.exists() else []), *sorted(several.glob("*.mp4"))]


def draw_copy(folder: str, share: float, clip_id: str, rng: np.random.Generator) -> Path | None:
    """With probability `share` one of a clip's copies; None otherwise, and for a clip that has none."""
    found = copies_of(folder, clip_id)
    number = int(rng.integers(max(len(found), 1)))
    return found[number] if rng.random() < share and found else None


def copied_frames(path: Path, view: RecordView, indices: Sequence[int]) -> Video:
    """Frames of a copy at the view's size.

    Raises:
        InputFileError: if the copy has another number of frames than the clip. VideoError: if it cannot be read.
    """
    count = probe(checked_input(path, "stylised copy")).frames
    if count not in (None, view.num_frames):
        raise InputFileError(
            f"{path} has {count} frames, the clip that it copies {view.num_frames}; make the copy anew, frame by frame"
        )
    return fitted(decode_frames(path.read_bytes(), indices, str(path)), view.size)
