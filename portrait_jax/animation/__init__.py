"""From a portrait and a driving signal to frames: what `launch.animate` and a notebook call."""

from portrait_jax.animation.animator import Animator, Position, animate_clip
from portrait_jax.animation.portrait import Portrait, load_portrait

__all__ = ["Animator", "Portrait", "Position", "animate_clip", "load_portrait"]
