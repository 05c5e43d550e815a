"""HunyuanPortrait at published size: 512 pixels, latents 64×64×4, windows of 25 frames, with the numbers of the release.

    python -m launch.convert import --layout hunyuan_portrait --input RELEASE --output runs/hunyuan_portrait

`released` runs the published weights as the original script does: 25 Euler steps on Karras levels, two guidance terms of 2.0,
windows on a ring. The original's web demo guides by 2.5. The weights may not be used commercially (docs/hunyuan_portrait.md).
"""

from ml_collections import ConfigDict

from portrait_jax.errors import ConfigError, nearest


def get_config(name: str = "released") -> ConfigDict:
    """`released` is what the published weights need."""
    if name != "released":
        raise ConfigError(f"configs/hunyuan_portrait.py has no '{name}'{nearest(name, ['released'])}")
    return ConfigDict(
        {
            "task": "hunyuan_portrait",
            "stage": name,
            "compute_dtype": "auto",
            "model": model(),
            "loss": {},
            "sampling": {"solver": "euler", "steps": 25, "window": 25, "overlap": 3},
            "ring": {
                "appearance_guidance": 2.0,
                "motion_guidance": 2.0,
                "shift": 3,
                "pad": 15,
                "decode_chunk": 8,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )


def model() -> ConfigDict:
    """The sizes of the classes are the published ones; what stands here is what their originals have otherwise."""
    return ConfigDict(
        {
            "image_size": 512,
            "face_size": 256,
            "portrait": {"fps": 12.5, "bucket": 0.0, "noise": 0.0},
            "autoencoder": {"scaling_factor": 0.18215},
            # SVD-XT; its temporal attention reads the first frame's tokens, the release's their mean.
            "denoiser": {"over_time": "mean"},
            # ViT-L/14 with registers; the release resizes the position table in its own way.
            "image_encoder": {"plain_offset": 0.1},
            # "identity" is the paper's order of attention.
            "identity": {"query": "patches"},
            # iResNet-100, as foivospar/Arc2Face distributes it.
            "face_recogniser": {"layers": (3, 13, 30, 3)},
            "expression": {"out": 512},
            "head_pose": {"out": 6},
            "motion_memory": {"out": 1018},
            "guider": {"out_channels": 320},
        }
    )
