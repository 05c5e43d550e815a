"""AnyExpress at demo size: 128 pixels, latents 16×16×8, on procedural people who talk. How to train: docs/anyexpress.md.

`demo_base` makes the model that then stays frozen, from the embedded checkpoint of Follow-Your-Emoji's demo: an image model of
procedural people that is told whose face it is, and a motion model. There is no published one for cartoons. What differs from the
paper for the sake of an hour on two cores: the base sees the portrait's latents; the image and the speech encoder are
small and trained here, the latter on lips first (`demo_speech`); sound is heard on single frames first, with a teacher
(`demo_voice`); the schedule and velocity are the embedded model's; motion modules of all blocks train; errors of mouths count
more.
"""

from ml_collections import ConfigDict

from configs import autoencoder, follow_your_emoji

WIDTHS = (64, 96)
EMBEDDED = "{assets}/follow_your_emoji_demo.safetensors"
SPEECH = "(audio_encoder|audio_projection)/.*"
NEW = ("denoiser/.*(processor|audio_attention).*",)


def model() -> ConfigDict:
    """The published layout with two levels instead of four."""
    return ConfigDict(
        {
            "image_size": 128,
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
                "place_embedding": True,
            },
            "temporal": {"num_heads": 4, "max_length": 32, "norm_groups": 8},
            # Only ever sees the empty prompt: the demo's clips have no captions.
            "text_encoder": {"vocabulary": 32, "positions": 4, "hidden": 64, "layers": 1, "heads": 2, "mlp": 64},
            "image_encoder": {
                "hidden": 64, "layers": 2, "heads": 4, "mlp": 128, "patch": 16, "image_size": 64, "projection": None,
            },
            "image_prompt": {"kind": "plus", "tokens": 8, "width": 64, "depth": 1, "head_size": 32},
            # wav2vec 2.0 in small, trained from scratch: babble is no language that a published one has learnt.
            "audio_encoder": {
                "conv_channels": (24, 32, 32, 32, 48, 48, 48), "hidden": 48, "layers": 2, "heads": 4, "mlp": 96,
                "position_kernel": 16, "position_groups": 4,
            },
            "audio": {"reach": 2, "hidden": 96, "tokens": 8, "width": 64, "num_heads": 4, "scale": 1.0},
            "schedule": {"name": "scaled_linear", "zero_terminal_snr": True},
            "prediction": "v",
            "behaviour": {
                "identity_crop": 1.0, "id_scale": 1.0, "control": "none", "control_scale": 1.0, "prefix_timestep": "shared",
                "portrait_latents": True, "posterior": False,
            },
        }
    )  # fmt: skip


def small(config: ConfigDict) -> None:
    """What all demo stages share."""
    config.model = model()
    config.sampling.update(
        {
            "solver": "dpmpp_2m",
            "steps": 8,
            # Without guidance one branch runs alone, in half the time.
            "guidance": 1.0,
            "mimic": 0.0,
            "spacing": "trailing",
            "offset": 0,
            "previous": "listed",
            "window": 16,
            "overlap": 4,
            "windows_per_chunk": 2,
            # As the embedded model's motion modules have learnt it.
            "noise_share": 1.0,
        }
    )
    config.data.update({"kind": "faces", "size": 128, "caption": ""})


def optimiser(config: ConfigDict, **changes: object) -> None:
    """Settings of a training that is an hour long, and what a stage changes in them."""
    config.train = ConfigDict(
        {
            "b2": 0.99,
            "schedule": "cosine",
            "warmup_steps": 50,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "ema_decay": 0.995,
            "seed": 0,
            "checkpoint_every": 500,
            "log_every": 25,
            **changes,
        }
    )


def demo_base(config: ConfigDict) -> None:
    """The image model, on single frames that are told whose face it is and nothing of what it does."""
    small(config)
    config.loss.temporal = config.loss.sound = False
    config.data.update({"frame_stride": (3, 5), "audio": False, "audio_margin": 0})
    optimiser(
        config,
        trainable=(
            "denoiser/(?!.*(motion_modules|audio_attention)).*",
            "(image_encoder|image_prompt|text_encoder)/.*",
        ),
        init_from=ConfigDict(dict.fromkeys(("denoiser", "autoencoder", "image_encoder"), EMBEDDED)),
        allow_missing=NEW,
        allow_unused=("denoiser/clip_fc/",),
        steps=800,
        batch_size=4,
        frames=4,
        lr=1e-3,
    )


