"""The small KL autoencoder of the demo systems (8× in space, 8 channels), trained on procedural portraits.

    python -m launch.prepare --config configs/prepare.py:synthetic --output runs/portraits
    python -m launch.train --config configs/autoencoder.py:demo --config.data.path=runs/portraits --workdir runs/demo
    python -m launch.train --config configs/autoencoder.py:demo_decoder --config.data.path=runs/portraits --workdir runs/demo

The second trains the decoder on: latents stay, so that it may run beside or after the training of what works on them.
Hardware, time and result: `docs/demo_checkpoint.md`.
"""

from ml_collections import ConfigDict

from portrait_jax.errors import ConfigError, nearest


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
    """`demo` is everything, `demo_decoder` the decoder alone; runs are `autoencoder` and `decoder` in the workdir."""
    stages = {"demo": whole, "demo_decoder": decoder}
    if name not in stages:
        raise ConfigError(f"configs/autoencoder.py has no '{name}'{nearest(name, list(stages))}")
    config = ConfigDict(
        {
            "task": "autoencoder",
            "stage": "",
            "compute_dtype": "auto",
            "model": {"image_size": 128, "autoencoder": model()},
            "loss": {"edges": 1.0, "kl": 1e-4},
            "train": {
                "batch_size": 4,
                "b2": 0.99,
                "schedule": "cosine",
                "warmup_steps": 50,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
                "seed": 0,
                "checkpoint_every": 500,
                "log_every": 20,
                "sample_every": 500,
            },
            "data": {"kind": "images", "path": "", "size": 128},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )
    stages[name](config)
    return config


def whole(config: ConfigDict) -> None:
    """Encoder and decoder from nothing."""
    config.stage = "autoencoder"
    config.train.update({"trainable": ("autoencoder/.*",), "steps": 2000, "lr": 3e-3, "ema_decay": 0.99})


def decoder(config: ConfigDict) -> None:
    """The decoder on a frozen encoder, from the first run (as the fine-tuned decoders of Stable Diffusion were made)."""
    config.stage = "decoder"
    config.train.update(
        {
            "trainable": ("autoencoder/decoder/.*", "autoencoder/post_quant_conv/.*"),
            "init_from": {"autoencoder": "{workdir}/autoencoder"},
            "steps": 2000,
            "lr": 2e-3,
            "ema_decay": 0.998,
        }
    )
