"""The systems, one file per paper, and everything else that `launch.train` can train."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from portrait_jax.errors import ConfigError, listed, nearest

if TYPE_CHECKING:
    from portrait_jax.systems.system import System

SYSTEMS = {
    "anyexpress": "portrait_jax.systems.anyexpress:AnyExpress",
    "follow_your_emoji": "portrait_jax.systems.follow_your_emoji:FollowYourEmoji",
    "hallo3": "portrait_jax.systems.hallo3:Hallo3",
    "hunyuan_portrait": "portrait_jax.systems.hunyuan_portrait:HunyuanPortrait",
    "xnemo": "portrait_jax.systems.xnemo:XNemo",
}
"""Tasks that animate portraits, which is to say that they keep the protocol `systems.system.System`."""

TASKS = {
    **SYSTEMS,
    "autoencoder": "portrait_jax.autoencoders.task:AutoencoderTask",
    "face_motion": "portrait_jax.motion.face_task:FaceMotionTask",
    "motion_prior": "portrait_jax.motion.prior_task:MotionPriorTask",
    "motion_vqvae": "portrait_jax.motion.vqvae_task:MotionVQTask",
    "probe": "portrait_jax.metrics.probe:ProbeTask",
    "video_autoencoder": "portrait_jax.autoencoders.task:VideoAutoencoderTask",
}
"""Name in `config.task` → where it lives. Imported on demand, so that one system never loads another."""


def build(config: Any) -> Any:
    """The task that `config.task` names, built by its `from_config`: anything that can be trained.

    Raises:
        ConfigError: for a name that is not known.
    """
    if config.task not in TASKS:
        raise ConfigError(f"task '{config.task}' is not known{nearest(config.task, list(TASKS))}")
    module, name = TASKS[config.task].split(":")
    return getattr(importlib.import_module(module), name).from_config(config)


def build_system(config: Any) -> System:
    """The system that `config.task` names: what can animate a portrait.

    Raises:
        ConfigError: for a name that is not known, or of a task that only trains.
    """
    if config.task in TASKS and config.task not in SYSTEMS:
        raise ConfigError(
            f"task '{config.task}' animates no portraits; give the config of a system that does: {listed(SYSTEMS)}"
        )
    return build(config)
