"""Hallo3 at demo size: 128 pixels, clips of 9 frames, latents 3×16×16×8, on procedural people who talk before moving backgrounds.

How to train it: docs/hallo3.md. There is no base model to start from but the embedded image autoencoder, which is inflated over
time. So this differs from the paper, for the sake of an hour on two cores: both transformers train whole, the first stage makes
base and identity at once, in the second the denoiser trains on beside the sound, and errors of mouths count more; all of a clip is
told the portrait, not its beginning alone; noisier timesteps are more frequent; the speech encoder and the face recogniser are
small and trained here, the former on lips first (`demo_speech`); clips have no captions, so the prompt is always zeros.
"""

from ml_collections import ConfigDict

from configs import autoencoder as image_autoencoder
from configs.hallo3_ablations import ABLATIONS

PIXELS, FRAMES, MOTION = 128, 9, 2
AUTOENCODER, SPEECH, STAGE1, STAGE2 = "demo_autoencoder", "demo_speech", "demo_stage1", "demo_stage2"
NAMES = (
    AUTOENCODER, SPEECH, STAGE1, STAGE2, "demo",
    *(f"ablation_{name}{end}" for name in ABLATIONS for end in ("", "_stage1", "_stage2")),
)  # fmt: skip


SHARED = ("block_out_channels", "layers_per_block", "latent_channels", "norm_groups", "patch_size", "shortcuts")
"""Sizes of the image autoencoder that the video autoencoder has too."""


def model() -> ConfigDict:
    """The published layout in small."""
    image = image_autoencoder.model()
    return ConfigDict(
        {
            "height": PIXELS,
            "width": PIXELS,
            "frames": FRAMES,
            "fps": 25.0,
            "autoencoder": {
                **{name: image[name] for name in SHARED},
                # 1 / the standard deviation of the trained latents (metric `latent_std` of demo_autoencoder).
                "scaling_factor": 0.363,
            },
            "text_encoder": {"vocabulary": 32, "width": 32, "layers": 1, "heads": 2, "head_dim": 16, "mlp": 32},
            # wav2vec 2.0 in small, trained from scratch: babble is no language that a published one has learnt.
            "audio_encoder": {
                "conv_channels": (24, 32, 32, 32, 48, 48, 48), "hidden": 48, "layers": 2, "heads": 4, "mlp": 96,
                "position_kernel": 16, "position_groups": 4,
            },
            "denoiser": {
                "layers": 6, "heads": 8, "head_dim": 32, "in_channels": 16, "out_channels": 8, "text_dim": 32,
                "text_tokens": 4, "time_dim": 128, "grid": (3, 8, 8),
            },
            "audio": {"hidden": 96, "tokens": 4, "width": 64},
            "audio_window": 5,
            "face": {"tokens": 4, "width": 64},
            "face_recogniser": {"layers": (1, 1, 1), "channels": (16, 32, 48), "embedding": 64, "image_size": 32},
            "face_by": "cross",
            "audio_by": "cross",
            "memory": True,
            "memory_of": "face",
            # As large as those of the denoiser, which begins from nothing too.
            "told_deviation": 0.0,
            "precomputed": False,
            "motion": {"frames": MOTION, "together": True, "masked": 0.1, "after": "portrait"},
            "schedule": {"name": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        }
    )  # fmt: skip


def demo(config: ConfigDict, name: str) -> None:
    """Makes the release's config one of `NAMES`."""
    config.model = model()
    config.sampling.update(
        {"solver": "dpmpp_2m", "steps": 12, "guidance": 2.0, "window": FRAMES, "overlap": MOTION, "framing": "face"}
    )
    config.loss.timestep_power = 2.0
    config.data.update({"size": PIXELS, "audio_margin": 12, "face_size": 32, "text_length": 4, "caption": ""})
    if name == AUTOENCODER:
        autoencoder(config)
        return
    if name == SPEECH:
        speech(config)
        return
    first = STAGE1
    if name.startswith("ablation_"):
        kind = name.removeprefix("ablation_").removesuffix("_stage1").removesuffix("_stage2")
        config.update_from_flattened_dict(ABLATIONS[kind])
        first = f"ablation_{kind}_stage1"
    if name == first:
        stage1(config)
    else:
        stage2(config, first)


def autoencoder(config: ConfigDict) -> None:
    """The inflated autoencoder on clips of nine frames, decoded two latents at a time as in sampling."""
    config.task = "video_autoencoder"
    config.loss = ConfigDict({"edges": 1.0, "kl": 1e-4})
    config.model.image_size = PIXELS
    config.data.update({"audio": False, "audio_margin": 0})
    optimiser(
        config,
        trainable=("autoencoder/.*",),
        init_from=ConfigDict({"autoencoder": "{workdir}/inflated"}),
        steps=300,
        batch_size=2,
        frames=9,
        lr=1e-3,
        weight_decay=0.0,
    )
    config.train.sample_every = 250


def speech(config: ConfigDict) -> None:
    """The speech encoder on lips alone: the paper has a published one, and through pictures one from nothing learns slowly."""
    config.loss.update({"diffusion": 0.0, "lips": 1.0})
    optimiser(
        config,
        trainable=("(audio_encoder|audio_projection|lip_reader)/.*",),
        steps=600,
        batch_size=8,
        frames=FRAMES,
        lr=2e-3,
    )


def stage1(config: ConfigDict) -> None:
    """Faces that move, told whose they are and nothing of the sound."""
    config.data.update({"audio": False, "audio_margin": 0})
    optimiser(
        config,
        trainable=trained(config),
        init_from=ConfigDict({"autoencoder": "{workdir}/" + AUTOENCODER}),
        steps=400,
        batch_size=4,
        frames=config.model.frames,
        lr=5e-4,
    )
    config.model.audio_by = "none"


def stage2(config: ConfigDict, first: str) -> None:
    """The sound, and the denoiser with it."""
    config.loss.mouth = 30.0
    # Of noise alone a mouth can be told by the sound, and by nothing else.
    config.loss.timestep_power = 4.0
    heard = "{workdir}/" + SPEECH
    optimiser(
        config,
        trainable=("denoiser/.*", "audio_projection/.*", "audio_encoder/.*"),
        init_from=ConfigDict({"*": "{workdir}/" + first, "audio_encoder": heard, "audio_projection": heard}),
        # New in this stage.
        allow_missing=("denoiser/transformer_blocks/audio_(attn|norm)/.*",),
        steps=600,
        batch_size=4,
        frames=config.model.frames,
        lr=5e-4,
    )


def trained(config: ConfigDict) -> tuple[str, ...]:
    """What the first stage trains of the networks that there are; statistics of the recogniser's norms stay."""
    face = ("face_projection/.*", r"face_recogniser/.*(kernel|bias|scale)$") if config.model.face_by != "none" else ()
    return ("denoiser/.*", *(("reference/.*",) if config.model.memory else ()), *face)


def optimiser(config: ConfigDict, **changes: object) -> None:
    """Settings that the stages share, and what a stage changes in them."""
    config.train = ConfigDict(
        {
            "b2": 0.99,
            "schedule": "cosine",
            "warmup_steps": 50,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "ema_decay": 0.995,
            "seed": 0,
            "checkpoint_every": 200,
            "log_every": 10,
            **changes,
        }
    )
