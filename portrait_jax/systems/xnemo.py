"""X-NeMo (ICLR 2025, arXiv 2507.23143): a portrait driven by a latent that says what a face does and not whose it is.

A motion encoder squeezes each driving face into one vector. Together with where the face is (its box against the
portrait's), it becomes a few tokens that a Stable Diffusion denoiser attends to at every layer; a reference net and an image
token say whose face it is. Section numbers are the paper's; where paper and release differ, the config decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from portrait_jax.adapters.latent_motion import LatentMotionConfig, latent_motion_slot
from portrait_jax.adapters.motion_map import MotionMap, MotionMapConfig
from portrait_jax.adversarial.head import DualHead
from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig
from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.autoencoders.temporal_decoder import CHUNK, AutoencoderKLTemporalDecoder
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning, dropped
from portrait_jax.diffusion.noise import blurred
from portrait_jax.diffusion.prediction import check_prediction
from portrait_jax.diffusion.schedule import Schedule, make_schedule
from portrait_jax.encoders.clip_vision import CLIPVision, CLIPVisionConfig, clip_pixels
from portrait_jax.encoders.fan import IN_PLACE, FANConfig, FANMotionEncoder
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.face.topology import NUM_LANDMARKS
from portrait_jax.nn.temporal import TemporalConfig
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.systems.diffusing import LatentDiffusion
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.landmark_teacher import check_teacher
from portrait_jax.systems.strips import few, sample_strip
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.systems.xnemo_loss import LossConfig, diffusion_loss, landmark_loss, redrawing, training_motion
from portrait_jax.training.augment import STILL, AugmentConfig
from portrait_jax.training.faces import batch_triplets, driving_crops, reference_crops
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Image, Num, Params, PRNGKeyArray, UInt8

CONTROLS = ("attention", "map")
"""`model.control`: how motion tokens reach the denoiser: by attention at every layer, or as one feature map, which the paper
compares it with (table 2)."""


@dataclass(frozen=True, eq=False)
class XNemo(LatentDiffusion):
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
    control: str = "attention"
    """One of `CONTROLS`."""
    head: DualHead | None = None
    """What trains the motion encoder beside the diffusion loss, where `loss.head` says so."""
    augmentation: AugmentConfig = STILL
    """How driving faces are changed in training (§3.3)."""
    teacher: FollowYourEmoji | None = None
    """What the motion attention learns from, where `loss.teacher` says so."""
    name: str = "xnemo"

    driven_by: ClassVar[str] = "faces"

    def __post_init__(self) -> None:
        """Raises ConfigError where two sizes that must agree do not."""
        check_prediction(self.prediction)
        if self.control not in CONTROLS:
            raise ConfigError(f"model.control '{self.control}' does not exist{nearest(self.control, CONTROLS)}")
        if self.loss_config.head and self.head is None:
            raise ConfigError("loss.head is True, but there is no model.head; describe it, or set loss.head to False")
        check_teacher(self.loss_config.teacher, self.teacher, self.prediction, self.loss_config.temporal)
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
        model, stages = config.model, {config.stage: Stage.from_config(config.train)} if "train" in config else {}
        dtype, motion = compute_dtype(config.compute_dtype), from_mapping(FANConfig, model.motion_encoder)
        loss, head = from_mapping(LossConfig, config.loss), None
        if loss.head and "head" in model:
            sources = stages[config.stage].init_from if stages else ()
            head = DualHead.from_config(model.head, motion=motion.latent_dim, dtype=dtype, sources=sources)
        return cls(
            autoencoder_config=from_mapping(KLConfig, model.autoencoder),
            denoiser_config=from_mapping(
                UNetConfig, model.denoiser,
                temporal=from_mapping(TemporalConfig, model.temporal),
                joined_inputs=("portrait",) if model.get("portrait_latents", False) else (),
            ),
            motion_config=from_mapping(LatentMotionConfig, model.motion),
            motion_encoder_config=motion,
            image_encoder_config=from_mapping(CLIPVisionConfig, model.image_encoder),
            schedule=make_schedule(**model.schedule),
            loss_config=loss,
            sampling=from_mapping(SamplingConfig, config.sampling),
            stages=stages,
            image_size=model.image_size,
            dtype=dtype,
            temporal_decoder=model.temporal_decoder,
            blurred_start=model.blurred_start,
            prediction=model.prediction,
            control=model.get("control", "attention"),
            head=head,
            augmentation=from_mapping(AugmentConfig, config.get("augmentation", {})),
            teacher=FollowYourEmoji.from_config(config.teacher) if loss.teacher and "teacher" in config else None,
        )  # fmt: skip

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """What `loss` reads of a batch."""
        told = ("control",) if self.loss_config.teacher else ()
        return ("frames", "reference", "landmarks", "reference_landmarks", *told)

    # The networks. All are plain functions of their parameters; building one costs nothing.

    @property
    def autoencoder(self) -> AutoencoderKL | AutoencoderKLTemporalDecoder:
        kind = AutoencoderKLTemporalDecoder if self.temporal_decoder else AutoencoderKL
        return kind(self.autoencoder_config, dtype=self.dtype)

    @property
    def denoiser(self) -> UNet:
        """Per layer: residual block, spatial transformer, motion attention, temporal module (§3.2)."""
        slots = (latent_motion_slot(self.motion_config),) if self.control == "attention" else ()
        return UNet(self.denoiser_config, slots, dtype=self.dtype)

    @property
    def reference(self) -> UNet:
        """The appearance net: the denoiser's layout in 2-D without motion, and without an output head."""
        config = replace(self.denoiser_config, temporal=None, output_head=False, joined_inputs=())
        return UNet(config, dtype=self.dtype)

    @property
    def motion_encoder(self) -> FANMotionEncoder:
        return FANMotionEncoder(self.motion_encoder_config, dtype=self.dtype)

    @property
    def motion_map(self) -> MotionMap:
        """Motion as a feature map, where `control` is "map"."""
        side, _, _ = self.latent_shape()
        width = self.denoiser_config.block_out_channels[0]
        return MotionMap(MotionMapConfig(side, width, width), dtype=self.dtype)

    @property
    def image_encoder(self) -> CLIPVision:
        return CLIPVision(self.image_encoder_config, dtype=self.dtype)

    @property
    def landmark_reader(self) -> nn.Dense:
        """Motion latents to landmarks, for `xnemo_loss.landmark_loss`."""
        return nn.Dense(2 * NUM_LANDMARKS, use_bias=False)

    @property
    def face_size(self) -> int:
        """Side in pixels of the face crops that drive it."""
        return self.motion_encoder_config.image_size

    @property
    def motion_width(self) -> int:
        """Numbers of a motion latent."""
        return self.motion_encoder_config.latent_dim

    def init(self, rng: PRNGKeyArray, stage: str = "") -> Params:
        """Fresh parameters; reference net and denoiser share theirs, as both start from one published network.

        The head's are among them where the loss uses it.
        """
        keys = dict(zip(("autoencoder", "image_encoder", "motion_encoder", "unet"), jax.random.split(rng, 4)))
        image, latent = jnp.zeros((1, self.image_size, self.image_size, 3)), jnp.zeros((1, 1, *self.latent_shape()))
        side, sizes = self.motion_encoder_config.image_size, self.motion_encoder_config
        face, box, time = jnp.zeros((1, side, side, 3)), jnp.zeros((1, 3)), jnp.zeros((1,))
        tokens, more = jnp.zeros((1, 1, sizes.tokens, sizes.token_dim)), {}
        if self.control == "map":
            more["motion_map"] = self.motion_map.init(jax.random.fold_in(rng, 4), tokens)["params"]
        if self.loss_config.landmarks:
            width = jnp.zeros((1, self.motion_width))
            more["landmark_reader"] = self.landmark_reader.init(jax.random.fold_in(rng, 6), width)["params"]
        if self.loss_config.head and self.head is not None:
            more |= self.head.init(jax.random.fold_in(rng, 5))
        if self.loss_config.teacher and self.teacher is not None:
            more["teacher"] = self.teacher.init(jax.random.fold_in(rng, 7))
        motion = Conditioning(motion=tokens)
        return more | {
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
        return Conditioning(image_tokens=tokens, reference=shared, start=start, portrait=latent[:, 0])

    def encode_motion(self, params: Params, faces_u8: Num[Array, "*batch h w 3"]) -> Float[Array, "*batch e"]:
        """Motion latents of face crops (0..255): what may be interpolated, generated or stored."""
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

        `driving["motion"]`, "b f e", is taken in place of faces: latents that are stored, interpolated or generated.
        `driving["reference_face"]`, u8 "b s s 3", is the portrait's own face: its motion is what guidance leads away from.
        `driving["boxes"]`, "b f 3", are `face.boxes.box_triplet`s, if position and size are to be transferred too.
        Raises ConfigError if there are no faces.
        """
        given = "motion" if "motion" in driving else "faces"
        for name in (given, "reference_face"):
            if name not in driving:
                raise ConfigError(f"X-NeMo is driven by face crops, and '{name}' is missing among {sorted(driving)}")
        motion = driving["motion"] if given == "motion" else self.encode_motion(params, driving["faces"])
        tokens = self.motion_tokens(params, motion, driving.get("boxes"))
        own = self.motion_tokens(params, self.encode_motion(params, driving["reference_face"]))
        branches = self.branches(portrait, tokens, own)
        return {name: self.told(params, branch) for name, branch in branches.items()}

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

    def told(self, params: Params, conditioning: Conditioning) -> Conditioning:
        """The conditioning with its motion as a feature map too, where `control` is "map"."""
        if self.control != "map" or conditioning.motion is None:
            return conditioning
        drawn = self.motion_map.apply({"params": params["motion_map"]}, conditioning.motion)
        return conditioning.replace(spatial=drawn)

    def denoise(
        self, params: Params, noisy: Float[Array, "b f h w c"], timestep: Num[Array, " b"], conditioning: Conditioning
    ) -> Any:
        """The network's output "b f h w c", of the kind that `prediction` names; see `System.denoise`."""
        return self.denoiser.apply({"params": params["denoiser"]}, noisy, timestep, conditioning)

    def decode(self, params: Params, latents: Float[Array, "b f h w c"]) -> Float[Array, "b f H W 3"]:
        """Latents → images in [−1, 1]; a temporal decoder sees 25 frames at a time, as the release has it."""
        if not self.temporal_decoder:
            return super().decode(params, latents)
        return self.decode_clips(params, latents, CHUNK)

    def _pixels(self, image_pm1: Float[Array, "b h w 3"]) -> Float[Array, "b s s 3"]:
        return clip_pixels(image_pm1, self.image_encoder_config.image_size, whole_levels=True)

    # Training

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The diffusion loss (eq. 1) with masked reference features, and that of the GAN head (eq. 3, both §3.3).

        Batch: `frames` u8 "b f H W 3" and `reference` u8 "b H W 3" with `landmarks` "b f 478 3" and `reference_landmarks`
        "b 478 3", pixels. Without temporal modules every frame has a noise level of its own. Metrics: `diffusion`, `teacher`,
        `landmarks` where they are asked for, and the terms of the head.
        """
        chosen, (*keys, key) = self.loss_config, jax.random.split(rng, 5)
        motion = training_motion(self, params, batch, key) if chosen.motion else None
        loss, metrics = jnp.zeros(()), {}
        if chosen.diffusion:
            metrics = diffusion_loss(self, params, batch, motion, keys, key)
            loss = sum((getattr(chosen, name) * error for name, error in metrics.items()), loss)
        if chosen.landmarks and motion is not None:
            metrics["landmarks"] = landmark_loss(self, params, batch, motion, key)
            loss += chosen.landmarks * metrics["landmarks"]
        if chosen.head and self.head is not None and motion is not None:
            gan, terms = self.head.loss(params, *redrawing(self, batch, motion, key))
            loss, metrics = loss + gan, metrics | terms
        return loss, metrics

    def adversary_loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """What the head's discriminator minimises, on the pictures that `loss` judged; see `training.task`."""
        assert self.head is not None
        key = jax.random.split(rng, 5)[4]
        return self.head.adversary_loss(params, *redrawing(self, batch, training_motion(self, params, batch, key), key))

    def samples(self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str) -> dict[str, Image]:
        """Rows of truth and sample for a few clips; nothing before motion is told."""
        if not self.loss_config.motion:
            return {}
        seen, size = few(batch), self.motion_encoder_config.image_size
        faces, own = driving_crops(seen, rng, size), reference_crops(seen, rng, size)
        driving = {"faces": 255 * faces, "reference_face": 255 * own, "boxes": batch_triplets(seen)}
        return {"clips": sample_strip(self, params, seen, driving, rng)}
