"""Follow-Your-Emoji at the published size: 512 pixels, Stable Diffusion 1.5 with AnimateDiff's motion modules.

`released` animates with the published weights as their own program does (docs/follow_your_emoji.md: time and memory):

    python -m launch.convert import --layout follow_your_emoji --input FOLDER --output released
    python -m launch.animate --config configs/follow_your_emoji.py:released --checkpoint released --portrait … --driving …

The rest trains it.

Once, the networks that it starts from (docs/convert.md; FILES are the published ones, or hub:org/name):

    python -m launch.convert import --layout sd15_unet,animatediff_v2 --input FILES --output pretrained/denoiser
    python -m launch.convert import --layout sd15_unet --subnet reference --input FILE --output pretrained/reference
    python -m launch.convert import --layout sd15_vae --input FILE --output pretrained/autoencoder
    python -m launch.convert import --layout clip_vision_vit_l --input FILE --output pretrained/image_encoder

then, with clips that `launch.prepare --config configs/prepare.py:video --config.size=512` made of HDTF, VFHQ or your own:

    python -m launch.train --config configs/follow_your_emoji.py:stage1 --config.data.path=CLIPS --workdir runs/emoji
    python -m launch.train --config configs/follow_your_emoji.py:stage2 --config.data.path=CLIPS --workdir runs/emoji

`stage1` and `stage2` are the paper: a resampler reads the image tokens, and the denoiser is given masked latents.
`released_stage1` and `released_stage2` train the networks as they were released: a linear layer, four channels.

The paper states no hardware, time or loss, and nothing of this size has been trained here: that all steps lower for eight
devices is tested from shapes (tests/configs/test_follow_your_emoji_full.py). `--config.mesh.fsdp=8` spreads parameters and
optimizer over eight devices; `--config.train.accumulate=4` takes a quarter of the batch at a time.
"""

from ml_collections import ConfigDict


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
            "guidance_interval": (0.0, 1.0),
            "windows_per_batch": 1,
            "cache_every": 1,
            "cache_depth": 2,
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
    config.data.update({"size": 512, "latent_factor": 8, "drawing": "released"})
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
            "progressive": "none",
            "image_prompt": {"kind": "linear"},
        }
    )


def resampler() -> ConfigDict:
    """The paper's Q-Former of four layers (§3). Sizes are those of IP-Adapter's: the paper names the layers only."""
    return ConfigDict({"kind": "resampler", "tokens": 16, "depth": 4, "head_size": 64})


def first(config: ConfigDict) -> None:
    """§3.2, first stage: everything but the autoencoder, the image encoder and the temporal modules, on single frames."""
    config.loss.temporal = False
    config.model.denoiser.gradient_checkpointing = True
    config.train = ConfigDict(
        {
            "trainable": ("denoiser/(?!.*motion_modules).*", "reference/.*", "guider/.*"),
            "init_from": {
                "denoiser": "pretrained/denoiser",
                "reference": "pretrained/reference",
                "autoencoder": "pretrained/autoencoder",
                "image_encoder": "pretrained/image_encoder",
            },
            # New in both networks, where it exists. The reference net ends inside its last transformer and has no head.
            "allow_missing": ("(denoiser|reference)/clip_fc/",),
            "allow_unused": (
                "reference/(conv_norm_out|conv_out)/",
                "reference/up_blocks_3/attentions_2/",
                "image_encoder/.*(post_layernorm|visual_projection)/",
            ),
            "steps": 30_000,  # §4.1
            "batch_size": 32,  # §4.1
            "frames": 1,
            # The paper says nothing of the optimizer. These are usual for fine-tuning Stable Diffusion; no moving average.
            "lr": 1e-5,
            "b1": 0.9,
            "b2": 0.999,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "schedule": "constant",
            "seed": 0,
            "checkpoint_every": 1000,
            "log_every": 50,
            "sample_every": 1000,
        }
    )


def second(config: ConfigDict, first_stage: str) -> None:
    """§3.2, second stage: the temporal modules alone, on clips of 16 frames."""
    first(config)
    config.loss.temporal = True
    config.data.frame_stride = (1, 4)  # open in the paper
    config.train.init_from = ConfigDict({"*": f"{{workdir}}/{first_stage}"})
    config.train.update(
        {
            "trainable": ("denoiser/.*motion_modules.*",),
            "allow_missing": (),
            "allow_unused": (),
            "steps": 10_000,  # §4.1
            "batch_size": 32,
            "frames": 16,
        }
    )


def stage1(config: ConfigDict) -> None:
    """The paper's first stage. Nothing is given to single frames, so its denoiser has four input channels still."""
    released(config)
    config.model.image_prompt = resampler()
    first(config)
    config.train.trainable = (*config.train.trainable, "image_prompt/.*")


def stage2(config: ConfigDict) -> None:
    """The paper's second stage, which begins to give latents (§3.3): nine input channels, the new ones zero at first."""
    released(config)
    config.model.image_prompt, config.model.progressive = resampler(), "masked_latents"
    config.sampling.update({"strategy": "progressive", "window": 16})  # as long as the clips that it is trained on
    second(config, "stage1")
    config.train.trainable = (*config.train.trainable, "denoiser/conv_in/.*")
    config.train.fit_inputs = ("denoiser/conv_in/kernel",)
    config.loss.blank = 0.1  # open in the paper, which makes keyframes with nothing given


def released_stage1(config: ConfigDict) -> None:
    """The first stage of the released networks."""
    released(config)
    first(config)


def released_stage2(config: ConfigDict) -> None:
    """The second stage of the released networks."""
    released(config)
    second(config, "released_stage1")


STAGES = {
    "released": released,
    "stage1": stage1,
    "stage2": stage2,
    "released_stage1": released_stage1,
    "released_stage2": released_stage2,
}
