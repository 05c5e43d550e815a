"""Follow-Your-Emoji: the demo's stages, and the published release.

`released` is the release at full size, 512 pixels (docs/follow_your_emoji.md: how to import it, time and memory):

    python -m launch.convert import --layout follow_your_emoji --input FOLDER --output released
    python -m launch.animate --config configs/follow_your_emoji.py:released --checkpoint released --portrait … --driving …

The rest is the demo: 128 pixels, latents 16×16×8, trained on procedural portraits.

    python -m launch.train --config configs/follow_your_emoji.py:demo_stage1 --workdir runs/demo
    python -m launch.train --config configs/follow_your_emoji.py:demo_stage2 --workdir runs/demo

Training pictures are drawn as they are needed; over a whole training it is quicker to draw them once (`launch.prepare`, then
`--config.data.path`). The autoencoder is the embedded one. How the embedded checkpoint was made from nothing, with hardware,
time and result: `docs/demo_checkpoint.md`.
"""

from ml_collections import ConfigDict

from configs import autoencoder
from portrait_jax.errors import ConfigError, nearest

WIDTHS = (48, 72, 96)


def get_config(stage: str = "demo") -> ConfigDict:
    """`demo_stage1` trains on single frames, `demo_stage2` the temporal modules; `demo` is what animates; `released`: see above."""
    stages = {"demo_stage1": stage1, "demo_stage2": stage2, "demo": stage2, "released": released}
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
                "spacing": "trailing",
                "previous": "listed",
                "window": 12,
                "overlap": 4,
                "windows_per_chunk": 3,
                # Measured: without noise in common the results tremble (docs/demo_checkpoint.md).
                "noise_share": 1.0,
            },
            "data": {
                "kind": "clips",
                "path": "",
                "size": 128,
                "latent_factor": 8,
                "drawing": "smooth",
                "frame_stride": (1, 1),
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )


def model() -> ConfigDict:
    """The published layout with three levels instead of four and about a hundredth of the parameters."""
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
                "attention_levels": (True, True, False),
                "num_heads": 2,
                "context_dim": 64,
                "norm_groups": 8,
                "image_prompt_dim": 64,
                "place_embedding": True,
            },
            # The portrait's latents beside the noisy ones: not in the paper, but as Stable Video Diffusion does it.
            "portrait_latents": False,
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
            "steps": 5000,
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


def released(config: ConfigDict) -> None:
    """The published weights as their own program runs them. Files are those of the release's repository; § is the paper's."""
    config.model = released_model()
    config.loss.temporal = True
    config.sampling.update(
        {
            # configs/infer.yaml: DDIM (infer.py), 30 steps, guidance 3.5 on the identity alone.
            "solver": "ddim",
            "steps": 30,
            "guidance": 3.5,
            # infer.yaml `timestep_spacing`; the scheduler steps to t − 1000 // 30, which is not always the next of its list.
            "spacing": "trailing",
            "previous": "stride",
            # models/video_pipeline.py, `__call__`: windows of 24 without overlap, the last one goes on with the first frames.
            # Its `forward_long` is strategy "tiled"; of it no window and overlap are published. For long videos "overlap".
            "strategy": "wrapped",
            "window": 24,
            "overlap": 4,  # Not read by "wrapped"; ours for the other two.
            "windows_per_chunk": 1,
            "noise_share": 0.0,  # `torch.randn` for all frames.
            "framing": "whole",  # dataset/val_dataset.py
            "alignment": "metric",  # media_pipe/__init__.py
        }
    )
    config.data.update({"size": 512, "drawing": "released"})
    # Animating needs none of it; a stage that fine-tunes the release sets its own.
    config.train = ConfigDict(
        {"trainable": ("denoiser/.*motion_modules.*",), "steps": 1, "batch_size": 1, "frames": 16}
    )


def released_model() -> ConfigDict:
    """Stable Diffusion 1.5 with AnimateDiff v2's motion modules, CLIP ViT-L/14, and a guider: 2.6 billion parameters."""
    return ConfigDict(
        {
            "image_size": 512,  # infer.yaml; §4.1
            "drawing_style": "released",
            "whole_levels": True,  # models/video_pipeline.py and `save_videos_grid`, which cut off fractions
            # sd-vae-ft-mse, as published
            "autoencoder": {
                "block_out_channels": (128, 256, 512, 512),
                "layers_per_block": 2,
                "latent_channels": 4,
                "norm_groups": 32,
                "scaling_factor": 0.18215,
            },
            # sd-image-variations' UNet, as published; `clip_fc` reads CLIP's tokens of 1024 (models/unet/__init__.py). The
            # reference net has the same sizes (models/referencenet/__init__.py). §3.1
            "denoiser": {
                "in_channels": 4,
                "out_channels": 4,
                "block_out_channels": (320, 640, 1280, 1280),
                "layers_per_block": 2,
                "attention_levels": (True, True, True, False),
                "num_heads": 8,
                "context_dim": 768,
                "norm_groups": 32,
                "image_prompt_dim": 1024,
            },
            # infer.yaml, `unet_additional_kwargs`: AnimateDiff mm_sd_v15_v2, all resolutions and the middle
            "temporal": {"num_heads": 8, "max_length": 32, "norm_groups": 32, "mid": True, "attentions": 2},
            # infer.py and models/guider.py
            "guider": {"channels": (16, 32, 96, 256), "out_channels": 320},
            # sd-image-variations' image encoder, as published: CLIP ViT-L/14. Its projection comes with the files, unused.
            "image_encoder": {
                "hidden": 1024,
                "layers": 24,
                "heads": 16,
                "mlp": 4096,
                "patch": 14,
                "image_size": 224,
                "projection": 768,
                "activation": "quick_gelu",
            },
            # infer.yaml, `noise_scheduler_kwargs` with zero terminal SNR
            "schedule": {
                "name": "scaled_linear",
                "length": 1000,
                "beta_start": 0.00085,
                "beta_end": 0.012,
                "zero_terminal_snr": True,
            },
            "prediction": "v",
        }
    )
