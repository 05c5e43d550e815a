"""Animates portraits window by window: flat memory, frames as they are done, and a state to go on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from portrait_jax.animation import continued, decoding, joint
from portrait_jax.animation.plans import make_plan
from portrait_jax.animation.signals import Signals, batch_of, stacked
from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.caching import CacheSchedule
from portrait_jax.diffusion.guidance import Guidance
from portrait_jax.diffusion.solvers import Solver
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.long_video.continued import Clips
from portrait_jax.long_video.overlap import noise_of
from portrait_jax.long_video.plan import Plan
from portrait_jax.long_video.prefix import Prefixed
from portrait_jax.long_video.tiles import Tiles
from portrait_jax.sharding.placing import Placing, item_axes
from portrait_jax.systems.system import System, cache_of, frame_size, guidance_of
from portrait_jax.typing import Image, Int, Params, PRNGKeyArray, PyTree, UInt8, Video


@dataclass(frozen=True)
class Position:
    """Where an interrupted animation goes on.

    Attributes:
        window: the first unit of the plan (a window, say, or a group of jointly denoised ones) that is still to be sampled.
        carry: what the units before it hand over, and what is done of a group.
    """

    window: int
    carry: PyTree


@dataclass(frozen=True)
class Animator:
    """A system with parameters and sampling settings; compiles once, then serves any number of videos.

    Attributes:
        system: see `systems.system.System`.
        params: its parameters.
        steps, guidance: override `system.sampling`.
        length, overlap, windows_per_chunk: override the window settings of `system.sampling`.
        mesh: devices that work together, see `sharding`: parameters lie by their rules, guidance branches and frames to decode over
            what they divide. None: one device.
    """

    system: System
    params: Params
    steps: int | None = None
    guidance: float | None = None
    length: int | None = None
    overlap: int | None = None
    windows_per_chunk: int | None = None
    mesh: Mesh | None = None
    _compiled: dict = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The sampling settings in force, for the record."""
        base = self.system.sampling

        def chosen(value, default):
            return default if value is None else value

        return {
            "solver": base.solver,
            "steps": chosen(self.steps, base.steps),
            "guidance": chosen(self.guidance, base.guidance),
            "guidance_interval": list(base.guidance_interval),
            "cache_every": base.cache_every,
            "cache_depth": base.cache_depth,
            "mimic": base.mimic,
            "portrait_guidance": base.portrait_guidance,
            "strategy": base.strategy,
            "anchor": base.anchor,
            "anchor_strength": base.anchor_strength,
            "window": chosen(self.length, base.window),
            "overlap": chosen(self.overlap, base.overlap),
            "windows_per_chunk": chosen(self.windows_per_chunk, base.windows_per_chunk),
            "windows_per_batch": base.windows_per_batch,
            "noise_share": base.noise_share,
            "framing": base.framing,
            "alignment": base.alignment,
            "shift": base.shift,
            "ends": base.ends,
            "decode_chunk": base.decode_chunk,
            "decode_tile": base.decode_tile,
            "decode_overlap": base.decode_overlap,
        }

    @cached_property
    def placing(self) -> Placing:
        return Placing(self.mesh)

    @cached_property
    def solver(self) -> Solver:
        return self.system.solver(int(self.settings["steps"]))

    @cached_property
    def rule(self) -> Guidance:
        return guidance_of(self.system.sampling, float(self.settings["guidance"]))

    @cached_property
    def cache(self) -> CacheSchedule:
        return cache_of(self.system.sampling)

    def plan(self, frames: int) -> Plan | Tiles | Clips:
        """How a video of `frames` frames is made; a short video is one unit. See `plans.make_plan` for what it raises."""
        return make_plan(self.system, self.settings, frames, self.rule.branches, self.cache)

    def blank(self, plan: Plan | Tiles | Clips, clips: int = 1) -> PyTree:
        """What is handed over to the first unit of a video, or of several that are made together."""
        if isinstance(plan, Clips):
            return continued.blank(self.system, plan, clips)
        return plan.blank(self.solver, (clips, *self.system.latent_shape()))

    def carry_axes(self, plan: Plan) -> PyTree:
        """Which axis of each array that is handed over is that of the clips."""
        return item_axes(lambda clips: self.blank(plan, clips))

    def frames(
        self, portrait: Image, signals: Signals, count: int, *, seed: int = 0, start: Position | None = None
    ) -> Iterator[tuple[Video, Position]]:
        """`videos` of one portrait: yields "f h w 3"."""
        for frames, after in self.videos([portrait], [signals], count, seed=seed, start=start):
            yield frames[0], after

    def videos(
        self,
        portraits: Sequence[Image],
        signals: Sequence[Signals],
        count: int,
        *,
        seed: int = 0,
        start: Position | None = None,
    ) -> Iterator[tuple[UInt8[np.ndarray, "b f h w 3"], Position]]:
        """Yields chunk after chunk of finished frames of each portrait, each chunk with the state to go on from.

        The portraits are items of one batch, over the mesh's batch axes where these divide their number, and each video is the one
        that its portrait has alone, up to rounding. Not every chunk has frames: keyframes come out with what lies between them, and
        jointly denoised windows yield after every solver step.

        Args:
            portraits: each u8 "h w 3" at `system.image_size`, or as large as the pictures that it makes.
            signals: for each portrait, gives the driving arrays of a stretch of frames; only what a chunk needs is asked for.
                Control images have the portrait's size.
            count: frames in each video.
            seed: noise; the same seed gives the same video.
            start: where an earlier run stopped.

        Raises:
            ShapeError: for a portrait or control images of another size.
            ConfigError: if `count` < 1, or for window settings that do not fit.
        """
        if count < 1:
            raise ConfigError("there is nothing to animate: the driving sequence has no frame; give one with a face")
        if int(self.settings["windows_per_chunk"]) < 1:
            raise ConfigError(f"windows_per_chunk must be at least 1, not {self.settings['windows_per_chunk']}")
        for portrait in portraits:
            if portrait.shape[:2] != frame_size(self.system):
                self._check_size(portrait, "portrait")
        plan = self.plan(count)
        start, key = start or Position(0, self.blank(plan, len(portraits))), jax.random.key(seed)
        if isinstance(plan, Clips):
            yield from self._continued(portraits, signals, plan, key, start)
            return
        told = stacked([each.portrait for each in signals])
        given = self.placing.items((np.stack(portraits), told))
        still = self.placing.told(self._encode_portrait(self._placed, given[0], **given[1]))
        if isinstance(plan, Tiles):
            yield from self._joint(still, signals, plan, key, start)
        else:
            yield from self._in_order(still, signals, plan, key, start)

    def _in_order(
        self, still: Conditioning, signals: Sequence[Signals], plan: Plan, key: PRNGKeyArray, start: Position
    ) -> Iterator[tuple[np.ndarray, Position]]:
        size, carry = min(int(self.settings["windows_per_chunk"]), plan.count), start.carry
        sample, placing, axes = self._sampler(plan, size), self.placing, self.carry_axes(plan)
        for first in range(start.window, plan.count, size):
            driving = placing.items(self._driving(signals, plan.source_frames(first, size)))
            told = placing.told(self._encode_driving(self._placed, still, driving))
            carry, latents = sample(self._placed, told, placing.items(carry, axes), key, *plan.arguments(first, size))
            kept = np.asarray(plan.emit(first, latents))
            # The carry is donated to the next call, so the caller gets a copy on the host.
            yield self._decode_all(kept, plan.stride), Position(first + size, jax.device_get(carry))

    def _joint(
        self, still: Conditioning, signals: Sequence[Signals], tiles: Tiles, key: PRNGKeyArray, start: Position
    ) -> Iterator[tuple[np.ndarray, Position]]:
        shape, share = (len(signals), *self.system.latent_shape()), self.system.sampling.noise_share

        def noise(frames: Int[np.ndarray, " f"]):
            return noise_of(key, jnp.asarray(frames), shape, share)

        def driving(frames: Int[np.ndarray, " f"]) -> dict[str, np.ndarray]:
            found = self._driving(signals, tiles.shown(frames))
            return found if not tiles.cut else {**found, "strength": np.stack([tiles.strength(frames)] * len(signals))}

        predict = joint.driven_prediction(
            self._window_prediction(tiles.batched), self._placed, still, driving, self.placing
        )
        done = joint.sample_groups(predict, noise, tiles, self.solver, start.window, start.carry, still.start)
        made, group = tiles.begin(start.window), self.system.sampling.decode_chunk or tiles.length
        for latents, number, carry in done:
            shown = slice(max(tiles.cut - made, 0), max(tiles.frames - tiles.cut - made, 0))
            yield self._decode_all(latents, group, shown), Position(number, carry)
            made += latents.shape[1]

    def _continued(
        self,
        portraits: Sequence[Image],
        signals: Sequence[Signals],
        clips: Clips,
        key: PRNGKeyArray,
        start: Position,
    ) -> Iterator[tuple[UInt8[np.ndarray, "b f h w 3"], Position]]:
        size = min(int(self.settings["windows_per_chunk"]), clips.count)
        done = continued.sample_in_clips(
            continued.continued(self.system), self._encode_portrait, self._sample_clips, self._placed, portraits, signals,
            clips, size, key, start.window, start.carry, self.placing,
        )  # fmt: skip
        for frames, clip, carry in done:
            yield frames, Position(clip, carry)

    @cached_property
    def _sample_clips(self) -> Callable:
        """The system's own sampling with the steps and guidance in force."""
        chosen = {name: self.settings[name] for name in ("steps", "guidance")}
        system: Any = self.system
        return self.placing.under(jax.jit(replace(system, sampling=replace(system.sampling, **chosen)).sample_clips))

    def _window_prediction(self, windows: int) -> Callable:
        """One compiled program per number of windows in a batch."""
        name = ("windows", windows)
        if name not in self._compiled:
            predict = joint.window_prediction(self.system, self.solver, self.rule, windows)
            self._compiled[name] = self.placing.under(predict)
        return self._compiled[name]

    @cached_property
    def _placed(self) -> Params:
        """The parameters on their devices: those of a file would travel there with every call."""
        return self.placing.params(self.params)

    def _driving(self, signals: Sequence[Signals], frames: Int[np.ndarray, " f"]) -> dict[str, np.ndarray]:
        batch = batch_of(signals, frames)
        if "control" in batch:
            self._check_size(batch["control"][0, 0], "control image")
        return batch

    def _check_size(self, image: Image, what: str) -> None:
        side = self.system.image_size
        if image.shape[:2] != (side, side):
            raise ShapeError(
                f"the {what} is {image.shape[1]}×{image.shape[0]}, the system needs {side}×{side}; resize it"
            )

    @cached_property
    def _encode_portrait(self) -> Callable:
        return self.placing.under(jax.jit(self.system.encode_portrait))

    @cached_property
    def _encode_driving(self) -> Callable:
        return self.placing.under(jax.jit(self.system.encode_driving))

    @cached_property
    def _decode(self) -> Callable:
        return self.placing.under(jax.jit(self.system.decode))

    def _sampler(self, plan: Plan, size: int) -> Callable:
        """One compiled program per number of units in a chunk."""
        if size not in self._compiled:
            system: Any = self.system
            sampler = plan.sampler(
                system.denoise_measured if isinstance(plan, Prefixed) and plan.sites else system.denoise,
                size,
                solver=self.solver,
                guidance=self.rule,
                noise_share=self.system.sampling.noise_share,
                cache=self.cache,
            )
            self._compiled[size] = self.placing.under(sampler)
        return self._compiled[size]

    def _decode_all(self, latents: np.ndarray, group: int, shown: slice = slice(None)) -> np.ndarray:
        """`decoding.decoded` by the system; of a temporal decoder each device has a clip or a group of its own."""
        parts = self.placing.parts
        groups = parts // math.gcd(parts, len(latents)) if self.system.temporal_decoder else 1
        decode, side = partial(self._decode, self._placed), self.system.image_size
        return decoding.decoded(decode, latents, side, group, groups, shown, self.placing)
