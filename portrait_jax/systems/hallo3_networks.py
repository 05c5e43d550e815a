"""The sizes and networks of Hallo3, see `systems.hallo3`: what it is made of, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from portrait_jax.adapters.audio_projection import AudioProjection, AudioProjectionConfig
from portrait_jax.adapters.frame_attention import frame_slot
from portrait_jax.adapters.image_prompt import ImagePromptConfig, PlainProjection
from portrait_jax.autoencoders import CausalAutoencoder, CausalConfig
from portrait_jax.backbones.cogvideox import CogVideoX, CogVideoXConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.grid import rescaled_grid
from portrait_jax.diffusion.schedule import Schedule, make_schedule, rescale_zero_terminal_snr
from portrait_jax.diffusion.solvers import Solver, solver_on
from portrait_jax.encoders.arcface import ArcFace, ArcFaceConfig
from portrait_jax.encoders.speech import Clock
from portrait_jax.encoders.t5 import T5Config, T5Encoder
from portrait_jax.encoders.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.training.lips import lip_reader
from portrait_jax.training.task import Stage
from portrait_jax.typing import Params, PRNGKeyArray

AFTER_MOTION = ("zeros", "portrait")
"""Nothing (paper and release); or the portrait, as in Stable Video Diffusion: a denoiser that starts from nothing learns slowly to
look it up elsewhere."""


@dataclass(frozen=True)
class MotionConfig:
    """What a clip is told of the frames before it (§3.3)."""

    frames: int = 2
    """How many frames it goes on from (table 6)."""
    together: bool = True
    """Whether the portrait and they are encoded as one short video (the release), or each for itself, without the portrait
    (§3.3: as many latent frames as motion frames)."""
    masked: float = 0.1
    """Share of their pixels that are replaced by grey, the same in all of them. The paper says 0.25 (§4.1)."""
    after: str = "zeros"
    """What a clip is told of its other latent frames, a name in `AFTER_MOTION`."""


MEMORY_OF = ("face", "portrait")
"""The face's rectangle alone, and in sampling no prompt (the release); or the whole portrait, and always the prompt (§3.3)."""


@dataclass(frozen=True)
class LossConfig:
    """How a training example is made poorer (the release; §4.1 where the paper says)."""

    text_drop: float = 0.1
    audio_drop: float = 0.05
    reference_drop: float = 0.05
    """Share of clips whose masked portrait is replaced by zero latents."""
    known_drop: float = 0.05
    """Share of clips that are told no frames at all."""
    timestep_power: float = 1.0
    """The share of timesteps below t is (t / T) to this power. 1: all are as frequent; larger powers draw noisier ones, at which
    a mouth cannot be seen, only told by the sound."""
    noise: tuple[float, float] | None = (-3.0, 0.5)
    """Motion frames get Gaussian noise whose ln σ is drawn around the first with the second; None: they get none (the paper)."""
    diffusion: float = 1.0
    """Weight of the diffusion loss; 0 leaves both transformers out, for a warm-up that the paper does not have."""
    mouth: float = 0.0
    """How much more an error counts in the middle of the mouth than far from it; 0, the paper's, weighs all alike. Needs square
    clips."""
    lips: float = 0.0
    """Weight of `training.lips.lip_loss`, for that warm-up."""

    def __post_init__(self) -> None:
        if self.timestep_power <= 0:
            raise ConfigError(f"loss.timestep_power must be positive, not {self.timestep_power}; 1 draws all alike")
        if not self.diffusion and (self.mouth or not self.lips):
            raise ConfigError("loss.diffusion 0 leaves nothing to learn but loss.lips; set that alone")


