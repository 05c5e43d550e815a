"""Data sets.

    python -m launch.prepare --config configs/prepare.py:synthetic --output runs/portraits
    python -m launch.prepare --config configs/prepare.py:poses --output runs/poses
    python -m launch.prepare --config configs/prepare.py:long --output runs/long_portraits
    python -m launch.prepare --config configs/prepare.py:talking --output runs/talking
    python -m launch.prepare --config configs/prepare.py:video --input FOLDER --output runs/videos
    python -m launch.prepare --config configs/prepare.py:latents --input DIR --checkpoint CHECKPOINT --output FOLDER
    python -m launch.prepare --config configs/prepare.py:motion --input FOLDER --output FOLDER
    python -m launch.prepare --config configs/prepare.py:skeletons --input DIR --output FOLDER

`synthetic`: 1800 train and 32 test people, one clip of 16 frames at 128 pixels each.
`poses`: the same people at four frames a second, so that one clip holds poses that are far apart; for single frames.
`long`: 400 of them for 133 frames each, for clips whose frames lie apart in time.
`talking`: 600 of them for 64 frames each, who speak and hardly move their heads; for what sound drives.
`video`: every video of a folder, cropped around its face at 256 pixels and cut into clips of at most ten seconds.
`latents`: motion latents of all clips of a data set DIR, by the motion encoder of a checkpoint.
`motion`: measures a folder of motion latents (`data/motion.py`); OUTPUT/statistics.safetensors standardises them.
`skeletons`: joints of the bodies in all clips of a data set DIR, by MediaPipe's pose model.
Settings are those of `SyntheticConfig`, `VideoConfig`, `LatentsConfig` and `SkeletonsConfig` (`data/prepare_synthetic.py`,
`prepare_video.py`, `motion_latents.py`, `skeletons.py`); change one by `--config.frames=48`. `processes` 0 takes every core.
"""

from ml_collections import ConfigDict

from portrait_jax.errors import ConfigError, nearest

SYNTHETIC = {
    "kind": "synthetic", "processes": 0,
    "train": 1800, "test": 32, "clips": 1, "frames": 16, "fps": 25.0, "size": 128, "seed": 0, "crf": 12,
    "speech": True, "energy": -1.0,
}  # fmt: skip

POSES = {**SYNTHETIC, "fps": 4.0}

LONG = {**SYNTHETIC, "train": 400, "frames": 133}

TALKING = {**SYNTHETIC, "train": 600, "frames": 64, "energy": 0.12}

VIDEO = {
    "kind": "video", "processes": 0,
    "size": 256, "margin": 0.5, "min_frames": 24, "max_frames": 250, "max_gap": 12, "test_fraction": 0.0, "crf": 12,
}  # fmt: skip

LATENTS = {"kind": "latents", "processes": 0, "batch": 32}

MOTION = {"kind": "motion", "processes": 0}

SKELETONS = {"kind": "skeletons", "processes": 0, "pose_landmarker": ""}

CONFIGS = {
    "synthetic": SYNTHETIC,
    "poses": POSES,
    "long": LONG,
    "talking": TALKING,
    "video": VIDEO,
    "latents": LATENTS,
    "motion": MOTION,
    "skeletons": SKELETONS,
}


def get_config(name: str = "synthetic") -> ConfigDict:
    """The settings of one kind of preparation."""
    if name not in CONFIGS:
        raise ConfigError(f"configs/prepare.py has no '{name}'{nearest(name, list(CONFIGS))}")
    return ConfigDict(CONFIGS[name])
