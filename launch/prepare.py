"""Prepares a data set of clips: procedural portraits, or a folder of talking-head videos; or of motion latents.

    python -m launch.prepare --config configs/prepare.py:synthetic --output DIR
    python -m launch.prepare --config configs/prepare.py:poses --output DIR
    python -m launch.prepare --config configs/prepare.py:long --output DIR
    python -m launch.prepare --config configs/prepare.py:talking --output DIR
    python -m launch.prepare --config configs/prepare.py:video --input FOLDER --output DIR
    python -m launch.prepare --config configs/prepare.py:latents --input DIR --checkpoint CHECKPOINT --output FOLDER
    python -m launch.prepare --config configs/prepare.py:motion --input FOLDER --output FOLDER
    python -m launch.prepare --config configs/prepare.py:skeletons --input DIR --output FOLDER

:poses draws the people of :synthetic at four frames a second, so that the frames of a clip lie far apart; for training on
single frames. :long draws fewer people for longer, :talking people who speak and hardly move their heads. :latents
encodes the faces of a prepared data set by a checkpoint's motion encoder, :motion writes what standardises a folder of such
latents (docs/motion_prior.md). :skeletons finds the bodies of a prepared data set (docs/hunyuan_portrait.md). Interrupted,
the same command goes on where it was. What was skipped and why stands in DIR/report.json, what the data set holds in
DIR/statistics.json (docs/data.md).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from launch import cli
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.settings import from_mapping

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="configs/prepare.py:synthetic, :poses, :long, :talking, :video, :latents, :motion or :skeletons",
)
_INPUT = flags.DEFINE_string(
    "input", None, "folder of videos, of prepared clips or of motion latents (:video, :latents, :skeletons, :motion)"
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "file or workdir with a motion encoder (only :latents)")
_FACE_LANDMARKER = flags.DEFINE_string("face_landmarker", None, "MediaPipe's face_landmarker.task (only :video)")
_OUTPUT = flags.DEFINE_string("output", None, "folder for the data set")


def main() -> None:
    """Reads the flags, prepares, prints what came out."""
    if _CONFIG.value is None or not _OUTPUT.value:
        raise ConfigError(
            "give --config configs/prepare.py:synthetic (or :poses, :long, :talking, :video, :latents, :motion, :skeletons) and "
            "--output DIR"
        )
    if _FACE_LANDMARKER.value:
        os.environ["PORTRAIT_FACE_LANDMARKER"] = _FACE_LANDMARKER.value  # Worker processes inherit it.
    config = dict(_CONFIG.value.to_dict())
    kind, processes = config.pop("kind"), config.pop("processes") or os.cpu_count() or 1
    if kind not in KINDS:
        raise ConfigError(f"config.kind '{kind}' does not exist{nearest(kind, list(KINDS))}")
    print(KINDS[kind](config, _INPUT.value, _OUTPUT.value, processes))


def prepare_synthetic(config: Mapping[str, Any], folder: str | None, output: str, processes: int) -> str:
    """Procedural portraits. Like the other kinds it gives what to tell the user."""
    if folder:
        raise ConfigError("--input is for configs/prepare.py:video; procedural portraits need none")
    from data.prepare_synthetic import SyntheticConfig, prepare_synthetic

    return summary(prepare_synthetic(from_mapping(SyntheticConfig, config), output, processes=processes), Path(output))


def prepare_video(config: Mapping[str, Any], folder: str | None, output: str, processes: int) -> str:
    """Real videos; imported here because it loads MediaPipe."""
    if not folder:
        raise ConfigError("give --input FOLDER, the folder of videos")
    from data.prepare_video import VideoConfig, prepare_video

    return summary(prepare_video(from_mapping(VideoConfig, config), folder, output, processes=processes), Path(output))


def measure_motion(config: Mapping[str, Any], folder: str | None, output: str, processes: int) -> str:
    """Sequences of motion latents."""
    if not folder:
        raise ConfigError("give --input FOLDER, the folder of motion latents")
    from data.motion import write_statistics

    return measured(write_statistics(Path(folder), Path(output)), output)


def encode_latents(config: Mapping[str, Any], folder: str | None, output: str, processes: int) -> str:
    """Motion latents of prepared clips; imported here because it loads a system."""
    if not folder or not _CHECKPOINT.value:
        raise ConfigError(
            "give --input DIR, a folder that launch.prepare made, and --checkpoint of a system like xnemo"
        )
    from data.motion_latents import LatentsConfig, write_latents

    chosen = from_mapping(LatentsConfig, config)
    return measured(write_latents(chosen, Path(folder), Path(_CHECKPOINT.value), Path(output)), output)


def measured(found: Mapping[str, Any], output: str) -> str:
    """What the training sequences of a folder hold."""
    return (
        f"{found['sequences']} sequences, {found['frames']} frames of {found['channels']} channels\n"
        f"ready: {Path(output) / 'statistics.safetensors'}"
    )


def find_skeletons(config: Mapping[str, Any], folder: str | None, output: str, processes: int) -> str:
    """Skeletons of prepared clips; imported here because it loads MediaPipe."""
    if not folder:
        raise ConfigError("give --input DIR, a folder that launch.prepare made")
    from data.skeletons import SkeletonsConfig, write_skeletons

    made = write_skeletons(from_mapping(SkeletonsConfig, config), Path(folder), Path(output))
    return f"skeletons of {made} clips\nready: {output}"


KINDS = {
    "synthetic": prepare_synthetic,
    "video": prepare_video,
    "latents": encode_latents,
    "motion": measure_motion,
    "skeletons": find_skeletons,
}


def summary(statistics: Mapping[str, Any], output: Path) -> str:
    """What the data set holds and what was skipped, in a few lines."""
    lines = [
        f"{split}: {found['clips']} clips of {found['identities']} people, {found['frames']} frames, "
        f"{found['video_bytes'] / 2**20:.1f} MiB of video"
        for split, found in statistics["splits"].items()
    ]
    skipped = json.loads((output / "report.json").read_text())["skipped"]
    if skipped:
        lines.append(f"skipped {len(skipped)}, named in {output / 'report.json'}:")
        lines += [f"  {item['error']}: {item['reason']}" for item in skipped[:10]]
    return "\n".join([*lines, f"ready: {output}"])


if __name__ == "__main__":
    cli.run(main, __doc__, interrupted="the same command goes on where it was")
