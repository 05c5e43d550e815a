"""The systems, one file per paper, and everything else that `launch.train` can train."""

from __future__ import annotations

import importlib
from typing import Any

from portrait_jax.errors import ConfigError, nearest

TASKS = {
    "follow_your_emoji": "portrait_jax.systems.follow_your_emoji:FollowYourEmoji",
    "autoencoder": "portrait_jax.autoencoders.task:AutoencoderTask",
    "probe": "portrait_jax.metrics.probe:ProbeTask",
}
"""Name in `config.task` → where it lives. Imported on demand, so that one system never loads another."""


def build(config: Any) -> Any:
    """The task that `config.task` names, built by its `from_config`.

    Raises:
        ConfigError: for a name that is not known.
    """
    if config.task not in TASKS:
        raise ConfigError(f"task '{config.task}' is not known{nearest(config.task, list(TASKS))}")
    module, name = TASKS[config.task].split(":")
    return getattr(importlib.import_module(module), name).from_config(config)
