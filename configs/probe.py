"""The probe, which says where the face is in a result without seeing what drove it (`portrait_jax/metrics/probe.py`).

    python -m launch.prepare --config configs/prepare.py:synthetic --output data_dir
    python -m launch.train --config configs/probe.py --config.data.path=data_dir --workdir runs/probe
    python -m launch.train --workdir runs/probe --export portrait_jax/assets/probe.safetensors --export_dtype float16

Hardware, time and result: `docs/evaluation.md`.
"""

from ml_collections import ConfigDict

from portrait_jax.errors import ConfigError, nearest


def get_config(stage: str = "train") -> ConfigDict:
    """The only stage is `train`."""
    if stage != "train":
        raise ConfigError(f"configs/probe.py has no '{stage}'{nearest(stage, ['train'])}")
    return ConfigDict(
        {
            "task": "probe",
            "stage": stage,
            "compute_dtype": "auto",
            "model": {
                # data.synthetic.ATTRIBUTE_NAMES: 30 traits, 6 colours, glasses, beard
                "attributes": 50,
                "size": 128,
                "channels": (16, 32, 48, 64),
                "augment": True,
            },
            "train": {
                "trainable": ("probe/.*",),
                "steps": 3000,
                "batch_size": 16,
                "lr": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
                "ema_decay": 0.99,
                "seed": 0,
                "checkpoint_every": 500,
                "log_every": 20,
            },
            "data": {"kind": "probe", "path": "", "size": 128},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )
