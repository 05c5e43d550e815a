"""X-NeMo at published size: 512 pixels, latents 64×64×4, with the numbers of the release.

    python -m launch.convert import --layout xnemo --input RELEASE --output runs/xnemo

`released` runs the published weights as the original script does: 35 steps, guidance 2.5, a blurred start, faces taken to be
where the portrait's is. The paper's own numbers (appendix A, equation 2) are 25 steps and 1 + w = 4.5:

    --config.sampling.steps=25 --config.sampling.guidance=4.5 --config.model.blurred_start=False

The rest trains it. Once, the networks that it starts from (docs/convert.md; FILES are the published ones, or hub:org/name):

    python -m launch.convert import --layout sd15_unet,animatediff_v2 --input FILES --output pretrained/denoiser
    python -m launch.convert import --layout sd15_unet --subnet reference --input FILE --output pretrained/reference
    python -m launch.convert import --layout sd15_vae --input FILE --output pretrained/autoencoder
    python -m launch.convert import --layout clip_vision_vit_l --input FILE --output pretrained/image_encoder
    python -m launch.convert import --layout resnet50 --input FILE --output pretrained/appearance_encoder

then, with clips that `launch.prepare --config configs/prepare.py:video --config.size=512` made of HDTF, VFHQ, NeRSemble or
your own:

    python -m launch.train --config configs/xnemo.py:stage1 --config.data.path=CLIPS --workdir runs/xnemo

and alike `stage2` and `stage3`; `trained` animates the result. The paper publishes no training code; what it leaves open is
marked so (docs/xnemo.md).
"""

from ml_collections import ConfigDict

from portrait_jax.adversarial.head import ADVERSARY, TRAINABLE

TEMPORAL_PATHS = "denoiser/.*temporal_modules.*"


