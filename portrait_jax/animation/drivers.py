"""What systems can be driven by, and how each becomes signals."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from portrait_jax.animation.aligned import ALIGNED
from portrait_jax.animation.faces import FACES
from portrait_jax.animation.landmarks import LANDMARKS
from portrait_jax.animation.signals import Driver
from portrait_jax.animation.sound import SOUND
from portrait_jax.animation.speakers import SPEAKERS
from portrait_jax.errors import ConfigError, listed
from portrait_jax.systems.system import System

DRIVERS: Mapping[str, Driver] = MappingProxyType(
    {"landmarks": LANDMARKS, "faces": FACES, "aligned faces": ALIGNED, "sound": SOUND, "sound and text": SPEAKERS}
)
"""`System.driven_by` → how a driving file or clip is turned into what `encode_driving` reads."""


def driver_of(system: System) -> Driver:
    """The driver for a system; raises ConfigError if nothing is known of what drives it."""
    if system.driven_by not in DRIVERS:
        raise ConfigError(
            f"{system.name} is driven by {system.driven_by}, and only {listed(DRIVERS)} are made from driving files; call its "
            "methods from Python"
        )
    return DRIVERS[system.driven_by]
