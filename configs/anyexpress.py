"""AnyExpress: Stable Diffusion 1.5, frozen, with a trained adapter that makes it speak. 512 pixels; demo size: `anyexpress_demo`.

Once, the networks that stay as they are (docs/convert.md; FILES are the published ones, or hub:org/name):

    python -m launch.convert import --layout sd15,animatediff_v2,ip_adapter_plus_face_sd15,wav2vec2_base_960h \\
        --input FILES --output pretrained/anyexpress
    python -m launch.convert import --layout clip_vision_vit_h --input FILE --output pretrained/image_encoder

then, with clips that `launch.prepare --config configs/prepare.py:video --config.size=512` made of HDTF or your own:

    python -m launch.train --config configs/anyexpress.py:stage1 --config.data.path=CLIPS --config.data.tokenizer=DIR \\
        --workdir runs/anyexpress
    python -m launch.train --config configs/anyexpress.py:stage2 --config.data.path=CLIPS --config.data.tokenizer=DIR \\
        --workdir runs/anyexpress

`paper` animates with what came out. Neither code nor weights were found of the paper, and nothing of this size has been
trained here: that parameters count as the paper's table says, and what trains, is tested from shapes. "Paper" below marks
what it fixes, "decision" what it leaves open and this file decides; each decision is a key.
"""

from ml_collections import ConfigDict

from configs import anyexpress_demo
from portrait_jax.errors import ConfigError, nearest

TRAINED_BLOCKS = ("down_blocks_0", "down_blocks_2", "up_blocks_1", "up_blocks_3")
"""Paper: the motion modules of the first and the last block of encoder and decoder; all of them overfit identities. Decision:
"three motion blocks" are the three levels with attention. The other reading (down 0 and 3, up 0 and 3) counts the same."""
SOUND = ("audio_projection/.*", "denoiser/.*audio_attention.*")
MOTION = f"denoiser/({'|'.join(TRAINED_BLOCKS)})/motion_modules_.*"


def get_config(stage: str = "paper") -> ConfigDict:
    """`stage1` and `stage2` train, `paper` animates; `demo_base`, `demo_speech`, `demo_voice`, `demo_stage1`, `demo_stage2`,
    `demo` and the ablation of the portrait's latents, `ablation_latents_base` and `ablation_latents`, are at demo size.
    """
    stages = {"stage1": stage1, "stage2": stage2, "paper": stage2, **anyexpress_demo.STAGES}
    if stage not in stages:
        raise ConfigError(f"configs/anyexpress.py has no '{stage}'{nearest(stage, list(stages))}")
    config = base()
    config.stage = stage
    stages[stage](config)
    return config


