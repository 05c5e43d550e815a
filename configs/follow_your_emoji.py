"""Follow-Your-Emoji at demo size: 128 pixels, latents 16×16×8, trained on procedural portraits.

The published release and training at its size: `configs/follow_your_emoji_full.py`; ablations:
`configs/follow_your_emoji_ablations.py`.

    python -m launch.train --config configs/follow_your_emoji.py:demo_stage1 --workdir runs/demo
    python -m launch.train --config configs/follow_your_emoji.py:demo_stage2 --workdir runs/demo

Training pictures are drawn as they are needed; over a whole training it is quicker to draw them once (`launch.prepare`, then
`--config.data.path`). The autoencoder is the embedded one. How the embedded checkpoint was made from nothing, with hardware,
time and result: `docs/demo_checkpoint.md`.
"""

from functools import partial

from ml_collections import ConfigDict

from configs import autoencoder, follow_your_emoji_full
from configs.follow_your_emoji_ablations import ABLATIONS, first_stage
from portrait_jax.errors import ConfigError, nearest

WIDTHS = (64, 96)


def get_config(stage: str = "demo") -> ConfigDict:
    """`demo_stage1` trains on single frames, `demo_stage2` the temporal modules; `demo` is what animates.

    `demo_stage2_progressive` goes on from the embedded model to one that fills gaps; `ablation_NAME_stage1`, `_stage2` and
    `ablation_NAME`, which animates, are at demo size too. At full size `released` animates with the published weights, and
    `stage1`, `stage2`, `released_stage1`, `released_stage2` train.
    """
    stages = {
        "demo_stage1": stage1,
        "demo_stage2": stage2,
        "demo": stage2,
        "demo_stage2_progressive": progressive,
        **follow_your_emoji_full.STAGES,
    }
    for name in ABLATIONS:
        stages[f"ablation_{name}_stage1"] = partial(ablation, name=name, temporal=False)
        stages[f"ablation_{name}_stage2"] = stages[f"ablation_{name}"] = partial(ablation, name=name, temporal=True)
    if stage not in stages:
        raise ConfigError(f"configs/follow_your_emoji.py has no '{stage}'{nearest(stage, list(stages))}")
    config = base()
    config.stage = stage
    stages[stage](config)
    return config