def demo_speech(config: ConfigDict) -> None:
    """The speech encoder on lips alone: the paper has a published one, and through pictures one from nothing learns slowly."""
    small(config)
    config.loss.update({"diffusion": 0.0, "lips": 1.0})
    optimiser(
        config,
        trainable=(SPEECH, "lip_reader/.*"),
        init_from=ConfigDict({"*": "{workdir}/demo_base"}),
        steps=600,
        batch_size=8,
        frames=16,
        lr=2e-3,
    )


def demo_voice(config: ConfigDict) -> None:
    """Sound on single frames, taught by the landmark-driven model that the base was made of: how a mouth opens has to be known
    to attention itself, whose base and feed-forward layers are frozen, before motion modules could learn it in its place.
    """
    small(config)
    config.teacher = follow_your_emoji.get_config("demo")
    config.data.kind = "clips"  # with the drawings that the teacher is told
    config.loss.update({"temporal": False, "mouth": 100.0, "teacher": 1.0, "diffusion": 0.2})
    config.loss.update({"drop_reference": 0.0, "drop_text": 0.0, "drop_audio": 0.0})
    optimiser(
        config,
        trainable=(SPEECH, "denoiser/.*audio_attention.*"),
        init_from=ConfigDict({"*": "{workdir}/demo_speech", "teacher": EMBEDDED}),
        steps=700,
        batch_size=8,
        frames=2,
        lr=2e-3,
    )


def demo_stage1(config: ConfigDict) -> None:
    """Sound and motion on clips, the base frozen; errors of mouths count more."""
    small(config)
    config.loss.mouth = 30.0
    optimiser(
        config,
        trainable=(SPEECH, "denoiser/.*(audio_attention|motion_modules).*"),
        init_from=ConfigDict({"*": "{workdir}/demo_voice"}),
        steps=400,
        batch_size=2,
        frames=16,
        lr=1e-3,
    )


def demo_stage2(config: ConfigDict) -> None:
    """Motion modules begin anew from the embedded model's, the sound goes on."""
    demo_stage1(config)
    config.train.init_from = ConfigDict({"*": "{workdir}/demo_stage1"})
    config.train.restore, config.train.restore_from = ("denoiser/.*motion_modules_.*",), EMBEDDED
    config.train.update({"steps": 200, "lr": 5e-4})


def without_latents(config: ConfigDict) -> None:
    """What shows what the anchor is for: the base is told of the portrait by tokens alone, as the paper's is, so nothing but the
    prefix holds colours from window to window. No sound either, which has nothing to do with it.
    """
    config.model.behaviour.portrait_latents = False
    config.loss.sound = False
    config.data.update({"audio": False, "audio_margin": 0})


def ablation_latents_base(config: ConfigDict) -> None:
    """`demo_base` for `ablation_latents`."""
    demo_base(config)
    without_latents(config)
    # What read the portrait's latents beside the noisy ones is left out.
    config.train.fit_inputs = ("denoiser/conv_in/kernel",)


def ablation_latents(config: ConfigDict) -> None:
    """Motion modules learn to go on from a prefix."""
    demo_stage1(config)
    without_latents(config)
    config.loss.mouth = 0.0
    config.train.init_from = ConfigDict({"*": "{workdir}/ablation_latents_base"})
    config.train.update({"trainable": ("denoiser/.*motion_modules.*",), "steps": 300})


STAGES = {
    "ablation_latents_base": ablation_latents_base,
    "ablation_latents": ablation_latents,
    "demo_base": demo_base,
    "demo_speech": demo_speech,
    "demo_voice": demo_voice,
    "demo_stage1": demo_stage1,
    "demo_stage2": demo_stage2,
    "demo": demo_stage2,
}
