"""Follow-Your-Emoji (Ma et al., SIGGRAPH Asia 2024): a portrait driven by expression-aware landmarks.

A Stable Diffusion denoiser with temporal modules is told three things: whose face it is, by a reference net whose
self-attention inputs join the denoiser's keys and values, and by image tokens that take the place of text; and what the
face does, by landmark drawings that a small convolutional guider turns into a residual after the first convolution.
Section numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange

from portrait_jax.adapters.image_prompt import ImagePromptConfig, Resampler
from portrait_jax.adapters.landmark_guider import LandmarkGuider, LandmarkGuiderConfig
from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig
from portrait_jax.autoencoders.pixels import cut, to_pm1, worn
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning, dropped
from portrait_jax.diffusion.prediction import check_prediction, to_x0_epsilon, training_target
from portrait_jax.diffusion.schedule import Schedule, make_schedule, signal_noise
from portrait_jax.encoders.clip_vision import CLIPVision, CLIPVisionConfig, clip_pixels
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.long_video.known import check_masking, sample_given, tell
from portrait_jax.nn.temporal import TemporalConfig
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.systems.diffusing import LatentDiffusion, noised
from portrait_jax.systems.strips import few, sample_strip
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Image, Num, Params, PRNGKeyArray, UInt8

PROGRESSIVE = {"none": (), "masked_latents": ("known", "given"), "masked_latents_only": ("known",)}
"""`model.progressive` → what is joined to the denoiser's noisy latents (§3.3): nothing, as in the release; masked clean latents
and a mask channel; or the paper's words to the letter, masked clean latents alone."""
MASKS = ("expression_mask", "oval_mask")
"""M_e and M_f of the facial fine-grained loss (§3.2)."""
IMAGE_PROMPTS = ("linear", "resampler")
"""`model.image_prompt.kind`: how the image encoder's tokens reach cross-attention, see `image_prompt`."""


@dataclass(frozen=True)
class LossConfig:
    """Section 3.2; what the paper leaves open is named so."""

    facial: float = 1.0
    """Weight of the facial fine-grained loss; 0 is the plain diffusion loss."""
    masks: tuple[str, ...] = MASKS
    """What that loss looks at, arrays of a batch: a cell counts with the square of how many of them hold it."""
    temporal: bool = False
    """Whether the frames of a clip see each other: the second stage."""
    drop: float = 0.1
    """Share of clips trained without image tokens and reference (open in the paper; needed for guidance)."""
    masking: str = "mixed"
    """Which frames of a clip are given where the model is progressive (§3.3): a name of `long_video.known.MASKINGS`."""
    blank: float = 0.0
    """Share of such clips with no given frame, which is how keyframes are made (the paper trains none on purpose)."""

    def __post_init__(self) -> None:
        check_masking(self.masking, self.blank)
        for mask in self.masks:
            if mask not in MASKS:
                raise ConfigError(f"loss.masks has '{mask}', which no batch has{nearest(mask, MASKS)}")


