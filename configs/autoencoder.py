"""The small KL autoencoder of the demo systems (8× in space, 8 channels), trained on procedural portraits.

    python -m launch.prepare --config configs/prepare.py:synthetic --output runs/portraits
    python -m launch.train --config configs/autoencoder.py:demo --config.data.path=runs/portraits --workdir runs/demo

Hardware, time and result: `docs/demo_checkpoint.md`.
"""

from ml_collections import ConfigDict

from portrait_jax.errors import ConfigError


def model() -> ConfigDict:
    """The autoencoder's section of `config.model`, shared by every demo system."""
    return ConfigDict(
        {
            "block_out_channels": (32, 48, 64),
            "layers_per_block": 1,
            "latent_channels": 8,
            "norm_groups": 8,
            "patch_size": 2,
            "shortcuts": True,
            "mid_attention": False,
            # 1 / the standard deviation of the trained latents (metric `latent_std`).
            "scaling_factor": 0.328,
        }
    )


def get_config(name: str = "demo") -> ConfigDict:
    """The only one is `demo`; its run is the sub-directory `autoencoder` of the workdir."""
    if name != "demo":
        raise ConfigError(f"configs/autoencoder.py has no '{name}'; there is 'demo'")
    return ConfigDict(
        {
            "task": "autoencoder",
            "stage": "autoencoder",
            "compute_dtype": "auto",
            "model": {"image_size": 128, "autoencoder": model()},
            "loss": {"edges": 1.0, "kl": 1e-4},
            "train": {
                "trainable": ("autoencoder/.*",),
                "steps": 2000,
                "batch_size": 4,
                "lr": 3e-3,
                "b2": 0.99,
                "schedule": "cosine",
                "warmup_steps": 50,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
                "ema_decay": 0.99,
                "seed": 0,
                "checkpoint_every": 500,
                "log_every": 20,
                "sample_every": 500,
            },
            "data": {"kind": "images", "path": "", "size": 128},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )
