"""The protocol that all systems obey: what the trainer, the sampler and a notebook call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from portrait_jax.autoencoders.tiled import shared_cells
from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.caching import CacheSchedule
from portrait_jax.diffusion.guidance import Guidance, classifier_free, identity, mimicking, nested
from portrait_jax.errors import ConfigError
from portrait_jax.training.task import Task
from portrait_jax.typing import Array, Float, Num, Params, UInt8


@dataclass(frozen=True)
class SamplingConfig:
    """How a system turns noise into frames unless the user says otherwise."""

    solver: str = "ddim"
    steps: int = 30
    guidance: float = 3.5
    """1 runs the conditional branch alone."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Shares of the steps, first and last, between which guidance acts; outside the conditional branch runs alone."""
    cache_every: int = 1
    """Every so many-th step runs the whole network, the others use its deep features again (`diffusion.caching`); 1: all do."""
    cache_depth: int = 2
    """How many of a UNet's last layers run at the others too."""
    portrait_guidance: float | None = None
    """Where portrait and motion are guided apart: how strongly the portrait is added to nothing, while `guidance` says how
    strongly the motion is added to the portrait. None: one scale for all that is told."""
    mimic: float = 0.0
    """The weaker scale to whose range guidance keeps (dynamic thresholding, `diffusion.guidance.mimicking`); 0: it does not."""
    percentile: float = 0.995
    """From which it cuts off; 1 only rescales."""
    threshold_axes: str = "clip"
    """What its ranges are taken over: a name of `diffusion.guidance.RANGES`."""
    spacing: str = "trailing"
    offset: int = 0
    """Added to every timestep, see `diffusion.schedule.timesteps`."""
    previous: str = "listed"
    """Where a step lands, see `diffusion.grid.schedule_grid`."""
    strategy: str = "overlap"
    """How a long video is made: "overlap" (`long_video.overlap`), "prefix" (`long_video.prefix`), "progressive"
    (`long_video.progressive`), "continued" (`long_video.continued`: clips that go on from the pixels of the one before, by the
    system's own method), or windows denoised jointly (`long_video.joint`): "wrapped" (side by side, the last one goes on
    with the first frames), "tiled" (overlapping, with Gaussian weights), "shifted" (overlapping, elsewhere at every step) or
    "ring" (`long_video.ring`: `ends` at either side, moved by `shift`)."""
    shift: int = 3
    """Frames by which the windows of a "ring" move at every step."""
    ends: int = 0
    """Frames at either end of a "ring" in which motion fades in and out; they are made and not shown."""
    window: int = 16
    """Frames denoised together."""
    overlap: int = 4
    """Frames that a window shares with the one before; "wrapped" windows share none, "progressive" clips their ends."""
    anchor: str = "latent"
    """What of the first window holds the colours of later "prefix" windows: a name of `long_video.prefix.ANCHORS`."""
    anchor_strength: float = 1.0
    """0 … 1, how far they are brought to it."""
    windows_per_chunk: int = 4
    """Windows per jitted call: what is in memory and what an interruption can lose."""
    windows_per_batch: int = 1
    """Jointly denoised windows that the network sees at once: the same frames, and memory for so many windows."""
    decode_chunk: int = 0
    """Frames of jointly denoised windows that the decoder sees together; 0: as many as a window has."""
    decode_tile: int = 0
    """Side in latent cells of the tiles that the decoder works on one after another (`autoencoders.tiled`); 0: whole pictures."""
    decode_overlap: float = 0.25
    """Share of a tile that its neighbour has too, at least: over it the two are blended."""
    noise_share: float = 0.0
    """Correlation between the noise of different frames, in temporal training and in sampling (`diffusion.noise`)."""
    framing: str = "face"
    """What of a portrait the system sees: the square around the "face", the "whole" on black bars, the square of twice the
    face's "box", the "wide" one in three times the box, or as much as fills a frame that is wider than high, "cover"
    (`animation.portrait`)."""
    alignment: str = "proportional"
    """How the driver's motion is moved onto the portrait: "proportional" (`face.alignment`), "metric", the release's
    (`face.metric`), or "none": the driver's landmarks are drawn where they are. For systems that are driven by faces:
    "proportional", "in_place" or "none" (`animation.faces.POSITIONS`)."""

    def __post_init__(self) -> None:
        """Raises ConfigError for tiles that cannot be: at once, since a decoder runs last."""
        shared_cells(self.decode_tile, self.decode_overlap)


def guidance_of(sampling: SamplingConfig, scale: float | None = None) -> Guidance:
    """The guidance that the settings name, at their own scale or another; branches that cancel out are not run.

    Raises:
        ConfigError: for an interval that is none.
    """
    rule = rule_of(sampling, sampling.guidance if scale is None else scale)
    first, last = sampling.guidance_interval
    if not 0 <= first <= last <= 1:
        raise ConfigError(f"sampling.guidance_interval {(first, last)} must be two shares of the steps, in order")
    return replace(rule, interval=(float(first), float(last)))


def cache_of(sampling: SamplingConfig) -> CacheSchedule:
    """When the settings have the network run whole; raises ConfigError for numbers that say nothing."""
    return CacheSchedule(sampling.cache_every, sampling.cache_depth)


def rule_of(sampling: SamplingConfig, scale: float) -> Guidance:
    """Its branches and how they are combined."""
    portrait = sampling.portrait_guidance
    if portrait not in (None, 1.0):
        return nested(("uncond", "appearance", "cond"), (portrait, scale))
    if portrait == scale == 1.0:
        return identity()
    if portrait == 1.0:
        return nested(("appearance", "cond"), (scale,))
    if not sampling.mimic or scale == 1.0:
        return classifier_free(scale)
    return mimicking(scale, sampling.mimic, sampling.percentile, sampling.threshold_axes)


def frame_size(system: System) -> tuple[int, int]:
    """Height and width in pixels of the largest pictures that a system makes: a square, unless it has sizes of its own."""
    return getattr(system, "height", system.image_size), getattr(system, "width", system.image_size)


class System(Task, Protocol):
    """A portrait-animation system: a small object with pure methods over explicit parameters."""

    driven_by: ClassVar[str]
    """What its `encode_driving` is made from: a name in `animation.drivers.DRIVERS`."""

    @property
    def image_size(self) -> int:
        """Side of portraits, control images and results, in pixels."""
        ...

    @property
    def sampling(self) -> SamplingConfig: ...

    @property
    def temporal_decoder(self) -> bool:
        """Whether frames that are decoded together see each other."""
        ...

    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one frame's latent."""
        ...

    def encode_portrait(self, params: Params, portrait_u8: UInt8[Array, "b h w 3"]) -> Conditioning:
        """What depends on the portrait alone: computed once per clip."""
        ...

    def encode_driving(
        self, params: Params, portrait: Conditioning, driving: Mapping[str, Array]
    ) -> Mapping[str, Conditioning]:
        """Adds the driving signal of a stretch of frames; one conditioning per guidance branch (`cond`, `uncond`)."""
        ...

    def denoise(
        self, params: Params, noisy: Float[Array, "b f h w c"], timestep: Num[Array, " b"], conditioning: Conditioning
    ) -> Any:
        """The network's prediction for noisy latents; with `conditioning.cache` a pair, that and its deep features."""
        ...

    def decode(self, params: Params, latents: Float[Array, "b f h w c"]) -> Float[Array, "b f H W 3"]:
        """Latents → images in [−1, 1]."""
        ...

    def solver(self, steps: int) -> Any:
        """The solver of `diffusion.solvers` for this system's schedule and prediction type."""
        ...