@dataclass(frozen=True, eq=False)
class FollowYourEmoji(LatentDiffusion):
    """The system at any size; built from a config by `from_config`."""

    autoencoder_config: KLConfig
    denoiser_config: UNetConfig
    guider_config: LandmarkGuiderConfig
    image_encoder_config: CLIPVisionConfig
    schedule: Schedule
    loss_config: LossConfig
    sampling: SamplingConfig
    stages: Mapping[str, Stage]
    image_size: int
    drawing_style: str
    """How landmarks are drawn, see `face.drawing`."""
    dtype: Any
    prediction: str = "v"
    """What the denoiser predicts, see `diffusion.prediction`."""
    whole_levels: bool = False
    """Whether pictures pass through 8-bit levels where the release's do: before CLIP, before the autoencoder and after it."""
    image_prompt_config: ImagePromptConfig | None = None
    """The paper's Q-Former between image encoder and both networks (§3); None: a linear layer in each, as in the release."""
    name: str = "follow_your_emoji"

    driven_by: ClassVar[str] = "landmarks"
    batch_keys: ClassVar[tuple[str, ...]] = ("frames", "reference", "control", "expression_mask", "oval_mask")
    """What `loss` reads of a batch."""

    def __post_init__(self) -> None:
        """Raises ConfigError where two sizes that must agree do not, and where prediction and schedule do not fit."""
        check_prediction(self.prediction)
        if self.prediction == "epsilon" and self.schedule.alpha_bar[-1] == 0:
            raise ConfigError(
                "model.prediction 'epsilon' says nothing about the clean latent where there is noise alone; use 'v', or "
                "set model.schedule.zero_terminal_snr to False"
            )
        autoencoder, denoiser, guider = self.autoencoder_config, self.denoiser_config, self.guider_config
        tokens = denoiser.image_prompt_dim or denoiser.context_dim
        prompt = self.image_prompt_config
        pairs = {
            "denoiser.in_channels and autoencoder.latent_channels": (denoiser.in_channels, autoencoder.latent_channels),
            "denoiser.out_channels and autoencoder.latent_channels": (denoiser.out_channels, autoencoder.latent_channels),
            "guider.out_channels and denoiser.block_out_channels[0]": (guider.out_channels, denoiser.block_out_channels[0]),
            "the strides of guider and autoencoder": (guider.stride, autoencoder.stride),
            "denoiser.image_prompt_dim and image_encoder.hidden": (
                (tokens, self.image_encoder_config.hidden) if prompt is None else (tokens, prompt.width)
            ),
            "image_size and its multiple of the autoencoder's stride": (
                self.image_size, self.image_size // autoencoder.stride * autoencoder.stride,
            ),
        }  # fmt: skip
        for what, (one, other) in pairs.items():
            if one != other:
                raise ConfigError(f"{what} must be equal, not {one} and {other}")

    @classmethod
    def from_config(cls, config: Any) -> FollowYourEmoji:
        """Builds the system from `configs/follow_your_emoji.py`; raises `ConfigError` naming the wrong key."""
        model = config.model
        prompt = image_prompt(model.get("image_prompt", {"kind": "linear"}), model.denoiser)
        dim = model.denoiser.get("image_prompt_dim") if prompt is None else None
        return cls(
            autoencoder_config=from_mapping(KLConfig, model.autoencoder),
            denoiser_config=from_mapping(
                UNetConfig,
                model.denoiser,
                temporal=from_mapping(TemporalConfig, model.temporal),
                joined_inputs=joined_inputs(model.get("progressive", "none"), model.get("portrait_latents", False)),
                image_prompt_dim=dim,
            ),
            guider_config=from_mapping(LandmarkGuiderConfig, model.guider),
            image_encoder_config=from_mapping(CLIPVisionConfig, model.image_encoder),
            schedule=make_schedule(**model.schedule),
            loss_config=from_mapping(LossConfig, config.loss),
            sampling=from_mapping(SamplingConfig, config.sampling),
            stages={config.stage: Stage.from_config(config.train)},
            image_size=model.image_size,
            drawing_style=model.drawing_style,
            dtype=compute_dtype(config.compute_dtype),
            prediction=model.get("prediction", "v"),
            whole_levels=model.get("whole_levels", False),
            image_prompt_config=prompt,
        )

    # The networks. All are plain functions of their parameters; building one costs nothing.

    @property
    def autoencoder(self) -> AutoencoderKL:
        return AutoencoderKL(self.autoencoder_config, dtype=self.dtype)

    @property
    def denoiser(self) -> UNet:
        return UNet(self.denoiser_config, dtype=self.dtype)

    @property
    def reference(self) -> UNet:
        """The appearance net (§3.1): the denoiser's layout in 2-D, without an output head."""
        config = replace(self.denoiser_config, temporal=None, output_head=False, joined_inputs=())
        return UNet(config, dtype=self.dtype)

    @property
    def guider(self) -> LandmarkGuider:
        return LandmarkGuider(self.guider_config, dtype=self.dtype)

    @property
    def image_encoder(self) -> CLIPVision:
        return CLIPVision(self.image_encoder_config, dtype=self.dtype)

    @property
    def resampler(self) -> Resampler:
        """Reads the image encoder's tokens where there is an `image_prompt_config`."""
        assert self.image_prompt_config is not None
        return Resampler(self.image_prompt_config, dtype=self.dtype)

    def init(self, rng: PRNGKeyArray, stage: str = "") -> Params:
        """Fresh parameters of all networks; reference net and denoiser share theirs, as both originals start from one.

        Flax derives a leaf's random numbers from its path, so that one key gives equal leaves where the paths are equal.
        """
        h, w, c = self.latent_shape()
        keys = dict(zip(("autoencoder", "image_encoder", "guider", "unet"), jax.random.split(rng, 4)))
        image = jnp.zeros((1, self.image_size, self.image_size, 3))
        latent, time = jnp.zeros((1, 1, h, w, c)), jnp.zeros((1,))
        tokens, encoder = self.image_encoder.init_with_output(keys["image_encoder"], self._pixels(image))
        control = self.guider.init_with_output(keys["guider"], image[:, None])
        prompt = {}
        if self.image_prompt_config is not None:
            tokens, made = self.resampler.init_with_output(jax.random.fold_in(rng, 4), tokens)
            prompt = {"image_prompt": made["params"]}
        condition = Conditioning(image_tokens=tokens, spatial=control[0])
        return prompt | {
            "autoencoder": self.autoencoder.init(keys["autoencoder"], image)["params"],
            "image_encoder": encoder["params"],
            "guider": control[1]["params"],
            "reference": self.reference.init(keys["unet"], latent, time, condition, capture=True)["params"],
            "denoiser": self.denoiser.init(keys["unet"], latent, time, condition)["params"],
        }

    # Conditioning

    def encode_portrait(self, params: Params, portrait_u8: UInt8[Array, "b h w 3"]) -> Conditioning:
        """Image tokens and reference features, once per clip.

        The reference net sees the clean latent at timestep 0 and the same tokens as the denoiser.
        """
        image = to_pm1(portrait_u8)
        tokens = self.image_encoder.apply({"params": params["image_encoder"]}, self._pixels(image))
        if self.image_prompt_config is not None:
            tokens = self.resampler.apply({"params": params["image_prompt"]}, tokens)
        latent = self.to_latents(params, (to_pm1(worn(portrait_u8)) if self.whole_levels else image)[:, None])
        time = jnp.zeros((image.shape[0],))
        _, reference = self.reference.apply(
            {"params": params["reference"]}, latent, time, Conditioning(image_tokens=tokens), capture=True
        )
        shared = {path: rearrange(features, "b 1 n d -> b n d") for path, features in reference.items()}
        return Conditioning(image_tokens=tokens, reference=shared, portrait=latent[:, 0])

    def encode_driving(
        self, params: Params, portrait: Conditioning, driving: Mapping[str, Array]
    ) -> dict[str, Conditioning]:
        """Landmark features of `driving["control"]`, u8 "b f h w 3", for both guidance branches.

        The unconditional branch keeps the landmarks: guidance acts on identity alone, as in the release
        (models/video_pipeline.py).
        """
        control = driving["control"].astype(jnp.float32) / 255
        spatial = self.guider.apply({"params": params["guider"]}, control)
        cond, keep = portrait.replace(spatial=spatial), jnp.ones((spatial.shape[0],))
        return {"cond": dropped(cond, keep), "uncond": dropped(cond, 0 * keep)}

    def denoise(
        self, params: Params, noisy: Float[Array, "b f h w c"], timestep: Num[Array, " b"], conditioning: Conditioning
    ) -> Any:
        """The network's output "b f h w c", of the kind that `prediction` names; see `System.denoise`."""
        return self.denoiser.apply({"params": params["denoiser"]}, noisy, timestep, conditioning)

    def decode(self, params: Params, latents: Float[Array, "b f h w c"]) -> Float[Array, "b f H W 3"]:
        """Latents → images in [−1, 1], frame by frame."""
        images = super().decode(params, latents)
        return cut(images) if self.whole_levels else images

    def _pixels(self, image_pm1: Float[Array, "b h w 3"]) -> Float[Array, "b s s 3"]:
        return clip_pixels(image_pm1, self.image_encoder_config.image_size, whole_levels=self.whole_levels)

    # Training

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Section 3.2: the diffusion loss plus the facial fine-grained loss on the predicted clean latent.

        Without temporal modules (the first stage) every frame has a noise level of its own, so that several targets share
        one pass of the reference net; a temporal stage has one level per clip. Batch: see `docs/data.md`.
        """
        temporal = self.loss_config.temporal
        keys = jax.random.split(rng, 3)
        latents = jax.lax.stop_gradient(self.to_latents(params, to_pm1(batch["frames"])))
        clips, frames = latents.shape[:2]
        portrait = self.encode_portrait(params, batch["reference"])
        keep = jax.random.bernoulli(keys[0], 1 - self.loss_config.drop, (clips,)).astype(jnp.float32)
        conditioning = self.encode_driving(params, portrait, {"control": batch["control"]})["cond"]
        if temporal and "known" in self.denoiser_config.joined_inputs:
            given = sample_given(
                jax.random.fold_in(rng, 3), clips, frames, self.loss_config.masking, self.loss_config.blank
            )
            conditioning = tell(conditioning, latents, given)

        clean, noise, noisy, timestep = noised(
            self.schedule, latents, keys[1], keys[2], temporal=temporal, share=self.sampling.noise_share
        )
        output = self.denoiser.apply(
            {"params": params["denoiser"]}, rearrange(noisy, "(b f) h w c -> b f h w c", f=frames), timestep,
            dropped(conditioning, keep), use_temporal=temporal,
        )  # fmt: skip
        output = rearrange(output, "b f h w c -> (b f) h w c").astype(jnp.float32)

        alpha, sigma = signal_noise(self.schedule, timestep, clean.ndim)
        target = training_target(self.prediction, clean, noise, alpha, sigma)
        predicted, _ = to_x0_epsilon(self.prediction, noisy, output, alpha, sigma)
        weight = sum((batch[mask] for mask in self.loss_config.masks), jnp.zeros((clips, frames, 1, 1, 1)))
        masked = rearrange(weight, "b f h w 1 -> (b f) h w 1") * (predicted - clean)
        diffusion, facial = ((output - target) ** 2).mean(), (masked**2).mean()
        loss = diffusion + self.loss_config.facial * facial
        return loss, {"diffusion": diffusion, "facial": facial}

    def samples(self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str) -> dict[str, Image]:
        """Rows of truth, control image and sample for a few clips."""
        seen = few(batch)
        control = seen["control"]
        return {"clips": sample_strip(self, params, seen, {"control": control}, rng, shown=control)}


def joined_inputs(progressive: str, portrait: bool) -> tuple[str, ...]:
    """The portrait's latents if told, then what `model.progressive` stands for; raises ConfigError with the nearest name.

    In this order a first convolution that has learnt without masked latents is widened by zeros at its end.
    """
    if progressive not in PROGRESSIVE:
        raise ConfigError(f"model.progressive '{progressive}' does not exist{nearest(progressive, list(PROGRESSIVE))}")
    return (*(("portrait",) if portrait else ()), *PROGRESSIVE[progressive])


def image_prompt(section: Any, denoiser: Any) -> ImagePromptConfig | None:
    """`model.image_prompt`: None for kind `linear`; for `resampler` its sizes, as wide as the denoiser's context.

    Raises:
        ConfigError: for another kind, or a size that a resampler does not have.
    """
    settings = dict(section)
    kind = settings.pop("kind", "linear")
    if kind not in IMAGE_PROMPTS:
        raise ConfigError(f"model.image_prompt.kind '{kind}' does not exist{nearest(kind, IMAGE_PROMPTS)}")
    if kind == "linear":
        return None
    return from_mapping(ImagePromptConfig, settings, kind="plus", width=denoiser["context_dim"])
