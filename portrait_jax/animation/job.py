"""What is to be animated with what, from files to files, and whether it may be written where it shall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from portrait_jax.errors import ConfigError, InputFileError, listed
from portrait_jax.typing import Int


@dataclass(frozen=True)
class Job:
    """What to animate with what, and where to put it; see `launch.animate` for each field."""

    portrait: Path | None
    driving: Path
    output: Path
    audio: Path | None = None
    portrait_landmarks: Path | None = None
    landmarker: Path | None = None
    face: str = "only"
    fps: float | None = None
    seed: int = 0
    rotation: str = "absolute"
    prompts: Mapping[str, Int[np.ndarray, " n"]] = field(default_factory=dict)
    control: Path | None = None
    pose_landmarker: Path | None = None
    paste_back: bool = False
    resume: bool = False

    @property
    def parts(self) -> Path:
        """Folder of finished segments, beside the output; it goes when the output is there."""
        return self.output.with_name(self.output.stem + ".parts")

    @property
    def sheet(self) -> Path:
        return self.output.with_suffix(".png")

    @property
    def record(self) -> Path:
        return self.output.with_suffix(".json")


def check_outputs(jobs: Sequence[Job]) -> None:
    """Raises InputFileError for outputs that are no .mp4, inputs or folders, and ConfigError for two that are the same."""
    names = [job.output.name for job in jobs]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(f"two portraits would be written to {listed(twice)}; give their files different names")
    inputs = {
        path.resolve()
        for job in jobs
        for path in (job.portrait, job.driving, job.audio, job.portrait_landmarks, job.control)
        if path
    }
    for job in jobs:
        _check_output(job, inputs)


def _check_output(job: Job, inputs: set[Path]) -> None:
    if job.output.suffix.lower() != ".mp4":
        raise InputFileError(f"the output '{job.output}' must end in .mp4")
    for path in (job.output, job.sheet, job.record):
        if path.is_dir():
            raise InputFileError(f"{path}, which is to be written, is a folder; choose another output")
        if path.resolve() in inputs:
            raise InputFileError(f"{path}, which is to be written, is an input; choose another output")