@dataclass(frozen=True, eq=False)
class Hallo3Networks:
    """The system's sizes and networks; built from a config by `from_config`."""

    autoencoder_config: CausalConfig
    text_config: T5Config
    audio_encoder_config: Wav2Vec2Config
    denoiser_config: CogVideoXConfig
    audio_config: AudioProjectionConfig
    face_config: ImagePromptConfig
    recogniser_config: ArcFaceConfig
    motion: MotionConfig
    schedule: Schedule
    """Before it is rescaled to zero terminal SNR, as it is in training and, on the levels chosen, in sampling."""
    loss_config: LossConfig
    sampling: SamplingConfig
    stages: Mapping[str, Stage]
    height: int
    width: int
    frames: int
    """Of a clip, motion frames included."""
    fps: float
    """Frames per second that it was trained at."""
    dtype: Any
    face_by: str = "cross"
    """How frames are told of the person's tokens, see `adapters.frame_attention.KINDS`, or "none" (table 5)."""
    audio_by: str = "cross"
    """How frames are told of their sound (table 4); "none" in the first stage."""
    memory: bool = True
    """Whether there is a reference transformer, whose keys and values joint attention has besides (table 5)."""
    memory_of: str = "face"
    """What that transformer sees, a name in `MEMORY_OF`."""
    told_deviation: float = 0.0
    """Of fresh weights of attention to face and sound; those of its output are smaller by √(2 · layers). 0: by the inputs' number,
    which is more, for a denoiser that is as fresh."""
    precomputed: bool = False
    """Whether prompts, speech features and identity vectors are given instead of made, so that the encoders that make them are
    no part of the parameters."""
    audio_window: int = 5
    """Frames of sound around each frame."""
    prediction: str = "v"
    drawing_style: str = "none"
    """It is driven by sound: nothing is drawn."""
    name: str = "hallo3"

    def __post_init__(self) -> None:
        """Raises ConfigError where two sizes that must agree do not."""
        autoencoder, denoiser = self.autoencoder_config, self.denoiser_config
        stride, latent = autoencoder.stride, autoencoder.latent_channels
        pairs = {
            "denoiser.in_channels and twice autoencoder.latent_channels": (denoiser.in_channels, 2 * latent),
            "denoiser.out_channels and autoencoder.latent_channels": (denoiser.out_channels, latent),
            "denoiser.text_dim and text_encoder.width": (denoiser.text_dim, self.text_config.width),
            "audio.halvings and autoencoder.time_levels": (self.audio_config.halvings, autoencoder.time_levels),
            "height and its multiple of the autoencoder's stride": (self.height, self.height // stride * stride),
            "width and its multiple of the autoencoder's stride": (self.width, self.width // stride * stride),
        }
        for what, (one, other) in pairs.items():
            if one != other:
                raise ConfigError(f"{what} must be equal, not {one} and {other}")
        if self.loss_config.mouth and self.height != self.width:
            raise ConfigError(f"loss.mouth needs square clips, not {self.height}×{self.width}; set it 0")
        if self.loss_config.lips and self.audio_by == "none":
            raise ConfigError("loss.lips listens to sound, which model.audio_by 'none' leaves out; set it 0")
        if self.told_deviation < 0:
            raise ConfigError(f"model.told_deviation {self.told_deviation} is negative; 0 begins by the inputs' number")
        for name, chosen, known in (
            ("memory_of", self.memory_of, MEMORY_OF),
            ("motion.after", self.motion.after, AFTER_MOTION),
        ):
            if chosen not in known:
                raise ConfigError(f"model.{name} '{chosen}' does not exist{nearest(chosen, known)}")
        denoiser.tokens(*self.latent_grid)
        piece = 2 * autoencoder.time_stride
        if self.frames % piece != 1:
            raise ConfigError(
                f"clips must have one frame more than a multiple of {piece}, for they are decoded two latent frames at a time; not "
                f"{self.frames}"
            )
        if not 0 < self.motion.frames < self.frames:
            raise ConfigError(
                f"a clip of {self.frames} frames cannot go on from {self.motion.frames}; give more frames"
            )
        told = {"window": (self.sampling.window, self.frames), "overlap": (self.sampling.overlap, self.motion.frames)}
        for name, (one, other) in told.items():
            if one != other:
                raise ConfigError(
                    f"sampling.{name} is {one}, but clips have {self.frames} frames and go on from {self.motion.frames}; make it "
                    f"{other}"
                )

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """Builds the system from `configs/hallo3.py`; raises `ConfigError` naming the wrong key."""
        model = config.model
        return cls(
            autoencoder_config=from_mapping(CausalConfig, model.autoencoder),
            text_config=from_mapping(T5Config, model.text_encoder),
            audio_encoder_config=from_mapping(Wav2Vec2Config, model.audio_encoder),
            denoiser_config=from_mapping(CogVideoXConfig, model.denoiser),
            audio_config=from_mapping(AudioProjectionConfig, model.audio),
            face_config=from_mapping(ImagePromptConfig, model.face, kind="plain"),
            recogniser_config=from_mapping(ArcFaceConfig, model.face_recogniser),
            motion=from_mapping(MotionConfig, model.motion),
            schedule=make_schedule(**model.schedule),
            loss_config=from_mapping(LossConfig, config.loss),
            sampling=from_mapping(SamplingConfig, config.sampling),
            stages={config.stage: Stage.from_config(config.train)} if "train" in config else {},
            height=model.height,
            width=model.width,
            frames=model.frames,
            fps=model.fps,
            dtype=compute_dtype(config.compute_dtype),
            face_by=model.face_by,
            audio_by=model.audio_by,
            memory=model.memory,
            memory_of=model.memory_of,
            told_deviation=model.told_deviation,
            precomputed=model.precomputed,
            audio_window=model.audio_window,
        )

    # The networks. All are plain functions of their parameters; building one costs nothing.

    @property
    def autoencoder(self) -> CausalAutoencoder:
        return CausalAutoencoder(self.autoencoder_config, dtype=self.dtype)

    @property
    def text_encoder(self) -> T5Encoder:
        return T5Encoder(self.text_config, dtype=self.dtype)

    @property
    def audio_encoder(self) -> Wav2Vec2:
        """In float32 whatever the rest computes in, as the release has it."""
        return Wav2Vec2(self.audio_encoder_config)

    @property
    def denoiser(self) -> CogVideoX:
        """Per block: joint attention with memory, face attention, audio attention, feed-forward (§3.2)."""
        told = (("face", "image_tokens", self.face_by), ("audio", "audio", self.audio_by))
        heads, fresh = self.denoiser_config.heads, self.told_deviation
        deviations = (fresh, fresh / (2 * self.denoiser_config.layers) ** 0.5) if fresh else None
        slots = tuple(frame_slot(name, field, heads, kind, deviations) for name, field, kind in told if kind != "none")
        return CogVideoX(self.denoiser_config, slots, dtype=self.dtype)

    @property
    def reference(self) -> CogVideoX:
        """The same transformer without what is plugged in; computed anew in the backward pass as that is."""
        return CogVideoX(self.denoiser_config, dtype=self.dtype)

    @property
    def audio_projection(self) -> AudioProjection:
        return AudioProjection(self.audio_config, dtype=self.dtype)

    @property
    def face_projection(self) -> PlainProjection:
        return PlainProjection(self.face_config, dtype=self.dtype)

    @property
    def face_recogniser(self) -> ArcFace:
        """In float32, as the release runs it."""
        return ArcFace(self.recogniser_config)

    @property
    def image_size(self) -> int:
        """Side in pixels of square pictures, which are made on black bars where the system's are wider than high."""
        return min(self.height, self.width)

    @property
    def reach(self) -> int:
        """Frames on either side that a frame hears."""
        return self.audio_window // 2

    @property
    def prompt_length(self) -> int:
        """Token ids of a prompt."""
        return self.denoiser_config.text_tokens

    def clock(self, fps: float | None = None) -> Clock:
        """Where frames lie on a sound, at this rate or the training clips': as the release interpolates, with silence behind the
        sound to a multiple of a clip's frames."""
        rate = self.fps if fps is None else fps
        return Clock(rate, self.audio_encoder_config, centred=False, whole=self.frames)

    @property
    def latent_grid(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip's latents."""
        config = self.autoencoder_config
        return config.latent_frames(self.frames), self.height // config.stride, self.width // config.stride

    def latent_shape(self) -> tuple[int, int, int]:
        return *self.latent_grid[1:], self.autoencoder_config.latent_channels

    @property
    def training_schedule(self) -> Schedule:
        """With zero terminal SNR."""
        return rescale_zero_terminal_snr(self.schedule)

    def solver(self, steps: int) -> Solver:
        return solver_on(
            self.sampling.solver, rescaled_grid(self.schedule, steps, self.sampling.spacing), self.prediction
        )

    def init(self, rng: PRNGKeyArray, stage: str = "") -> Params:
        """Fresh parameters; both transformers share theirs, as both start from one published network."""
        names = (
            "autoencoder", "text_encoder", "audio_encoder", "audio_projection", "face_projection", "transformer",
            "face_recogniser",
        )  # fmt: skip
        keys = dict(zip(names, jax.random.split(rng, len(names))))
        config, stride, speech = self.denoiser_config, self.autoencoder_config.stride, self.audio_encoder_config
        latent = jnp.zeros((1, 1, *self.latent_shape()))
        text = Conditioning(text=jnp.zeros((1, config.text_tokens, config.text_dim)), known=latent)
        told = text.replace(
            image_tokens=jnp.zeros((1, self.face_config.tokens, self.face_config.width)),
            audio=jnp.zeros((1, 1, self.audio_config.tokens, self.audio_config.width)),
        )
        given: dict[str, tuple] = {
            "autoencoder": (jnp.zeros((1, 1, stride, stride, 3)),),
            "text_encoder": (jnp.zeros((1, 8), jnp.int32),),
            "audio_encoder": (jnp.zeros((1, speech.shortest)),),
            "audio_projection": (jnp.zeros((1, 1, self.audio_window, speech.layers, speech.hidden)),),
            "face_projection": (jnp.zeros((1, self.recogniser_config.embedding)),),
            "face_recogniser": (jnp.zeros((1, *(self.recogniser_config.image_size,) * 2, 3)),),
            "reference": (latent, jnp.zeros(1), text),
            "denoiser": (latent, jnp.zeros(1), told),
        }
        made = {
            name: getattr(self, name).init(keys.get(name, keys["transformer"]), *args)["params"]
            for name, args in given.items()
            if name not in self.unused
        }
        if self.loss_config.lips:
            tokens = jnp.zeros((1, self.audio_config.tokens * self.audio_config.width))
            reader = lip_reader(self.autoencoder_config.time_stride)
            made["lip_reader"] = reader.init(jax.random.fold_in(rng, 1), tokens)["params"]
        return made

    @property
    def unused(self) -> tuple[str, ...]:
        """Sub-networks that this way of telling it has no use for."""
        parts = {
            "reference": self.memory,
            "face_projection": self.face_by != "none",
            "audio_projection": self.audio_by != "none",
            "text_encoder": not self.precomputed,
            "audio_encoder": not self.precomputed and self.audio_by != "none",
            "face_recogniser": not self.precomputed and self.face_by != "none",
        }
        return tuple(name for name, used in parts.items() if not used)
