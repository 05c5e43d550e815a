"""X-NeMo at demo size: 128 pixels, latents 16×16×8, trained on procedural portraits.

The published release and training at its size: `configs/xnemo_full.py`; ablations: `configs/xnemo_ablations.py`.

    python -m launch.prepare --config configs/prepare.py:poses --output runs/poses
    python -m launch.prepare --config configs/prepare.py:synthetic --output runs/portraits
    python -m launch.train --config configs/xnemo.py:demo_stage1 --config.data.path=runs/poses --workdir runs/xnemo
    python -m launch.train --config configs/xnemo.py:demo_motion --config.data.path=runs/poses --workdir runs/xnemo
    python -m launch.train --config configs/xnemo.py:demo_attention --config.data.path=runs/poses --workdir runs/xnemo
    python -m launch.train --config configs/xnemo.py:demo_stage2 --config.data.path=runs/poses --workdir runs/xnemo
    python -m launch.train --config configs/xnemo.py:demo_stage3 --config.data.path=runs/portraits --workdir runs/xnemo

As the original starts from Stable Diffusion, the demo starts from the embedded landmark-driven model: its autoencoder, its image
encoder, both UNets and its temporal modules, but not its landmarks. Time and result: docs/xnemo.md.
"""

from functools import partial

from ml_collections import ConfigDict

from configs import follow_your_emoji, xnemo_full
from configs.xnemo_ablations import ABLATIONS
from portrait_jax.adversarial.head import ADVERSARY, TRAINABLE
from portrait_jax.errors import ConfigError, nearest

MOTION_ENCODER = r"motion_encoder/.*/(kernel|scale|bias)$"
"""Its leaves without the stored statistics of norms."""
PICTURES = ("denoiser/(?!.*temporal_modules).*", "reference/.*", "image_encoder/.*")
"""What draws single frames, motion attention included."""
EMBEDDED = "{assets}/follow_your_emoji_demo.safetensors"


def get_config(name: str = "released") -> ConfigDict:
    """`released`, `stage1`, `stage2`, `stage3`, `trained` at published size; `demo_stage1`, `demo_motion`, `demo_attention`,
    `demo_stage2`, `demo_stage3`, and `demo`, which animates; `ablation_NAME_stage1`, `_motion`, `_stage2`, `_stage3` and
    `ablation_NAME`, of demo size.
    """
    stages = {
        **xnemo_full.STAGES,
        "demo_stage1": demo_stage1,
        "demo_motion": demo_motion,
        "demo_attention": demo_attention,
        "demo_stage2": demo_stage2,
        "demo_stage3": demo_stage3,
        "demo": demo_stage3,
    }
    for ablation in ABLATIONS:
        for suffix, stage in (
            ("_stage1", demo_stage1),
            ("_motion", demo_motion),
            ("_stage2", demo_stage2),
            ("_stage3", demo_stage3),
            ("", demo_stage3),
        ):
            stages[f"ablation_{ablation}{suffix}"] = partial(ablated, name=ablation, stage=stage)
    if name not in stages:
        raise ConfigError(f"configs/xnemo.py has no '{name}'{nearest(name, list(stages))}")
    config = xnemo_full.base()
    config.stage = name
    stages[name](config)
    return config


def demo(config: ConfigDict) -> None:
    """What the demo's stages share: the landmark-driven demo's sizes, with motion attention at every layer."""
    other = follow_your_emoji.model()
    config.model.update(
        {
            "image_size": 128,
            "autoencoder": other.autoencoder,
            "temporal_decoder": False,
            # Noise alone is left at the last step of this schedule.
            "blurred_start": False,
            "portrait_latents": True,
            "denoiser": other.denoiser,
            "temporal": {**other.temporal, "name": "temporal_modules"},
            "motion": {"num_heads": 4, "attentions": 1, "norm_groups": 8, "name": "motion_modules"},
            "motion_encoder": {
                "image_size": 64,
                "channels": (16, 32, 64),
                "depth": 3,
                "attention_dim": 64,
                "attention_heads": 2,
                "heatmaps": 16,
                "latent_dim": 128,
                "tokens": 16,
                "box_dim": 16,
                "norm_groups": 4,
                "batch_norms": False,
                "leak": 0.2,
                "latent_gain": 5.0,
                "box_gain": 20.0,
            },
            "image_encoder": {**other.image_encoder, "projection": 64},
            "prediction": "v",
        }
    )
    config.model.schedule = other.schedule
    config.model.head.update(
        {
            "pictures": {"channels": (64, 64, 32, 16), "style": 64, "group": 4},
            "resnet": {"layers": (1, 1, 1), "channels": (16, 32, 64), "norm_groups": 8},
            "appearance": 64,
        }
    )
    # There are no perceptual networks for cartoons; without them the difference of the pixels leads.
    config.model.head.weights.update(
        {"vgg19": 0.0, "vggface": 0.0, "recon": 10.0, "feature_matching": 1.0, "adversarial": 0.1}
    )
    config.sampling = follow_your_emoji.base().sampling
    # Measured for the landmark-driven demo, whose denoiser this is.
    config.sampling.update({"window": 12, "overlap": 4})
    config.data = ConfigDict(
        {"kind": "faces", "path": "", "size": 128, "latent_factor": 8, "frame_stride": (1, 1), "clip_frames": 24}
    )


