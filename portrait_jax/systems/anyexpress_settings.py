"""How AnyExpress is trained and used: what is no size of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from portrait_jax.adapters.image_prompt import ImagePromptConfig
from portrait_jax.autoencoders.kl import KLConfig
from portrait_jax.backbones.unet import UNetConfig
from portrait_jax.encoders.clip_text import CLIPTextConfig
from portrait_jax.encoders.clip_vision import CLIPVisionConfig
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.nn.slots import Slot, level_residual_slot, skip_residual_slots

CONTROLS: Mapping[str, tuple[Slot, ...]] = MappingProxyType(
    {"none": (), "t2i_adapter": (level_residual_slot(),), "controlnet": skip_residual_slots()}
)
"""What reads control pictures → what it adds to the denoiser."""
CONTROL_NETWORKS: Mapping[str, str] = MappingProxyType({"pose_adapter": "t2i_adapter", "controlnet": "controlnet"})
"""Sub-network → which of `CONTROLS` it is."""
PREFIX_TIMESTEPS = ("shared", "zero")
IDENTITIES = ("plus", "full", "plain")


@dataclass(frozen=True)
class LossConfig:
    """Training, with the paper's numbers."""

    temporal: bool = True
    """Whether the frames of a clip see each other; False: single frames, a warm-up that the paper does not have."""
    sound: bool = True
    """Whether frames are heard; False makes a base from nothing."""
    drop_reference: float = 0.1
    """Share of clips trained without identity, without text, without sound; drawn independently."""
    drop_text: float = 0.1
    drop_audio: float = 0.1
    prefix: int = 4
    """Clean frames at the beginning of a clip."""
    drop_prefix: float = 0.1
    """Share of clips with none, as the first window of a video has none."""
    diffusion: float = 1.0
    """Weight of the diffusion loss; 0 leaves the image model out, for a warm-up that the paper does not have."""
    mouth: float = 0.0
    """How much more an error counts in the middle of the mouth than far from it; 0, the paper's, weighs all alike."""
    teacher: float = 0.0
    """Weight of `landmark_teacher.teacher_loss`, for another such; beside the diffusion loss, on single frames."""
    lips: float = 0.0
    """Weight of `training.lips.lip_loss`, for that warm-up."""

    def __post_init__(self) -> None:
        if self.teacher and not self.mouth:
            raise ConfigError("loss.teacher weighs mouths as the diffusion loss does; set loss.mouth too")
        if not self.diffusion and (self.mouth or not self.lips):
            raise ConfigError("loss.diffusion 0 leaves nothing to learn but loss.lips; set that alone")


@dataclass(frozen=True)
class Behaviour:
    """What is no size and no number of training: how the parts are used."""

    fps: float = 25.0
    """Of training clips."""
    prefix_timestep: str = "shared"
    """What clean frames are said to be: of the noise level of the "shared" timestep, or of "zero"."""
    identity_crop: float = 0.75
    """Share of the square portrait, about its middle, that the image encoder sees: its face."""
    id_scale: float = 1.0
    """0 … 1.5: how strongly the portrait speaks; at 0 the prompt alone says who it is."""
    control: str = "none"
    """What reads control pictures: a name of `CONTROLS`."""
    control_scale: float = 1.0
    clip_skip: int = 1
    """Which layer of the text encoder is read, from its end; many personalised models of drawn people want 2."""
    portrait_latents: bool = False
    """Whether the portrait's latents stand beside the noisy ones: not in the paper, where the base must stay as it is."""
    posterior: bool = True
    """Whether training draws latents from the autoencoder's Gaussian; False: its means."""

    def __post_init__(self) -> None:
        if self.prefix_timestep not in PREFIX_TIMESTEPS:
            raise ConfigError(
                f"model.behaviour.prefix_timestep '{self.prefix_timestep}' does not exist"
                f"{nearest(self.prefix_timestep, PREFIX_TIMESTEPS)}"
            )
        if self.control not in CONTROLS:
            raise ConfigError(
                f"model.behaviour.control '{self.control}' does not exist{nearest(self.control, list(CONTROLS))}"
            )


def check_sizes(
    autoencoder: KLConfig,
    denoiser: UNetConfig,
    text: CLIPTextConfig,
    image_encoder: CLIPVisionConfig,
    prompt: ImagePromptConfig,
    image_size: int,
) -> None:
    """Raises ConfigError where two sizes that must agree do not, or an identity needs more than a picture."""
    if prompt.kind not in IDENTITIES:
        raise ConfigError(
            f"model.image_prompt.kind '{prompt.kind}' is none that a picture alone gives{nearest(prompt.kind, IDENTITIES)}"
        )
    if prompt.kind == "plain" and image_encoder.projection is None:
        raise ConfigError("a plain image prompt reads the image encoder's embedding; give it a projection")
    pairs = {
        "denoiser.in_channels and autoencoder.latent_channels": (denoiser.in_channels, autoencoder.latent_channels),
        "denoiser.out_channels and autoencoder.latent_channels": (denoiser.out_channels, autoencoder.latent_channels),
        "denoiser.context_dim and text_encoder.hidden": (denoiser.context_dim, text.hidden),
        "denoiser.context_dim and image_prompt.width": (denoiser.context_dim, prompt.width),
        "image_size and its multiple of the autoencoder's stride": (
            image_size, image_size // autoencoder.stride * autoencoder.stride,
        ),
    }  # fmt: skip
    for what, (one, other) in pairs.items():
        if one != other:
            raise ConfigError(f"{what} must be equal, not {one} and {other}")
