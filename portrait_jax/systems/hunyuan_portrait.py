"""HunyuanPortrait (CVPR 2025, arXiv 2503.18860): a portrait driven by implicit conditions on Stable Video Diffusion.

Who it is: an image encoder with identity-aware adapters, whose tokens take the place of the backbone's image embedding, and
the portrait's latents beside the noisy ones. What it does: an expression's feature refined by a memory that knows how much the
face moves, with the angles of the head; every cross-attention reads it by keys and values of its own. Section numbers are the
paper's; where paper and release differ, the config decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.adapters.decoupled_motion import STARTS, decoupled_motion_slots
from portrait_jax.adapters.identity import IdentityAdapterConfig, identity_adapter
from portrait_jax.adapters.landmark_guider import LandmarkGuider, LandmarkGuiderConfig
from portrait_jax.adapters.motion_memory import MotionMemory, MotionMemoryConfig
from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig
from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.autoencoders.temporal_decoder import AutoencoderKLTemporalDecoder
from portrait_jax.backbones.svd_unet import SVDUNet, SVDUNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.grid import karras_grid
from portrait_jax.diffusion.prediction import check_prediction
from portrait_jax.diffusion.solvers import Solver, solver_on
from portrait_jax.encoders.arcface import ArcFace, ArcFaceConfig
from portrait_jax.encoders.dinov2 import DINOv2, DINOv2Config, imagenet_pixels
from portrait_jax.encoders.face_motion import EXPRESSION, HEAD_POSE, head_pose
from portrait_jax.encoders.resnet import ResNet, ResNetConfig
from portrait_jax.errors import ConfigError
from portrait_jax.face.intensity import RELEASED, IntensityConfig
from portrait_jax.long_video.joint import sample_joint
from portrait_jax.long_video.ring import ring_tiles
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.systems.diffusing import LatentDiffusion
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.hunyuan_loss import diffusion_loss, driver_of_batch
from portrait_jax.systems.hunyuan_settings import ANGLES, LossConfig, PortraitConfig, check_equal, without
from portrait_jax.systems.landmark_teacher import check_teacher
from portrait_jax.systems.strips import few, sample_strip
from portrait_jax.systems.system import SamplingConfig, cache_of, guidance_of
from portrait_jax.training.aligned import COLOURS, recognised_faces
from portrait_jax.training.augment import AugmentConfig
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Image, Int, Num, Params, PRNGKeyArray


@dataclass(frozen=True, eq=False)
class HunyuanPortrait(LatentDiffusion):
    """The system at any size; built from a config by `from_config`."""

    autoencoder_config: KLConfig
    denoiser_config: SVDUNetConfig
    image_encoder_config: DINOv2Config
    identity_config: IdentityAdapterConfig
    recogniser_config: ArcFaceConfig
    expression_config: ResNetConfig
    head_pose_config: ResNetConfig
    memory_config: MotionMemoryConfig
    guider_config: LandmarkGuiderConfig
    portrait: PortraitConfig
    loss_config: LossConfig
    augment_config: AugmentConfig
    sampling: SamplingConfig
    stages: Mapping[str, Stage]
    image_size: int
    face_size: int
    """Pixels of the face crops that the motion encoders see."""
    dtype: Any
    temporal_decoder: bool = True
    """Whether the autoencoder is Stable Video Diffusion's; False: one that decodes frame by frame."""
    name: str = "hunyuan_portrait"

    prediction: str = "v"
    """What the denoiser predicts (`diffusion.prediction`): "v", or "epsilon", by which the paper trains (equation 1)."""
    intensity: IntensityConfig = RELEASED
    """How much a face moves is measured so, in driving videos and in training batches alike."""
    teacher: FollowYourEmoji | None = None
    """What the attention to motion learns from, where `loss.teacher` says so."""

    driven_by: ClassVar[str] = "aligned faces"

    def __post_init__(self) -> None:
        """Raises ConfigError where two settings that must agree do not."""
        check_prediction(self.prediction)
        check_teacher(self.loss_config.teacher, self.teacher, self.prediction)
        self.intensity.check_known(self.memory_config.levels)
        denoiser, stride = self.denoiser_config, self.autoencoder_config.stride
        motion = self.memory_config.out + (ANGLES if self.portrait.head_pose else 0)
        check_equal(
            {
                "denoiser.in_channels and autoencoder.latent_channels": (
                    denoiser.in_channels, self.autoencoder_config.latent_channels,
                ),
                "denoiser.context_dim and the width of motion tokens": (denoiser.context_dim, motion),
                "denoiser.context_dim and image_encoder.hidden": (denoiser.context_dim, self.image_encoder_config.hidden),
                "guider.out_channels and the denoiser's first width": (
                    self.guider_config.out_channels, denoiser.block_out_channels[0],
                ),
                "the strides of guider and autoencoder": (self.guider_config.stride, stride),
                "image_size and its multiple of the autoencoder's stride": (
                    self.image_size, self.image_size // stride * stride,
                ),
            }
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: Any) -> HunyuanPortrait:
        """Builds the system from `configs/hunyuan_portrait.py`; raises `ConfigError` naming the wrong key."""
        model, loss = config.model, from_mapping(LossConfig, config.loss)
        return cls(
            autoencoder_config=from_mapping(KLConfig, model.autoencoder),
            denoiser_config=from_mapping(SVDUNetConfig, model.denoiser),
            image_encoder_config=from_mapping(DINOv2Config, model.image_encoder),
            identity_config=from_mapping(IdentityAdapterConfig, model.identity),
            recogniser_config=from_mapping(ArcFaceConfig, model.face_recogniser),
            expression_config=from_mapping(ResNetConfig, {**vars(EXPRESSION), **model.expression}),
            head_pose_config=from_mapping(ResNetConfig, {**vars(HEAD_POSE), **model.head_pose}),
            memory_config=from_mapping(MotionMemoryConfig, model.motion_memory),
            guider_config=from_mapping(LandmarkGuiderConfig, model.guider),
            portrait=from_mapping(PortraitConfig, model.portrait),
            loss_config=loss,
            augment_config=from_mapping(AugmentConfig, {**vars(COLOURS), **config.augment}),
            sampling=from_mapping(SamplingConfig, config.sampling),
            stages={config.stage: Stage.from_config(config.train)} if "train" in config else {},
            image_size=model.image_size,
            face_size=model.face_size,
            dtype=compute_dtype(config.compute_dtype),
            temporal_decoder=model.temporal_decoder,
            prediction=model.prediction,
            intensity=from_mapping(IntensityConfig, model.intensity),
            teacher=FollowYourEmoji.from_config(config.teacher) if loss.teacher and "teacher" in config else None,
        )

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """What `loss` reads of a batch; `driving` and `skeletons` too if there are any."""
        return ("frames", "reference", "landmarks", *(("control",) if self.loss_config.teacher else ()))

    # The networks. All are plain functions of their parameters; building one costs nothing.

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Sub-network → module, all but the denoiser and the autoencoder, which have properties of their own."""
        return {
            "image_encoder": DINOv2(self.image_encoder_config, identity_adapter(self.identity_config), self.dtype),
            "image_projection": nn.Dense(self.portrait.image_tokens, dtype=self.dtype),
            "face_recogniser": ArcFace(self.recogniser_config),
            # The release keeps what reads motion in float32: it is small, and everything hangs on it.
            "expression": ResNet(self.expression_config),
            "head_pose": ResNet(self.head_pose_config),
            "motion_memory": MotionMemory(self.memory_config),
            "guider": LandmarkGuider(self.guider_config, self.dtype),
        }

    @property
    def autoencoder(self) -> AutoencoderKL | AutoencoderKLTemporalDecoder:
        kind = AutoencoderKLTemporalDecoder if self.temporal_decoder else AutoencoderKL
        return kind(self.autoencoder_config, dtype=self.dtype)

    @property
    def denoiser(self) -> SVDUNet:
        """Stable Video Diffusion's UNet with motion attention in every cross-attention (§3.2)."""
        config = self.denoiser_config
        slots = decoupled_motion_slots(config.num_heads, self.portrait.motion_scale, config.over_time)
        return SVDUNet(config, slots, dtype=self.dtype)

    def _apply(self, name: str, params: Params, *args: Any) -> Array:
        return self.networks[name].apply({"params": params[name]}, *args)

    def solver(self, steps: int) -> Solver:
        return solver_on(self.sampling.solver, karras_grid(steps), self.prediction)

    @property
    def aligned_size(self) -> int:
        """Side in pixels of the aligned faces that the recogniser sees."""
        return self.recogniser_config.image_size

    def init(self, rng: PRNGKeyArray, stage: str = "") -> Params:
        """Fresh parameters; motion attention starts as `portrait.motion_start` says."""
        names = ("autoencoder", "denoiser", *self.networks)
        keys = dict(zip(names, jax.random.split(rng, len(names)), strict=True))
        side, size, config = self.face_size, self.image_size, self.denoiser_config
        encoder = self.image_encoder_config
        patches = (self.portrait.encoder_size // encoder.patch) ** 2
        identity = jnp.zeros((1, 1, self.recogniser_config.embedding))
        level, feature = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, 1, self.expression_config.width))
        inputs = {
            "image_encoder": (jnp.zeros((1, *[self.portrait.encoder_size] * 2, 3)), identity),
            "image_projection": (jnp.zeros((1, encoder.hidden, patches + encoder.registers + 1)),),
            "face_recogniser": (jnp.zeros((1, *[self.recogniser_config.image_size] * 2, 3)),),
            "expression": (jnp.zeros((1, side, side, 3)),),
            "head_pose": (jnp.zeros((1, side, side, 3)),),
            "motion_memory": (feature, level, level),
            "guider": (jnp.zeros((1, 1, size, size, 3)),),
        }
        params = {name: net.init(keys[name], *inputs[name])["params"] for name, net in self.networks.items()}
        motion = Conditioning(motion=jnp.zeros((1, 1, 1, config.context_dim)))
        latent = jnp.zeros((1, 1, *self.latent_shape()))
        denoiser = self.denoiser.init(keys["denoiser"], latent, jnp.zeros(1), motion)["params"]
        params["denoiser"] = STARTS[self.portrait.motion_start](denoiser)
        params["autoencoder"] = self.autoencoder.init(keys["autoencoder"], jnp.zeros((1, size, size, 3)))["params"]
        if self.loss_config.teacher and self.teacher is not None:
            params["teacher"] = self.teacher.init(jax.random.fold_in(rng, 1))
        return params

    # Conditioning

    def encode_portrait(
        self, params: Params, portrait_u8: Num[Array, "b h w 3"], aligned_u8: Num[Array, "b s s 3"] | None = None
    ) -> Conditioning:
        """Who it is, once per clip: tokens, latents, and where sampling starts (§3.4).

        `aligned_u8` is the face on the recogniser's template (`face.five_points`), without which the identity is zeros. Both
        are 0..255.
        """
        image = to_pm1(portrait_u8)
        pixels = imagenet_pixels(image, self.portrait.encoder_size)
        return self.describe(params, image, pixels, self.identity(params, len(image), aligned_u8))

    def identity(self, params: Params, clips: int, aligned_u8: Num[Array, "b s s 3"] | None) -> Float[Array, "b e"]:
        """Identity vectors of unit length; zeros where none is wanted or none can be had."""
        if aligned_u8 is None or not self.portrait.identity:
            return jnp.zeros((clips, self.recogniser_config.embedding))
        face = to_pm1(aligned_u8)
        return self._apply("face_recogniser", params, (face + 1) / 2 if self.portrait.identity_range == "01" else face)

    def describe(
        self, params: Params, image_pm1: Float[Array, "b H W 3"], pixels: Float[Array, "b s s 3"],
        identity: Float[Array, "b e"],
    ) -> Conditioning:  # fmt: skip
        """`encode_portrait` from the image encoder's pixels and the identity vector."""
        latent = self.to_latents(params, image_pm1[:, None])[:, 0]
        tokens = self._apply("image_encoder", params, pixels, identity[:, None])
        projected = self._apply("image_projection", params, jnp.swapaxes(tokens, 1, 2))
        ids = jnp.array([[self.portrait.fps, self.portrait.bucket, self.portrait.noise]])
        return Conditioning(
            image_tokens=jnp.swapaxes(projected, 1, 2),
            portrait=latent if self.portrait.scaled_portrait else latent / self.autoencoder_config.scaling_factor,
            ids=jnp.repeat(ids, len(image_pm1), axis=0),
            start=latent,
        )

    def motion_tokens(
        self, params: Params, faces_01: Float[Array, "b f s s 3"], heads_01: Float[Array, "b f s s 3"],
        head_level: Int[Array, "b f"], expression_level: Int[Array, "b f"],
    ) -> Float[Array, "b f k d"]:  # fmt: skip
        """What a face does in each frame, of its crop, a wider one of the head, and the intensities (§3.3)."""
        clips, frames = faces_01.shape[:2]

        def read(name: str, pictures: Array) -> Array:
            return self._apply(name, params, pictures.reshape(-1, *pictures.shape[2:])).reshape(clips, frames, -1)

        feature = read("expression", faces_01)
        tokens = self._apply("motion_memory", params, feature[:, :, None], head_level, expression_level)
        if not self.portrait.head_pose:
            return tokens
        # The published weights want 2p + 1, where 2p − 1 would be expected, and the translation is multiplied by zero.
        rotation, translation = head_pose(read("head_pose", 2 * heads_01 + 1))
        angles = jnp.concatenate([rotation, 0 * translation], axis=-1)[:, :, None]
        return jnp.concatenate([tokens, jnp.broadcast_to(angles, (*tokens.shape[:3], ANGLES))], axis=-1)

    def pose_features(
        self, params: Params, skeletons_01: Float[Array, "b f H W 3"] | None, clips: int, frames: int
    ) -> Float[Array, "b f h w c"]:
        """The guider's features; without skeletons those of black pictures, as the release has it (§3.5)."""
        if skeletons_01 is None:
            black = jnp.zeros((clips, 1, self.image_size, self.image_size, 3))
            return jnp.repeat(self._apply("guider", params, black), frames, axis=1)
        return self._apply("guider", params, skeletons_01)

    def encode_driving(
        self, params: Params, portrait: Conditioning, driving: Mapping[str, Array]
    ) -> dict[str, Conditioning]:
        """What drives the portrait in these frames, for the three guidance branches.

        `driving`: `faces` and `heads`, u8 "b f s s 3", and `head_level`, `expression_level`, int "b f" (`face.intensity`);
        `skeletons`, u8 "b f H W 3", if there are any; `strength`, "b f", is how much of the motion is left in frames where it
        fades in or out. Raises ConfigError if one is missing.
        """
        for name in ("faces", "heads", "head_level", "expression_level"):
            if name not in driving:
                raise ConfigError(
                    f"HunyuanPortrait is driven by face crops and their intensities, and '{name}' is missing among "
                    f"{sorted(driving)}"
                )
        faces, heads = (jnp.asarray(driving[name]).astype(jnp.float32) / 255 for name in ("faces", "heads"))
        levels = (jnp.asarray(driving[name]) for name in ("head_level", "expression_level"))
        motion = self.motion_tokens(params, faces, heads, *levels)
        if "strength" in driving:
            motion = motion * jnp.asarray(driving["strength"])[:, :, None, None]
        skeletons = driving.get("skeletons")
        shown = None if skeletons is None else jnp.asarray(skeletons).astype(jnp.float32) / 255
        return self.branches(portrait, motion, self.pose_features(params, shown, *motion.shape[:2]))

    def branches(
        self, portrait: Conditioning, motion: Float[Array, "b f k d"], spatial: Float[Array, "b f h w c"]
    ) -> dict[str, Conditioning]:
        """Nothing is told, then the portrait, then the motion too; of skeletons and of the three numbers all are told."""
        told = portrait.replace(motion=motion, spatial=spatial)
        return {
            "uncond": without(told, "image_tokens", "portrait", "motion"),
            "appearance": without(told, "motion"),
            "cond": told,
        }

    # Sampling

    def denoise(
        self, params: Params, noisy: Float[Array, "b f h w c"], timestep: Num[Array, " b"], conditioning: Conditioning
    ) -> Any:
        """What `prediction` names, "b f h w c", for latents of unit variance; see `System.denoise`."""
        return self.denoiser.apply({"params": params["denoiser"]}, noisy, timestep, conditioning)

    def sample_from(
        self, params: Params, branches: Mapping[str, Conditioning], noise: Float[Array, "b f h w c"]
    ) -> Float[Array, "b f h w c"]:
        """Latents of a whole ring in memory, from given unit-variance noise of all its frames, the ends included.

        For comparisons, and for programs of many devices; `animation.Animator` does the same window by window.
        """
        chosen = self.sampling
        cache_of(chosen).refuse("jointly denoised windows, whose features would be those of the whole video")
        tiles = ring_tiles(noise.shape[1], chosen.window, chosen.overlap, chosen.steps, chosen.shift)
        return sample_joint(
            self.denoise, params, branches, noise, tiles, solver=self.solver(chosen.steps), guidance=guidance_of(chosen)
        )

    def decode(self, params: Params, latents: Float[Array, "b f h w c"]) -> Float[Array, "b f H W 3"]:
        """Latents → images in [−1, 1], `sampling.decode_chunk` frames at a time, which see each other."""
        if not self.temporal_decoder:
            return super().decode(params, latents)
        return self.decode_clips(params, latents, self.sampling.decode_chunk or latents.shape[1])

    # Training

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The diffusion loss, and what a teacher adds (`systems.hunyuan_loss`): metrics `diffusion`, and `teacher` where it is.

        Batch: `frames` u8 "b f H W 3" with `landmarks` "b f 478 3" in their pixels, and `reference` u8 "b H W 3", another frame
        of the same video. What drives and the identity's aligned face are cut out of the frames, or out of `driving`, the same
        frames before their style was changed; `skeletons` u8 "b f H W 3" if there are any. A teacher
        needs `control`.
        """
        terms = diffusion_loss(self, params, batch, rng)
        return sum(getattr(self.loss_config, name) * term for name, term in terms.items()), terms

    def samples(self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str) -> dict[str, Image]:
        """Rows of truth and sample for a few clips."""
        seen = few(batch)
        driver = driver_of_batch(self, seen)
        driving = driver | {name: 255 * driver[name] for name in ("faces", "heads")}
        told = {"aligned_u8": 255 * recognised_faces(seen, rng, self.aligned_size)}
        return {"clips": sample_strip(self, params, seen, driving, rng, told=told)}
