"""X-NeMo (ICLR 2025, arXiv 2507.23143): a portrait driven by a latent that says what a face does and not whose it is.

A motion encoder squeezes each driving face into one vector. Together with where the face is (its box against the
portrait's), it becomes a few tokens that a Stable Diffusion denoiser attends to at every layer; a reference net and an image
token say whose face it is. Section numbers are the paper's; where paper and release differ, the config decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange

from portrait_jax.adapters.latent_motion import LatentMotionConfig, latent_motion_slot
from portrait_jax.adapters.reference_masking import mask_reference
from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig
from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.autoencoders.temporal_decoder import CHUNK, AutoencoderKLTemporalDecoder
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning, dropped
from portrait_jax.diffusion.guidance import classifier_free
from portrait_jax.diffusion.noise import blurred
from portrait_jax.diffusion.prediction import check_prediction, training_target
from portrait_jax.diffusion.schedule import Schedule, add_noise, make_schedule, signal_noise
from portrait_jax.diffusion.solvers import Solver, make_solver
from portrait_jax.encoders.clip_vision import CLIPVision, CLIPVisionConfig, clip_pixels
from portrait_jax.encoders.fan import IN_PLACE, FANConfig, FANMotionEncoder
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.overlap import frame_noise
from portrait_jax.long_video.shifted import random_offsets, sample_joint, uniform_windows
from portrait_jax.nn.temporal import TemporalConfig
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Num, Params, PRNGKeyArray, UInt8


@dataclass(frozen=True)
class LossConfig:
    """Sections 3.2 and 3.3; what the paper leaves open is named so."""

    motion: bool = True
    """Whether the denoiser is told what the face does; not in the first stage."""
    temporal: bool = False
    """Whether the frames of a clip see each other: the third stage."""
    mask: float = 0.3
    """Share of reference tokens withheld, anew in each block."""
    drop: float = 0.1
    """Share of clips trained without image token and reference (open in the paper; needed for guidance)."""


@dataclass(frozen=True, eq=False)
class XNemo:
    """The system at any size; built from a config by `from_config`."""

    autoencoder_config: KLConfig
    denoiser_config: UNetConfig
    motion_config: LatentMotionConfig
    motion_encoder_config: FANConfig
    image_encoder_config: CLIPVisionConfig
    schedule: Schedule
    loss_config: LossConfig
    sampling: SamplingConfig
    stages: Mapping[str, Stage]
    image_size: int
    dtype: Any
    temporal_decoder: bool = True
    """Whether the autoencoder is Stable Video Diffusion's; False: one that decodes frame by frame."""
    blurred_start: bool = True
    """Sampling starts around the blurred portrait, as the release does; False: from noise alone."""
    prediction: str = "epsilon"
    drawing_style: str = "none"
    """It is driven by pictures: nothing is drawn."""
    name: str = "xnemo"

    batch_keys: ClassVar[tuple[str, ...]] = ("frames", "reference", "faces", "boxes")
    """What `loss` reads of a batch."""

    def __post_init__(self) -> None:
        """Raises ConfigError where two sizes that must agree do not."""
        check_prediction(self.prediction)
        autoencoder, denoiser = self.autoencoder_config, self.denoiser_config
        pairs = {
            "denoiser.in_channels and autoencoder.latent_channels": (denoiser.in_channels, autoencoder.latent_channels),
            "denoiser.out_channels and autoencoder.latent_channels": (denoiser.out_channels, autoencoder.latent_channels),
            "denoiser.context_dim and image_encoder.projection": (
                denoiser.image_prompt_dim or denoiser.context_dim, self.image_encoder_config.projection,
            ),
            "image_size and its multiple of the autoencoder's stride": (
                self.image_size, self.image_size // autoencoder.stride * autoencoder.stride,
            ),
        }  # fmt: skip
        for what, (one, other) in pairs.items():
            if one != other:
                raise ConfigError(f"{what} must be equal, not {one} and {other}")

    @classmethod
    def from_config(cls, config: Any) -> XNemo:
        """Builds the system from `configs/xnemo.py`; raises `ConfigError` naming the wrong key."""
        model = config.model
        return cls(
            autoencoder_config=from_mapping(KLConfig, model.autoencoder),
            denoiser_config=from_mapping(
                UNetConfig, model.denoiser, temporal=from_mapping(TemporalConfig, model.temporal)
            ),
            motion_config=from_mapping(LatentMotionConfig, model.motion),
            motion_encoder_config=from_mapping(FANConfig, model.motion_encoder),
            image_encoder_config=from_mapping(CLIPVisionConfig, model.image_encoder),
            schedule=make_schedule(**model.schedule),
            loss_config=from_mapping(LossConfig, config.loss),
            sampling=from_mapping(SamplingConfig, config.sampling),
            stages={config.stage: Stage.from_config(config.train)} if "train" in config else {},
            image_size=model.image_size,
            dtype=compute_dtype(config.compute_dtype),
            temporal_decoder=model.temporal_decoder,
            blurred_start=model.blurred_start,
            prediction=model.prediction,
        )

    # The networks. All are plain functions of their parameters; building one costs nothing.

    @property
    def autoencoder(self) -> AutoencoderKL | AutoencoderKLTemporalDecoder:
        kind = AutoencoderKLTemporalDecoder if self.temporal_decoder else AutoencoderKL
        return kind(self.autoencoder_config, dtype=self.dtype)

    @property
    def denoiser(self) -> UNet:
        """Per layer: residual block, spatial transformer, motion attention, temporal module (§3.2)."""
        return UNet(self.denoiser_config, (latent_motion_slot(self.motion_config),), dtype=self.dtype)

    @property
    def reference(self) -> UNet:
        """The appearance net: the denoiser's layout in 2-D without motion, and without an output head."""
        return UNet(replace(self.denoiser_config, temporal=None, output_head=False), dtype=self.dtype)

    @property
    def motion_encoder(self) -> FANMotionEncoder:
        return FANMotionEncoder(self.motion_encoder_config, dtype=self.dtype)

    @property
    def image_encoder(self) -> CLIPVision:
        return CLIPVision(self.image_encoder_config, dtype=self.dtype)

    def solver(self, steps: int) -> Solver:
        chosen = self.sampling
        return make_solver(
            chosen.solver, self.schedule, steps, self.prediction, chosen.spacing,
            previous=chosen.previous, offset=chosen.offset,
        )  # fmt: skip

    def latent_shape(self) -> tuple[int, int, int]:
        side = self.image_size // self.autoencoder_config.stride
        return side, side, self.autoencoder_config.latent_channels

    def init(self, rng: PRNGKeyArray, stage: str = "") -> Params:
        """Fresh parameters; reference net and denoiser share theirs, as both start from one published network."""
        keys = dict(zip(("autoencoder", "image_encoder", "motion_encoder", "unet"), jax.random.split(rng, 4)))
        image, latent = jnp.zeros((1, self.image_size, self.image_size, 3)), jnp.zeros((1, 1, *self.latent_shape()))
        side, sizes = self.motion_encoder_config.image_size, self.motion_encoder_config
        face, box, time = jnp.zeros((1, side, side, 3)), jnp.zeros((1, 3)), jnp.zeros((1,))
        motion = Conditioning(motion=jnp.zeros((1, 1, sizes.tokens, sizes.token_dim)))
        return {
            "autoencoder": self.autoencoder.init(keys["autoencoder"], image)["params"],
            "image_encoder": self.image_encoder.init(keys["image_encoder"], self._pixels(image))["params"],
            "motion_encoder": self.motion_encoder.init(keys["motion_encoder"], face, box)["params"],
            "reference": self.reference.init(keys["unet"], latent, time, capture=True)["params"],
            "denoiser": self.denoiser.init(keys["unet"], latent, time, motion)["params"],
        }

    # Conditioning

    def encode_portrait(self, params: Params, portrait_u8: UInt8[Array, "b h w 3"]) -> Conditioning:
        """Image token, reference features and where sampling starts, once per clip.

        The reference net sees the clean latent at timestep 0 and the same token as the denoiser.
        """
        image = to_pm1(portrait_u8)
        embed = self.image_encoder.apply({"params": params["image_encoder"]}, self._pixels(image), embed=True)
        tokens, latent = embed[:, None], self.to_latents(params, image[:, None])
        _, reference = self.reference.apply(
            {"params": params["reference"]}, latent, jnp.zeros(len(image)), Conditioning(image_tokens=tokens), capture=True
        )  # fmt: skip
        shared = {path: rearrange(features, "b 1 n d -> b n d") for path, features in reference.items()}
        start = blurred(latent[:, 0]) if self.blurred_start else None
        return Conditioning(image_tokens=tokens, reference=shared, start=start)

    def encode_motion(self, params: Params, faces_u8: UInt8[Array, "*batch h w 3"]) -> Float[Array, "*batch e"]:
        """Motion latents of face crops: what may be interpolated, generated or stored."""
        return self.motion_encoder.apply({"params": params["motion_encoder"]}, to_pm1(faces_u8), method="encode")

    def motion_tokens(
        self, params: Params, latents: Float[Array, "*batch e"], boxes: Float[Array, "*batch 3"] | None = None
    ) -> Float[Array, "*batch k d"]:
        """Motion latents and box triplets (default: in place, as the release has it) to tokens."""
        if boxes is None:
            boxes = jnp.broadcast_to(jnp.asarray(IN_PLACE), (*latents.shape[:-1], 3))
        return self.motion_encoder.apply({"params": params["motion_encoder"]}, latents, boxes, method="fuse")

    def encode_driving(
        self, params: Params, portrait: Conditioning, driving: Mapping[str, Array]
    ) -> dict[str, Conditioning]:
        """Motion of `driving["faces"]`, u8 "b f s s 3", for both guidance branches.

        `driving["reference_face"]`, u8 "b s s 3", is the portrait's own face: its motion is what guidance leads away from.
        `driving["boxes"]`, "b f 3", are `face.boxes.box_triplet`s, if position and size are to be transferred too.
        Raises ConfigError if there are no faces.
        """
        for name in ("faces", "reference_face"):
            if name not in driving:
                raise ConfigError(f"X-NeMo is driven by face crops, and '{name}' is missing among {sorted(driving)}")
        tokens = self.motion_tokens(params, self.encode_motion(params, driving["faces"]), driving.get("boxes"))
        own = self.motion_tokens(params, self.encode_motion(params, driving["reference_face"]))
        return self.branches(portrait, tokens, own)

    def branches(
        self, portrait: Conditioning, motion: Float[Array, "b f k d"], own_motion: Float[Array, "b k d"]
    ) -> dict[str, Conditioning]:
        """Guidance leads away from no identity in the portrait's own motion (§4.3)."""
        keep = jnp.ones((motion.shape[0],))
        still = jnp.broadcast_to(own_motion[:, None], motion.shape)
        return {
            "cond": dropped(portrait.replace(motion=motion), keep),
            "uncond": dropped(portrait.replace(motion=still), 0 * keep),
        }

    def denoise(
        self, params: Params, noisy: Float[Array, "b f h w c"], timestep: Num[Array, " b"], conditioning: Conditioning
    ) -> Float[Array, "b f h w c"]:
        """The network's output, of the kind that `prediction` names."""
        return self.denoiser.apply({"params": params["denoiser"]}, noisy, timestep, conditioning)

    def sample(
        self, params: Params, branches: Mapping[str, Conditioning], rng: PRNGKeyArray
    ) -> Float[Array, "b f h w c"]:
        """Latents of a whole video by the config's sampling: windows of all frames at once, shifted anew at each step (§4.1).

        `branches` come from `encode_driving` and cover all frames.
        """
        chosen, motion = self.sampling, branches["cond"].motion
        assert motion is not None
        batch, frames = motion.shape[:2]
        keys, solver = jax.random.split(rng), self.solver(chosen.steps)
        windows = uniform_windows(frames, chosen.window, chosen.overlap)
        return sample_joint(
            partial(self.denoise, params), branches,
            frame_noise(keys[0], 0, frames, (batch, *self.latent_shape()), chosen.noise_share),
            random_offsets(keys[1], chosen.steps, windows),
            solver=solver, guidance=classifier_free(chosen.guidance), windows=windows,
        )  # fmt: skip

    def decode(self, params: Params, latents: Float[Array, "b f h w c"]) -> Float[Array, "b f H W 3"]:
        """Latents → images in [−1, 1]; a temporal decoder sees 25 frames at a time, as the release has it."""
        unscaled, variables = latents / self.autoencoder_config.scaling_factor, {"params": params["autoencoder"]}
        if not self.temporal_decoder:
            frames = rearrange(unscaled, "b f h w c -> (b f) h w c")
            images = self.autoencoder.apply(variables, frames, method="decode")
            return rearrange(images, "(b f) h w c -> b f h w c", b=len(latents))
        chunks = [unscaled[:, first : first + CHUNK] for first in range(0, latents.shape[1], CHUNK)]
        images = [self.autoencoder.apply(variables, chunk, method="decode") for chunk in chunks]
        return jnp.concatenate(images, axis=1)

    def to_latents(self, params: Params, image_pm1: Float[Array, "b f H W 3"]) -> Float[Array, "b f h w c"]:
        """Images → scaled posterior means."""
        frames = rearrange(image_pm1, "b f h w c -> (b f) h w c")
        mean, _ = self.autoencoder.apply({"params": params["autoencoder"]}, frames, method="encode")
        scaled = mean.astype(jnp.float32) * self.autoencoder_config.scaling_factor
        return rearrange(scaled, "(b f) h w c -> b f h w c", b=image_pm1.shape[0])

    def _pixels(self, image_pm1: Float[Array, "b h w 3"]) -> Float[Array, "b s s 3"]:
        return clip_pixels(image_pm1, self.image_encoder_config.image_size, whole_levels=True)

    # Training

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The diffusion loss (eq. 1) with masked reference features (§3.3).

        Batch: `frames` u8 "b f H W 3", `reference` u8 "b H W 3", `faces` u8 "b f s s 3" and `boxes` "b f 3". Without
        temporal modules every frame has a noise level of its own.
        """
        chosen, keys = self.loss_config, jax.random.split(rng, 4)
        latents = jax.lax.stop_gradient(self.to_latents(params, to_pm1(batch["frames"])))
        clips, frames = latents.shape[:2]
        portrait = self.encode_portrait(params, batch["reference"])
        assert portrait.reference is not None
        conditioning = portrait.replace(reference=mask_reference(keys[3], portrait.reference, chosen.mask))
        if chosen.motion:
            motion = self.motion_tokens(params, self.encode_motion(params, batch["faces"]), batch["boxes"])
            conditioning = conditioning.replace(motion=motion)
        keep = jax.random.bernoulli(keys[0], 1 - chosen.drop, (clips,)).astype(jnp.float32)

        level = jax.random.randint(keys[1], (clips, 1 if chosen.temporal else frames), 0, self.schedule.length)
        timestep = jnp.broadcast_to(level, (clips, frames)).reshape(-1)
        clean = rearrange(latents, "b f h w c -> (b f) h w c")
        noise = jax.random.normal(keys[2], clean.shape)
        noisy = add_noise(self.schedule, clean, noise, timestep)
        output = self.denoiser.apply(
            {"params": params["denoiser"]}, rearrange(noisy, "(b f) h w c -> b f h w c", f=frames), timestep,
            dropped(conditioning, keep), use_temporal=chosen.temporal,
        )  # fmt: skip
        output = rearrange(output, "b f h w c -> (b f) h w c").astype(jnp.float32)
        target = training_target(self.prediction, clean, noise, *signal_noise(self.schedule, timestep, clean.ndim))
        loss = ((output - target) ** 2).mean()
        return loss, {"diffusion": loss}
