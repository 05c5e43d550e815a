"""The motion prior of X-NeMo (arXiv 2507.23143, appendix D): motion latents as codes, and what follows a sequence of codes.

    python -m launch.prepare --config configs/prepare.py:latents --input CLIPS --checkpoint XNEMO --output LATENTS
    python -m launch.train --config configs/motion_prior.py:vqvae --config.data.path=LATENTS \
        --config.train.init_from.motion_statistics=LATENTS/statistics.safetensors --workdir runs/prior
    python -m launch.train --config configs/motion_prior.py:gpt --config.data.path=LATENTS --workdir runs/prior

LATENTS is a folder of sequences (`data/motion.py`). `:vqvae_demo` and `:gpt_demo` are small, and need no files: without
`data.path` they learn the pose and expression curves of procedural performances. Where sequences have labels of feelings,
`--config.model.prior.emotions=8` teaches the prior to follow them. More: `docs/motion_prior.md`.
"""

from ml_collections import ConfigDict

from portrait_jax.errors import ConfigError, nearest

FULL = {
    # Appendix D: 4096 codes of 8 numbers, four frames each; the network is that of T2M-GPT.
    "vqvae": {"motion": 512, "width": 512, "levels": 2, "codes": 4096, "code_dim": 8},
    # GPT-2 small.
    "prior": {"positions": 1024, "hidden": 768, "layers": 12, "heads": 12, "emotions": 0},
}
DEMO = {
    # 6 numbers of pose and those of an expression (`data.motion.PerformanceSource`).
    "vqvae": {"motion": 19, "width": 64, "levels": 2, "codes": 256, "code_dim": 8},
    "prior": {"positions": 64, "hidden": 96, "layers": 3, "heads": 4, "emotions": 0},
}
T = 128
"""Frames of a training sequence (appendix D)."""


def get_config(name: str = "vqvae") -> ConfigDict:
    """`vqvae` makes the codes, `gpt` learns what follows; `vqvae_demo` and `gpt_demo` do so at a small size."""
    stages = {"vqvae": vqvae, "gpt": gpt, "vqvae_demo": vqvae, "gpt_demo": gpt}
    if name not in stages:
        raise ConfigError(f"configs/motion_prior.py has no '{name}'{nearest(name, list(stages))}")
    config = ConfigDict(
        {
            "task": "",
            "stage": "",
            "compute_dtype": "auto",
            "model": DEMO if name.endswith("_demo") else FULL,
            "loss": {},
            "train": {
                "frames": T,
                "schedule": "cosine",
                "weight_decay": 0.0,
                "clip_norm": 1.0,
                "seed": 0,
                "checkpoint_every": 5000,
                "log_every": 50,
                "init_from": {"motion_statistics": ""},  # none: latents as they are
            },
            "data": {"kind": "motion", "path": "", "clip_frames": 2 * T, "emotions": 0},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )
    # One number in two places: what the prior knows is what the data may hold.
    config.data.emotions = config.model.prior.get_ref("emotions")
    stages[name](config)
    if name.endswith("_demo"):
        config.train.update({"steps": 1500, "batch_size": 32, "lr": 1e-3, "warmup_steps": 50, "checkpoint_every": 500})
    return config


def vqvae(config: ConfigDict) -> None:
    """The autoencoder. Optimizer, batch and weights of the loss as T2M-GPT (arXiv 2301.06052, section 4.2)."""
    config.task, config.stage = "motion_vqvae", "vqvae"
    config.loss = {"velocity": 0.5, "codebook": 1.0, "commitment": 0.02, "revival": 0.1}
    config.train.update(
        {"trainable": ("vqvae/.*",), "steps": 200_000, "batch_size": 256, "lr": 2e-4, "b2": 0.99, "warmup_steps": 1000,
         "ema_decay": 0.99}
    )  # fmt: skip


def gpt(config: ConfigDict) -> None:
    """The transformer, on the codes of the trained autoencoder."""
    config.task, config.stage = "motion_prior", "gpt"
    config.loss = {"replaced": 0.5, "label_drop": 0.1}
    config.train.update(
        {"trainable": ("prior/.*",), "steps": 150_000, "batch_size": 128, "lr": 1e-4, "b2": 0.99, "warmup_steps": 1000,
         "ema_decay": 0.999, "init_from": {"*": "{workdir}/vqvae"}}
    )  # fmt: skip
