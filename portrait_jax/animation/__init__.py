"""From a portrait and a driving signal to frames: what `launch.animate` and a notebook call."""

from portrait_jax.animation.animator import Animator, Position
from portrait_jax.animation.clips import animate_clip
from portrait_jax.animation.portrait import Portrait, load_portrait
from portrait_jax.animation.signals import Signals

__all__ = ["Animator", "Portrait", "Position", "Signals", "animate_clip", "load_portrait"]