def base() -> ConfigDict:
    """What the stages share."""
    return ConfigDict(
        {
            "task": "follow_your_emoji",
            "stage": "",
            "compute_dtype": "auto",
            "model": model(),
            "loss": {
                "facial": 1.0,  # §3.2 adds both losses with weight 1
                "drop": 0.1,
                "masks": ("expression_mask", "oval_mask"),
                "temporal": False,
                # §3.3, where model.progressive is set: half of the clips by each of its two rules.
                "masking": "mixed",
                "blank": 0.0,
            },
            "sampling": {
                "solver": "dpmpp_2m",
                "steps": 6,
                # 1 is no guidance: 1.5 and 2 measured worse (docs/demo_checkpoint.md), and take twice the time.
                "guidance": 1.0,
                "guidance_interval": (0.0, 1.0),
                "windows_per_batch": 1,
                "cache_every": 1,
                "cache_depth": 2,
                "decode_tile": 0,
                "decode_overlap": 0.25,
                "spacing": "trailing",
                "previous": "listed",
                "strategy": "overlap",
                "window": 12,
                "overlap": 4,
                "windows_per_chunk": 3,
                # Measured: without noise in common the results tremble (docs/demo_checkpoint.md).
                "noise_share": 1.0,
                "alignment": "proportional",
            },
            "data": {
                "kind": "clips",
                "path": "",
                "size": 128,
                "latent_factor": 8,
                "drawing": "smooth",
                "frame_stride": (1, 1),
                "clip_frames": 24,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )


def model() -> ConfigDict:
    """The published layout with two levels instead of four and less than a hundredth of the parameters."""
    return ConfigDict(
        {
            "image_size": 128,
            "drawing_style": "smooth",
            "autoencoder": autoencoder.model(),
            "denoiser": {
                "in_channels": 8,
                "out_channels": 8,
                "block_out_channels": WIDTHS,
                "layers_per_block": 1,
                "attention_levels": (True, True),
                "num_heads": 2,
                "context_dim": 64,
                "norm_groups": 8,
                "image_prompt_dim": 64,
                "place_embedding": True,
            },
            # Not in the paper, but as Stable Video Diffusion does it: a network this small, trained for an hour, otherwise blurs
            # even what does not move (docs/demo_checkpoint.md).
            "portrait_latents": True,
            "temporal": {"num_heads": 4, "max_length": 32, "norm_groups": 8},
            "guider": {"channels": (16, 32, 48), "out_channels": WIDTHS[0], "patch_size": 2},
            # A CLIP vision transformer in small, trained from scratch: there is no pretrained one for cartoons.
            "image_encoder": {
                "hidden": 64,
                "layers": 2,
                "heads": 4,
                "mlp": 128,
                "patch": 16,
                "image_size": 64,
                "projection": None,
            },
            # The release's schedule: infer.yaml, zero terminal SNR, velocity.
            "schedule": {"name": "scaled_linear", "zero_terminal_snr": True},
            "prediction": "v",
            # "masked_latents" adds the paper's input channels (§3.3), which the release does not have.
            "progressive": "none",
            # "resampler" is the paper's Q-Former (§3) in place of the linear layers that the release has.
            "image_prompt": {"kind": "linear"},
        }
    )


def stage1(config: ConfigDict) -> None:
    """Everything but the autoencoder and the temporal modules, on single frames (§3.2, first stage)."""
    # Far apart, so that the frames of one example differ.
    config.data.frame_stride = (2, 5)
    config.train = ConfigDict(
        {
            "trainable": ("denoiser/(?!.*motion_modules).*", "reference/.*", "guider/.*", "image_encoder/.*"),
            "init_from": {"autoencoder": "{assets}/follow_your_emoji_demo.safetensors"},
            "steps": 6000,
            "batch_size": 4,
            "frames": 4,
            "lr": 1e-3,
            "b2": 0.99,
            "schedule": "cosine",
            "warmup_steps": 100,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "ema_decay": 0.998,
            "seed": 0,
            "checkpoint_every": 1000,
            "log_every": 50,
            "sample_every": 1000,
        }
    )


def stage2(config: ConfigDict) -> None:
    """The temporal modules alone, on clips (§3.2, second stage)."""
    stage1(config)
    config.loss.temporal = True
    config.data.frame_stride = (1, 1)
    # Assigned, since `update` would keep the first stage's entries beside this one.
    # The autoencoder by name, so that a decoder that was trained on meanwhile can take its place on the command line.
    config.train.init_from = ConfigDict({"*": "{workdir}/demo_stage1", "autoencoder": "{workdir}/demo_stage1"})
    config.train.update(
        {
            "trainable": ("denoiser/.*motion_modules.*",),
            "steps": 300,
            "batch_size": 2,
            "frames": 12,
            "lr": 1e-3,
            "warmup_steps": 20,
            "sample_every": 0,
        }
    )


def progressive(config: ConfigDict) -> None:
    """The second stage with masked latents (§3.3): keyframes far apart are made first, then what lies between them.

        python -m launch.prepare --config configs/prepare.py:long --output runs/long_portraits
        python -m launch.train --config configs/follow_your_emoji.py:demo_stage2_progressive \\
            --config.data.path=runs/long_portraits --workdir runs/demo

    It goes on from the embedded model, so no earlier stage has to be trained. Frames lie up to 11 apart, as keyframes of the
    second level do, as far as the clips are long enough.
    """
    stage2(config)
    config.model.progressive = "masked_latents"
    config.sampling.strategy = "progressive"
    config.loss.blank = 0.2  # keyframes are made with nothing given
    config.data.update({"frame_stride": (1, 11), "clip_frames": 133})
    # The first convolution too: its new channels start at zero, and no single frame has used them.
    config.train.trainable = ("denoiser/.*motion_modules.*", "denoiser/conv_in/.*")
    config.train.fit_inputs = ("denoiser/conv_in/kernel",)
    config.train.init_from = ConfigDict({"*": "{assets}/follow_your_emoji_demo.safetensors"})
    config.train.steps = 1500


def ablation(config: ConfigDict, name: str, temporal: bool) -> None:
    """One row of the paper's table 2, first or second stage: the whole system with what `ABLATIONS` changes."""
    progressive(config)
    source = f"{{workdir}}/{first_stage(name)}"
    config.train.init_from = ConfigDict({"*": source, "autoencoder": source})
    config.update_from_flattened_dict(ABLATIONS[name])
    if not temporal:
        stage1(config)
        # Nothing is given to single frames: the first convolution is widened where the second stage begins.
        config.loss.temporal, config.model.progressive = False, "none"
    elif config.model.progressive == "none":
        config.train.trainable, config.train.fit_inputs = ("denoiser/.*motion_modules.*",), ()
