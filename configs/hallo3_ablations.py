"""Strategies of identity (table 5) and of sound (table 4), and numbers of motion frames (table 6), at demo size, as data.

    python -m launch.train --config configs/hallo3.py:ablation_audio_adaln_stage1 --config.data.path=CLIPS --workdir runs/ablations
    python -m launch.train --config configs/hallo3.py:ablation_audio_adaln_stage2 --config.data.path=CLIPS --workdir runs/ablations
    python -m launch.evaluate --config configs/hallo3.py:ablation_audio_adaln --analysis sound \\
        --checkpoint runs/ablations/ablation_audio_adaln_stage2 --output runs/ablations/audio_adaln

and alike for every other name, after `demo_autoencoder` and `demo_speech` in the same workdir. `full` is the release's choice in
all three tables. The same keys change the published size (`--config.model.audio_by=adaln`).
"""

LONGER = {"model.frames": 17, "model.denoiser.grid": (5, 8, 8), "sampling.window": 17}
"""Clips in which four latent frames may be motion frames; the other ablations' have three in all."""


def motion(frames: int) -> dict[str, object]:
    """So many motion frames, each a latent frame of its own."""
    return {
        "model.motion.frames": frames, "model.motion.together": False, "sampling.overlap": frames, **LONGER,
    }  # fmt: skip


ABLATIONS: dict[str, dict[str, object]] = {
    # Cross-attention to the sound, face attention and reference network, two motion frames.
    "full": {},
    # Table 4: how frames are told of their sound.
    "audio_self": {"model.audio_by": "self"},
    "audio_adaln": {"model.audio_by": "adaln"},
    "audio_adaln_zero": {"model.audio_by": "adaln_zero"},
    # Table 5: how they are told whose face it is.
    "identity_face_attention": {"model.memory": False},
    "identity_face_norm": {"model.face_by": "adaln", "model.memory": False},
    "identity_reference": {"model.face_by": "none"},
    # Table 6: how many frames a clip goes on from. Each by itself, as the paper says (§3.3) and the release does not.
    "motion_1": motion(1),
    "motion_2": motion(2),
    "motion_4": motion(4),
}
"""Name → config keys that differ from `full`."""
