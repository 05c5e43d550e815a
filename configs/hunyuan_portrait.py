"""HunyuanPortrait at published size: 512 pixels, latents 64×64×4, windows of 25 frames, with the numbers of the release.

    python -m launch.convert import --layout hunyuan_portrait --input RELEASE --output runs/hunyuan_portrait

`released` runs the published weights as the original script does: 25 Euler steps on Karras levels, two guidance terms of 2.0,
windows on a ring. The original's web demo guides by 2.5. The weights may not be used commercially (docs/hunyuan_portrait.md).

`train` is the paper's training, of which the release has nothing, on Stable Video Diffusion and DINOv2; `no_memory`,
`no_intensity`, `no_identity` and `no_adapter` are its ablations (table 2). The paper used 128 A100 for three days; nothing of this
size has been trained here. That the step lowers for eight devices is tested from shapes. `motion` trains the motion encoders
beforehand (`configs/hunyuan_motion.py`); `demo_motion`, `demo_attention`, `demo_train` and `demo`, which animates, are at demo size
(`configs/hunyuan_demo.py`).
"""

from ml_collections import ConfigDict

from configs import hunyuan_demo, hunyuan_motion
from portrait_jax.errors import ConfigError, nearest


def get_config(name: str = "released") -> ConfigDict:
    """`released` is what the published weights need; the other names train, but for `demo`."""
    names = ("released", "train", *ABLATIONS, *hunyuan_motion.STAGES, *hunyuan_demo.STAGES)
    if name not in names:
        raise ConfigError(f"configs/hunyuan_portrait.py has no '{name}'{nearest(name, names)}")
    if name in hunyuan_motion.STAGES:
        return hunyuan_motion.STAGES[name]()
    config = ConfigDict(
        {
            "task": "hunyuan_portrait",
            "stage": name,
            "compute_dtype": "auto",
            "model": model(),
            "loss": {},
            "augment": {},
            "sampling": {
                "solver": "euler",
                "steps": 25,
                "portrait_guidance": 2.0,
                "guidance": 2.0,
                "guidance_interval": (0.0, 1.0),
                "windows_per_batch": 1,
                "cache_every": 1,
                "cache_depth": 2,
                "decode_tile": 0,
                "decode_overlap": 0.25,
                "strategy": "ring",
                "window": 25,
                "overlap": 3,
                "shift": 3,
                "ends": 15,
                "decode_chunk": 8,
                "framing": "wide",
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )
    if name in hunyuan_demo.STAGES:
        hunyuan_demo.STAGES[name](config)
        return config
    if name != "released":
        train(config)
    if name in ABLATIONS:
        section, change = ABLATIONS[name]
        config.model[section].update(change)
    if name == "no_adapter":
        # No pattern may match nothing.
        config.train.trainable = tuple(pattern for pattern in config.train.trainable if pattern != ADAPTERS)
    return config


ADAPTERS = r"image_encoder/blocks_\d+/adapter/(?!.*running_).*"
"""What trains of the image encoder."""
ABLATIONS = {
    "no_memory": ("motion_memory", {"memory": False}),
    "no_intensity": ("motion_memory", {"intensity": False}),
    "no_identity": ("portrait", {"identity": False}),
    "no_adapter": ("identity", {"blocks": ()}),
}
"""Table 2: what is left out. How is ours, since the paper only names the parts."""


def train(config: ConfigDict) -> None:
    """§4.1 and appendix C.1; what they leave open is marked so."""
    # Noise levels, drops and colours: the defaults of the classes, all open in the paper.
    config.loss = ConfigDict({"drop_all": 0.05, "drop_motion": 0.1, "drop_pose": 0.2})
    config.augment = ConfigDict({"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1})
    config.model.denoiser.gradient_checkpointing = True
    config.data = ConfigDict(
        {
            "kind": "faces",
            "path": "",
            "size": 512,
            "latent_factor": 8,
            # Open: every second frame of clips of 25 a second is near the 12.5 that the backbone is told.
            "frame_stride": (2, 2),
            "clip_frames": 64,
            "stylised": "",
            "stylised_share": 0.5,  # open: §3.5 says "part of the data"
        }
    )
    # Batch statistics have no place here: the adapters' norms keep theirs.
    config.train = ConfigDict(
        {
            # Frozen: autoencoder, DINOv2's own blocks, face recogniser, motion encoders.
            "trainable": (
                "denoiser/.*",
                ADAPTERS,
                "image_projection/.*",
                "motion_memory/.*",
                "guider/.*",
            ),
            "init_from": {
                "denoiser": "pretrained/denoiser",  # SVD-XT with copies of keys and values (docs/hunyuan_portrait.md)
                "autoencoder": "pretrained/autoencoder",
                "image_encoder": "pretrained/image_encoder",
                "face_recogniser": "pretrained/face_recogniser",
                "expression": "pretrained/motion",  # `motion`, or the release's
                "head_pose": "pretrained/motion",
            },
            "allow_missing": (r"image_encoder/blocks_\d+/adapter/",),
            "steps": 100_000,  # open
            "batch_size": 128,  # open: one clip per device
            "frames": 25,  # open: the window of the release
            "lr": 1e-5,  # §4.1
            "clip_norm": 0.99,  # §4.1
            "weight_decay": 0.01,  # open
            "warmup_steps": 1000,  # open
            "seed": 0,
            "checkpoint_every": 1000,
            "log_every": 50,
        }
    )


def model() -> ConfigDict:
    """The sizes of the classes are the published ones; what stands here is what their originals have otherwise."""
    return ConfigDict(
        {
            "image_size": 512,
            "face_size": 256,
            "temporal_decoder": True,
            # "epsilon" is the paper's.
            "prediction": "v",
            "portrait": {
                "encoder_size": 224,
                "head_pose": True,
                "identity_range": "01",
                "fps": 12.5,
                "bucket": 0.0,
                "noise": 0.0,
            },
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
            "intensity": hunyuan_motion.INTENSITY,
            "motion_memory": {"out": 1018, "levels": 128, "form": "released"},
            "guider": {"out_channels": 320},
        }
    )
