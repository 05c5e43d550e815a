"""X-NeMo at published size: 512 pixels, latents 64×64×4, with the numbers of the release.

    python -m launch.convert import --layout xnemo --input RELEASE --output runs/xnemo

`released` runs the published weights as the original script does: 35 steps, guidance 2.5, a blurred start, faces taken to be
where the portrait's is. The paper's own numbers (appendix A, equation 2) are 25 steps and 1 + w = 4.5:

    --config.sampling.steps=25 --config.sampling.guidance=4.5 --config.model.blurred_start=False
"""

from ml_collections import ConfigDict

from portrait_jax.errors import ConfigError, nearest


def get_config(name: str = "released") -> ConfigDict:
    """`released` is what the published weights need."""
    if name != "released":
        raise ConfigError(f"configs/xnemo.py has no '{name}'{nearest(name, ['released'])}")
    return ConfigDict(
        {
            "task": "xnemo",
            "stage": name,
            "compute_dtype": "auto",
            "model": model(),
            "loss": {
                "motion": True,
                "temporal": False,
                "mask": 0.3,  # §3.3 and appendix B
                "drop": 0.1,
            },
            "sampling": {
                "solver": "ddim",
                "steps": 35,
                "guidance": 2.5,
                "spacing": "leading",
                "offset": 1,
                "previous": "stride",
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
            "denoiser": {"context_dim": 768},
            "temporal": {"max_length": 32, "name": "temporal_modules"},
            "motion": {"name": "motion_modules"},
            "motion_encoder": {"image_size": 224},
            # CLIP ViT-L/14; one projected token tells the portrait to both networks.
            "image_encoder": {"projection": 768},
            # beta_end of the release; Stable Diffusion's own is 0.012.
            "schedule": {"name": "scaled_linear", "beta_end": 0.02},
            "prediction": "epsilon",
        }
    )
