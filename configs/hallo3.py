"""Hallo3 at published size: 49 frames of 480×720 pixels, latents 13×60×90×16; demo size: `hallo3_demo`.

    python -m launch.convert import --layout hallo3 --input RELEASE --output runs/hallo3

`released` runs the published weights as the original's script does: 50 steps of a stochastic second-order solver, guidance 3.5,
each clip going on from two frames. In bfloat16 the parameters are 29 GB for both transformers and 10 GB for the prompt encoder.
"""

from ml_collections import ConfigDict

from configs import hallo3_demo
from portrait_jax.errors import ConfigError, nearest

# What trains, by the code that made the release (`disable_untrainable_params`) …
JOINT = r"(denoiser|reference)/transformer_blocks/(attn1/to_.*|norm2/norm/.*)"
FACE = (r"denoiser/transformer_blocks/face_(attn|norm)/.*", r"face_projection/.*")
SOUND = (r"denoiser/transformer_blocks/audio_(attn|norm)/.*", r"audio_projection/.*")
TRAINABLE = {"stage1": (JOINT, *FACE), "stage2": SOUND}
# … and by the paper (§3.4): attention alone.
PAPER = {
    "stage1": (r"(denoiser|reference)/transformer_blocks/attn1/to_.*", r"denoiser/transformer_blocks/face_attn/to_.*"),
    "stage2": (r"denoiser/transformer_blocks/audio_attn/to_.*",),
}
FULL_SIZE = ("released", "stage1", "stage2", "paper_stage1", "paper_stage2")
NAMES = (*FULL_SIZE, *hallo3_demo.NAMES)


def get_config(name: str = "released") -> ConfigDict:
    """`released` is what the published weights need; `stage1`, `stage2` train as it was trained, `paper_…` as the paper says;
    `demo_autoencoder`, `demo_speech`, `demo_stage1`, `demo_stage2` and `demo` are at demo size, and so is `ablation_…`
    (`hallo3_ablations`)."""
    if name not in NAMES:
        raise ConfigError(f"configs/hallo3.py has no '{name}'{nearest(name, NAMES)}")
    config = ConfigDict(
        {
            "task": "hallo3",
            "stage": name,
            "compute_dtype": "auto",
            "model": model(),
            "loss": {
                "text_drop": 0.1,
                "audio_drop": 0.05,
                "reference_drop": 0.05,
                "known_drop": 0.05,
                "timestep_power": 1.0,
                "noise": (-3.0, 0.5),
                "diffusion": 1.0,
                "mouth": 0.0,
                "lips": 0.0,
            },
            "sampling": {
                "solver": "sde_dpmpp_2m",
                "steps": 50,
                # The release names a guidance that grows with the steps and then overwrites it.
                "guidance": 3.5,
                "guidance_interval": (0.0, 1.0),
                "windows_per_batch": 1,
                "cache_every": 1,
                "cache_depth": 2,
                "decode_tile": 0,
                "decode_overlap": 0.25,
                "spacing": "open",
                "strategy": "continued",
                "window": 49,
                "overlap": 2,
                "windows_per_chunk": 1,
                # Pictures of 3:2 fill the frame, square ones lie in its middle on black bars; the release asks for one of both.
                "framing": "cover",
            },
            # Square frames, which get black bars on both sides as the release's do.
            "data": {
                "kind": "speakers",
                "path": "",
                "size": 480,
                "audio": True,
                # A second of sound on either side, which the speech encoder hears as context.
                "audio_margin": 25,
                "face_size": 112,
                "tokenizer": "",
                "text_length": 226,
                "caption": "a person talking",
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )
    if name in hallo3_demo.NAMES:
        hallo3_demo.demo(config, name)
    elif name != "released":
        train(config, name)
    return config


def train(config: ConfigDict, name: str) -> None:
    """§4.1 and configs/sft_s1.yaml, sft_s2.yaml: both stages alike but for what trains and what the denoiser hears."""
    stage = name.removeprefix("paper_")
    by_paper = name.startswith("paper_")
    # Imports of CogVideoX-5B-I2V's files; both transformers begin as its (docs/hallo3.md).
    networks = ("denoiser", "reference", "autoencoder", "text_encoder", "face_recogniser")
    sources = {name: f"pretrained/{name}" for name in networks}
    if stage == "stage1":
        config.model.audio_by = "none"
        config.data.update({"audio": False, "audio_margin": 0})
    else:
        sources = {"*": "{workdir}/" + name.replace("stage2", "stage1"), "audio_encoder": "pretrained/audio_encoder"}
    config.train = {
        "trainable": (PAPER if by_paper else TRAINABLE)[stage],
        "steps": 20_000 if by_paper else 30_000,
        "batch_size": 64,  # one on each of 64 A100
        "frames": 49,
        "lr": 1e-5,
        "b2": 0.95,
        "weight_decay": 1e-4,
        "no_decay": (".*/(bias|scale)$",),  # as the release
        "clip_norm": 0.1,
        "warmup_steps": 300,
        "schedule": "linear",
        "ema_decay": 0.9999,
        "init_from": sources,
        # 13 billion parameters that do not train in the first stage, 17 in the second; the release has them in bfloat16, but for
        # wav2vec's 0.1 billion.
        "frozen_dtype": "bfloat16",
        # New in a stage: the base knows neither a person's tokens nor, in the second, sound.
        "allow_missing": FACE if stage == "stage1" else SOUND,
    }
    if by_paper:
        config.model.motion.update({"together": False, "masked": 0.25})  # §3.3, §4.1
        config.model.memory_of = "portrait"  # §3.3, figure 2
        config.model.audio.joined = "mean"  # §3.2: three linear layers
        # Guidance needs clips without prompt and sound, of which the paper does not speak; the rest is the release's.
        config.loss.update({"known_drop": 0.0, "reference_drop": 0.0, "noise": None})


def model() -> ConfigDict:
    """CogVideoX-5B-I2V's sizes; the defaults of the classes are the published ones."""
    return ConfigDict(
        {
            "height": 480,
            "width": 720,
            "frames": 49,
            "fps": 25.0,
            "autoencoder": {"scaling_factor": 0.7},
            "text_encoder": {"width": 4096},
            "audio_encoder": {"hidden": 768, "layers": 12},
            # The last norm of the original; diffusers' has 1e-5. In training only the input of every block is kept.
            "denoiser": {"layers": 42, "out_eps": 1e-6, "remat": "full"},
            "audio": {"tokens": 32, "width": 768, "joined": "convolution"},
            "audio_window": 5,
            "face": {"tokens": 4, "width": 1024},
            # glintr100, whose vector is taken as it is.
            "face_recogniser": {"layers": (3, 13, 30, 3)},
            # How frames are told (tables 4 and 5): "cross", "self", "adaln", "adaln_zero" or "none"; and the reference transformer.
            "face_by": "cross",
            "audio_by": "cross",
            "memory": True,
            "memory_of": "face",
            # Megatron's, with which the release's new layers began; their output's is smaller by √(2 · 42).
            "told_deviation": 0.02,
            # Whether prompts, sound and faces come encoded, from data of one's own: no encoders then.
            "precomputed": False,
            # Of the paper: every motion frame a latent frame of its own (§3.3), 0.25 of their pixels masked (§4.1).
            "motion": {"frames": 2, "together": True, "masked": 0.1, "after": "zeros"},
            # Zero terminal SNR is made where it is needed: of the table in training, of the levels chosen in sampling.
            "schedule": {"name": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        }
    )