def demo_stage1(config: ConfigDict) -> None:
    """Both UNets without landmarks and without motion, on single frames."""
    demo(config)
    config.loss.motion = False
    # Far apart, so that the frames of one example differ.
    config.data.frame_stride = (2, 5)
    config.train = ConfigDict(
        {
            "trainable": ("denoiser/(?!.*(motion|temporal)_modules).*", "reference/.*", "image_encoder/.*"),
            "init_from": dict.fromkeys(("autoencoder", "denoiser", "reference", "image_encoder"), EMBEDDED),
            "rename": {"motion_modules": "temporal_modules"},
            "allow_missing": ("denoiser/.*motion_modules.*", "image_encoder/.*(post_layernorm|visual_projection)/.*"),
            "steps": 200,
            "batch_size": 4,
            "frames": 4,
            "lr": 5e-4,
            "b2": 0.99,
            "schedule": "constant",
            "warmup_steps": 50,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "ema_decay": 0.99,
            "seed": 0,
            "checkpoint_every": 500,
            "log_every": 50,
            "sample_every": 0,
        }
    )


def demo_motion(config: ConfigDict) -> None:
    """The motion encoder on landmarks alone: a warm-up that the paper does without.

    A step costs a fraction of one with both UNets, which learn sooner from tokens that mean something.
    """
    demo_stage1(config)
    config.loss.update({"diffusion": 0.0, "motion": True, "landmarks": 1.0})
    config.train.init_from = ConfigDict({"*": "{workdir}/demo_stage1"})
    config.train.rename = ConfigDict()
    config.train.update(
        {
            "trainable": (MOTION_ENCODER, "landmark_reader/.*"),
            "allow_missing": (),
            "steps": 800,
            "batch_size": 8,
            "lr": 2e-3,
            "schedule": "cosine",
            "ema_decay": 0.99,
        }
    )


def demo_attention(config: ConfigDict) -> None:
    """The denoiser learns to read the latents as `demo_motion` left them, from the landmark-driven model that it was made of:
    what that one draws with landmarks it shall draw with motion tokens, layer by layer.
    """
    demo_stage1(config)
    config.teacher = follow_your_emoji.get_config("demo")
    config.data.kind = "clips"  # with the drawings that the teacher is told
    # Whom the teacher sees, and all of them, the student sees too.
    config.loss.update({"motion": True, "teacher": 1.0, "diffusion": 0.2, "mask": 0.0, "drop": 0.0})
    config.train.init_from = ConfigDict({"*": "{workdir}/demo_motion", "teacher": EMBEDDED})
    config.train.rename = ConfigDict()
    config.train.update(
        {
            "trainable": (PICTURES[0], r"motion_encoder/(?!model/).*"),
            "allow_missing": (),
            "steps": 1400,
            "lr": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
            "ema_decay": 0.998,
            "log_every": 25,
        }
    )


def demo_stage2(config: ConfigDict) -> None:
    """Motion, end to end, with the GAN head."""
    demo_stage1(config)
    config.loss.update({"motion": True, "head": True})
    config.train.init_from = ConfigDict({"*": "{workdir}/demo_attention"})
    config.train.rename = ConfigDict()
    config.train.update(
        {
            "trainable": (
                *PICTURES,
                MOTION_ENCODER,
                *TRAINABLE,
            ),
            "allow_missing": (),
            "adversary": {"trainable": ADVERSARY, "lr": 2e-4, "b1": 0.0},
            "steps": 400,
            "schedule": "cosine",
            "warmup_steps": 100,
            "ema_decay": 0.998,
            "sample_every": 1000,
        }
    )


def demo_stage3(config: ConfigDict) -> None:
    """The temporal modules alone, on clips."""
    demo_stage1(config)
    config.loss.update({"motion": True, "temporal": True})
    config.data.frame_stride = (1, 1)
    config.train.init_from = ConfigDict({"*": "{workdir}/demo_stage2"})
    config.train.rename = ConfigDict()
    config.train.update(
        {
            "trainable": (xnemo_full.TEMPORAL_PATHS,),
            "allow_missing": (),
            "steps": 200,
            "batch_size": 2,
            "frames": 12,
            "schedule": "cosine",
            "warmup_steps": 20,
        }
    )


def ablated(config: ConfigDict, name: str, stage) -> None:
    """One row of the paper's table 2: the demo with what `ABLATIONS` changes."""
    stage(config)
    if stage is not demo_stage1:
        before = {demo_motion: "stage1", demo_stage2: "motion"}.get(stage, "stage2")
        config.train.init_from = ConfigDict({"*": f"{{workdir}}/ablation_{name}_{before}"})
    config.update_from_flattened_dict(ABLATIONS[name])
    if stage is not demo_stage2:
        config.loss.head = False
        return
    # Rows differ in what teaches the denoiser too: none starts from `demo_attention`.
    config.train.steps = 1400
    if not config.loss.head:
        # No pattern may match nothing.
        config.train.adversary = None
        config.train.trainable = tuple(pattern for pattern in config.train.trainable if pattern not in TRAINABLE)
    if config.model.control == "map":
        config.train.trainable = (*config.train.trainable, "motion_map/.*")