def base() -> ConfigDict:
    """What all stages share."""
    return ConfigDict(
        {
            "task": "anyexpress",
            "stage": "",
            "compute_dtype": "auto",
            "model": model(),
            "loss": {
                "temporal": True,
                "sound": True,
                # Paper: 0.1 each. Decision: drawn independently.
                "drop_reference": 0.1,
                "drop_text": 0.1,
                "drop_audio": 0.1,
                # Paper: the first 4 frames are clean ground truth. Decisions: they are not in the loss, and a tenth of the clips
                # has none, or the first window of a video would be unlike anything seen in training.
                "prefix": 4,
                "drop_prefix": 0.1,
                # The paper's loss alone; the demo begins with another.
                "diffusion": 1.0,
                "mouth": 0.0,
                "lips": 0.0,
                "teacher": 0.0,
            },
            "sampling": {
                # Paper: 30 steps, guidance 5, mimic guidance 3.5 with dynamic thresholding. Decisions: DDIM; timesteps 958, 925,
                # … 1; one joint scale that leads away from the negative prompt, nobody and no sound at once.
                "solver": "ddim",
                "steps": 30,
                "guidance": 5.0,
                "guidance_interval": (0.0, 1.0),
                "windows_per_batch": 1,
                "cache_every": 1,
                "cache_depth": 2,
                "decode_tile": 0,
                "decode_overlap": 0.25,
                "mimic": 3.5,
                # Decision: Imagen's percentile, over all free frames of a channel, lest frames flicker; on the ε-prediction.
                # The public implementation of mimic guidance has 1.0, which cuts off nothing, per frame.
                "percentile": 0.995,
                "threshold_axes": "clip",
                "spacing": "leading",
                "offset": 1,
                "previous": "stride",
                # Paper: windows go on from 4 clean frames. Decisions: 16 new frames beside them (the other reading is window 16);
                # fresh noise in every window; the anchor's statistics are those of the latents after each step (the algorithm's
                # words; the text names the UNet's blocks).
                "strategy": "prefix",
                "window": 20,
                "overlap": 4,
                "anchor": "latent",
                "anchor_strength": 1.0,
                "windows_per_chunk": 1,
                "noise_share": 0.0,
                "framing": "face",
                "alignment": "none",
            },
            "data": {
                "kind": "clips",
                "path": "",
                "size": 512,
                "latent_factor": 8,
                "drawing": "smooth",
                "frame_stride": (1, 1),
                "audio": True,
                # Decision: a second of sound on either side, which the speech encoder hears as context.
                "audio_margin": 25,
                # CLIP's, to train on captions: a folder or hub:org/name/tokenizer. Without it every clip has the empty prompt.
                "tokenizer": "",
                "text_length": 77,
                "caption": "a person talking",
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )


def model() -> ConfigDict:
    """Stable Diffusion 1.5 with IP-Adapter plus-face, AnimateDiff v2 and wav2vec2-base-960h; 272 million parameters train."""
    return ConfigDict(
        {
            "image_size": 512,  # paper
            "autoencoder": {"scaling_factor": 0.18215},
            "denoiser": {"context_dim": 768, "gradient_checkpointing": False},
            # Decisions: AnimateDiff v2; norms per frame, as the modules were trained and as no prefix or window length can
            # disturb (diffusers' class norms jointly: joint_norm).
            "temporal": {"num_heads": 8, "max_length": 32, "norm_groups": 32, "mid": True, "joint_norm": False},
            "text_encoder": {"hidden": 768},
            # Decision: "IP-Adapter-Face" is plus-face, on CLIP ViT-H/14; it leaves the base's attentions as they are, which FaceID
            # does not.
            "image_encoder": {
                "hidden": 1280,
                "layers": 32,
                "heads": 16,
                "mlp": 5120,
                "patch": 14,
                "image_size": 224,
                "projection": 1024,
                "activation": "gelu",
            },
            "image_prompt": {"kind": "plus", "tokens": 16, "width": 768, "depth": 4, "head_size": 64},
            # Paper: wav2vec 2.0. Decision: base-960h, all 12 layers, at video rate before its transformer.
            "audio_encoder": {"hidden": 768},
            # Decisions: Hallo's projection of 5 frames to 32 tokens, and one attention in each of the 16 transformers after its
            # cross-attention: with the motion modules 0.27 billion, where the paper's table says 0.3.
            "audio": {
                "reach": 2,
                "hidden": 512,
                "tokens": 32,
                "width": 768,
                "num_heads": 8,
                "scale": 1.0,
                "place": "after_attn2",
            },
            # Decision: AnimateDiff's linear schedule, not Stable Diffusion's.
            "schedule": {"name": "linear", "beta_start": 0.00085, "beta_end": 0.012},
            "prediction": "epsilon",
            "behaviour": {
                "fps": 25.0,
                "prefix_timestep": "shared",  # decision: the literal reading, one level per clip
                "identity_crop": 0.75,  # decision: of a square of twice the face
                "id_scale": 1.0,
                "control": "none",
                "control_scale": 1.0,  # paper: 0.6 to 1.1
                "clip_skip": 1,
                "portrait_latents": False,
                "posterior": True,
            },
        }
    )


def stage1(config: ConfigDict) -> None:
    """Paper: 180 000 steps of 16 clips of 20 frames, Adam at 1e-6; sound and motion modules together."""
    config.model.denoiser.gradient_checkpointing = True
    config.train = ConfigDict(
        {
            "trainable": (*SOUND, MOTION),
            "init_from": {"*": "pretrained/anyexpress", "image_encoder": "pretrained/image_encoder"},
            "allow_missing": SOUND,
            "steps": 180_000,
            "batch_size": 16,
            "frames": 20,
            "lr": 1e-6,
            # Decisions: no decay, constant rate, gradients clipped at norm 1, no moving average.
            "b1": 0.9,
            "b2": 0.999,
            "weight_decay": 0.0,
            "schedule": "constant",
            "clip_norm": 1.0,
            "seed": 0,
            "checkpoint_every": 1000,
            "log_every": 50,
        }
    )


def stage2(config: ConfigDict) -> None:
    """Paper: motion modules begin anew from AnimateDiff's, the sound goes on; 30 000 steps. Decision: a fresh optimiser."""
    stage1(config)
    config.train.init_from = ConfigDict({"*": "{workdir}/stage1"})
    config.train.update(
        {
            "restore": ("denoiser/.*motion_modules_.*",),
            "restore_from": "pretrained/anyexpress",
            "allow_missing": (),
            "steps": 30_000,
        }
    )