def base() -> ConfigDict:
    """The release: what the published weights need."""
    return ConfigDict(
        {
            "task": "xnemo",
            "stage": "",
            "compute_dtype": "auto",
            "model": model(),
            "loss": {
                "diffusion": 1.0,
                "motion": True,
                "temporal": False,
                "head": False,
                "end_to_end": True,
                "mask": 0.3,  # §3.3 and appendix B
                "drop": 0.1,  # open in the paper
            },
            # §3.3 names the changes; their strengths, but for the scale, are open.
            "augmentation": {
                "brightness": 0.4,
                "contrast": 0.4,
                "saturation": 0.4,
                "hue": 0.1,
                "scale": 0.3,
                "uneven": 0.5,
                "bend": 0.03,
            },
            "sampling": {
                "solver": "ddim",
                "steps": 35,
                "guidance": 2.5,
                "guidance_interval": (0.0, 1.0),
                "windows_per_batch": 1,
                "cache_every": 1,
                "cache_depth": 2,
                "decode_tile": 0,
                "decode_overlap": 0.25,
                "spacing": "leading",
                "offset": 1,
                "previous": "stride",
                "strategy": "shifted",
                "window": 24,
                "overlap": 4,
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        }
    )


def model() -> ConfigDict:
    """Stable Diffusion 1.5's sizes, with modules at all 21 layers; the defaults of the classes are the published ones."""
    return ConfigDict(
        {
            "image_size": 512,
            # Stable Video Diffusion's; sd-vae-ft-mse decodes frame by frame with temporal_decoder=False.
            "autoencoder": {"scaling_factor": 0.18215},
            "temporal_decoder": True,
            "blurred_start": True,
            "portrait_latents": False,
            # How motion reaches the denoiser; "map" is what table 2 compares it with.
            "control": "attention",
            "denoiser": {"context_dim": 768},
            "temporal": {"max_length": 32, "name": "temporal_modules"},
            "motion": {"name": "motion_modules"},
            "motion_encoder": {"image_size": 224},
            # CLIP ViT-L/14; one projected token tells the portrait to both networks.
            "image_encoder": {"projection": 768},
            # beta_end of the release; Stable Diffusion's own is 0.012.
            "schedule": {"name": "scaled_linear", "beta_end": 0.02},
            "prediction": "epsilon",
            # Equations 3 to 7; sizes are StyleGAN2's at 256 pixels and ResNet-50's (appendix A; the resolution is open).
            "head": {
                "vgg19": "authors",  # or "torchvision": whose weights `init_from.vgg19` names
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
        }
    )


def released(config: ConfigDict) -> None:
    """The release has no training; its script frames portraits so, and overwrites how far faces moved."""
    config.sampling.update({"framing": "box", "alignment": "in_place"})


def stage1(config: ConfigDict) -> None:
    """Both UNets on pictures, the denoiser without motion and time (§4.1): a face anew from another frame of its clip."""
    config.loss.motion = False
    config.model.denoiser.gradient_checkpointing = True
    # Trained with the autoencoder of Stable Diffusion, whose latents are those of the release's decoder.
    config.model.temporal_decoder = False
    # The release's norms have stored statistics, which nothing measures here, and its bottleneck's ReLU can die for good in an
    # encoder that starts from nothing (docs/xnemo.md); one that goes on from the release takes this back.
    config.model.motion_encoder.update({"batch_norms": False, "norm_groups": 4, "leak": 0.2})
    config.data = ConfigDict({"kind": "faces", "path": "", "size": 512, "latent_factor": 8, "frame_stride": (1, 1)})
    config.train = ConfigDict(
        {
            "trainable": ("denoiser/(?!.*(motion|temporal)_modules).*", "reference/.*"),
            "init_from": {
                "denoiser": "pretrained/denoiser",
                "reference": "pretrained/reference",
                "autoencoder": "pretrained/autoencoder",
                "image_encoder": "pretrained/image_encoder",
            },
            # AnimateDiff's modules; here motion modules are those that tell what a face does.
            "rename": {"motion_modules": "temporal_modules"},
            "allow_missing": ("denoiser/.*motion_modules.*",),
            # The reference net ends inside its last transformer.
            "allow_unused": (
                "reference/(conv_norm_out|conv_out)/",
                "reference/up_blocks_3/attentions_2/",
            ),
            "steps": 30_000,  # open in the paper
            "batch_size": 64,  # §4.1
            "frames": 1,
            "lr": 1e-5,  # §4.1; AdamW's other numbers are open
            "warmup_steps": 500,
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


def stage2(config: ConfigDict) -> None:
    """Motion, end to end: the motion encoder, its attention, both UNets and the GAN head (§3.3)."""
    stage1(config)
    config.loss.update({"motion": True, "head": True})
    config.train.init_from = ConfigDict(
        {
            "*": "{workdir}/stage1",
            "appearance_encoder": "pretrained/appearance_encoder",  # ResNet-50; which weights is open in the paper
            "vgg19": "",
            "vggface": "",
        }
    )
    config.train.rename = ConfigDict()
    config.train.update(
        {
            # Both UNets too: the published denoiser differs from its base everywhere. Stored statistics of norms stay.
            "trainable": (
                "denoiser/(?!.*temporal_modules).*",
                "reference/.*",
                r"motion_encoder/.*/(kernel|scale|bias)$",
                *TRAINABLE,
            ),
            "allow_missing": (),
            "allow_unused": (),
            "adversary": {"trainable": ADVERSARY, "b1": 0.0},
        }
    )


def stage3(config: ConfigDict) -> None:
    """The temporal modules alone, on clips of 24 frames, from AnimateDiff's (§4.1)."""
    stage1(config)
    config.loss.update({"motion": True, "temporal": True})
    config.train.init_from = ConfigDict({"*": "{workdir}/stage2"})
    config.train.rename = ConfigDict()
    config.train.update(
        {
            "trainable": (TEMPORAL_PATHS,),
            "allow_missing": (),
            "allow_unused": (),
            "steps": 10_000,  # open in the paper
            "batch_size": 16,  # §4.1
            "frames": 24,  # §4.1
        }
    )


def trained(config: ConfigDict) -> None:
    """Animates what the three stages made."""
    stage3(config)
    released(config)


STAGES = {"released": released, "stage1": stage1, "stage2": stage2, "stage3": stage3, "trained": trained}
