"""Pre-training of HunyuanPortrait's motion encoders: the stages `motion` and `demo_motion` of `configs/hunyuan_portrait.py`.

The paper trained them beforehand and does not say how; everything here is ours (`portrait_jax/motion/face_task.py`).

    python -m launch.train --config configs/hunyuan_portrait.py:motion --config.data.path=CLIPS --workdir pretrained \\
        --config.train.init_from.vgg19=FILE --config.train.init_from.vggface=FILE
    python -m launch.train --config configs/hunyuan_portrait.py:demo_motion --config.data.path=runs/poses --workdir runs/hunyuan

Nothing has been trained at full size here.
"""

from ml_collections import ConfigDict

from configs import hunyuan_demo
from portrait_jax.adversarial.head import ADVERSARY, TRAINABLE

ENCODERS = ("expression/.*", "head_pose/.*")
INTENSITY = {"rule": "released", "levels": 128, "factors": (256.0, 1024.0)}
"""How levels are measured that a memory is told: here and in the system alike. "paper" has 64 of them."""


def base(name: str) -> ConfigDict:
    """What both stages share; sizes are the published ones, those of the head X-NeMo's."""
    return ConfigDict(
        {
            "task": "face_motion",
            "stage": name,
            "compute_dtype": "auto",
            "model": {
                "face_size": 256,
                "expression": {"out": 512},
                "head_pose": {"out": 6},
                "intensity": INTENSITY,
                "head": {
                    "pictures": {},
                    "resnet": {},
                    "weights": {
                        "adversarial": 1.0,
                        "recon": 1.0,
                        "feature_matching": 10.0,
                        "vgg19": 3e-2,
                        "vggface": 6e-3,
                    },
                },
            },
            "loss": {"redrawing": 1.0, "landmarks": 0.0, "spread": 0.0, "angles": 0.1},
            # Stronger than where the encoders are used: they should not read whose face it is.
            "augment": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "scale": 0.1},
            "data": {
                "kind": "faces",
                "path": "",
                "size": 512,
                "latent_factor": 8,
                "frame_stride": (2, 25),
                "clip_frames": 64,
                "stylised": "",
                "stylised_share": 0.5,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
            "train": {
                "trainable": (*ENCODERS, *TRAINABLE),
                "adversary": {"trainable": ADVERSARY, "lr": 1e-4, "b1": 0.0},
                "init_from": {"vgg19": "", "vggface": ""},
                "steps": 200_000,
                "batch_size": 32,
                "frames": 2,
                "lr": 1e-4,
                "clip_norm": 1.0,
                "weight_decay": 0.01,
                "warmup_steps": 1000,
                "ema_decay": 0.999,
                "seed": 0,
                "checkpoint_every": 1000,
                "log_every": 50,
            },
        }
    )


def motion() -> ConfigDict:
    """At the published size."""
    return base("motion")


def demo_motion() -> ConfigDict:
    """Faces of 64 pixels, for encoders that are a hundredth as large, and the memory that reads them."""
    config = base("demo_motion")
    config.model.update({"face_size": hunyuan_demo.FACE, **hunyuan_demo.encoders()})
    # There are no perceptual networks for cartoons, and redrawing without them teaches mouths slowly: landmarks do it.
    config.model.head.weights.update({"vgg19": 0.0, "vggface": 0.0})
    config.loss.update({"redrawing": 0.0, "landmarks": 1.0, "spread": 1.0})
    config.data.update({"size": 128, "frame_stride": (2, 5), "clip_frames": 24})
    del config.train.adversary
    config.train.update(
        {
            "trainable": (*ENCODERS, "motion_memory/.*", "(landmark|token)_reader/.*"),
            "steps": 1500,
            "batch_size": 8,
            "frames": 4,
            "lr": 2e-3,
            "b2": 0.99,
            "schedule": "cosine",
            "warmup_steps": 50,
            "ema_decay": 0.995,
            "checkpoint_every": 500,
        }
    )
    return config


STAGES = {"motion": motion, "demo_motion": demo_motion}
