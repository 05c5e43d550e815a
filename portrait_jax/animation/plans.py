"""How a long video is made: the plan that `sampling.strategy` names, with what the other settings say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from portrait_jax.diffusion.caching import CacheSchedule
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.long_video.continued import Clips
from portrait_jax.long_video.overlap import plan_windows
from portrait_jax.long_video.plan import Plan
from portrait_jax.long_video.prefix import Prefixed, plan_prefixed
from portrait_jax.long_video.progressive import plan_gaps
from portrait_jax.long_video.ring import ring_tiles
from portrait_jax.long_video.tiles import Tiles, gaussian_tiles, random_offsets, shifted_tiles, wrapped_tiles
from portrait_jax.systems.system import SamplingConfig, System

PLANS: dict[str, Callable[[int, int, int, int, SamplingConfig], Plan | Tiles | Clips]] = {
    "overlap": lambda frames, length, overlap, steps, rest: plan_windows(frames, length, overlap),
    "prefix": lambda frames, length, overlap, steps, rest: plan_prefixed(frames, length, overlap),
    "progressive": lambda frames, length, overlap, steps, rest: plan_gaps(frames, length),
    "continued": lambda frames, length, overlap, steps, rest: Clips(frames, length, overlap),
    "wrapped": lambda frames, length, overlap, steps, rest: wrapped_tiles(frames, length),
    "tiled": lambda frames, length, overlap, steps, rest: gaussian_tiles(frames, length, overlap),
    "shifted": lambda frames, length, overlap, steps, rest: shifted_tiles(
        frames, length, overlap, random_offsets(steps, length)
    ),
    "ring": lambda frames, length, overlap, steps, rest: ring_tiles(
        frames, length, overlap, steps, rest.shift, rest.ends
    ),
}
"""`sampling.strategy`: (frames, window, overlap, solver steps, all other settings) → how a long video is made."""


def make_plan(
    system: System, settings: Mapping[str, Any], frames: int, branches: Sequence[str], cache: CacheSchedule
) -> Plan | Tiles | Clips:
    """How a video of `frames` frames is made; a short video is one unit.

    Args:
        settings: those in force, see `Animator.settings`.
        branches: of the guidance.

    Raises:
        ConfigError: for a strategy that does not exist, cannot cache features or has no batches of windows, or window settings that
            do not fit.
    """
    strategy = str(settings["strategy"])
    if strategy not in PLANS:
        raise ConfigError(f"sampling.strategy '{strategy}' is not known{nearest(strategy, list(PLANS))}")
    window, overlap, steps, batch = (
        int(settings[name]) for name in ("window", "overlap", "steps", "windows_per_batch")
    )
    plan = PLANS[strategy](frames, window, overlap, steps, system.sampling)
    if batch < 1 or (batch > 1 and not isinstance(plan, Tiles)):
        raise ConfigError(
            f"sampling.windows_per_batch {batch} is for windows that are denoised jointly, and at least 1; with sampling.strategy "
            f"'{strategy}' one window follows another: set it to 1"
        )
    if isinstance(plan, Tiles):
        # Between two steps of one window all others are run: their features would grow with the video.
        cache.refuse(
            f"sampling.strategy '{strategy}', whose windows are denoised jointly",
            "use 'overlap', 'prefix' or 'progressive', or ",
        )
        return replace(plan, batch=batch)
    return anchored(plan, system, branches) if isinstance(plan, Prefixed) else plan


def anchored(plan: Prefixed, system: System, branches: Sequence[str]) -> Prefixed:
    """The plan with what `sampling.anchor` needs; raises ConfigError for a system whose features cannot be measured."""
    anchor, strength = system.sampling.anchor, system.sampling.anchor_strength
    if anchor != "blocks":
        return replace(plan, anchor=anchor, strength=strength)
    sites = getattr(system, "anchor_sites", None)
    if sites is None:
        raise ConfigError(
            f"sampling.anchor 'blocks' needs a network that is measured, and that of {system.name} is not; use 'latent'"
        )
    return replace(plan, anchor=anchor, strength=strength, sites=dict.fromkeys(branches, sites))
