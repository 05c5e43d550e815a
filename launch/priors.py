"""The motion prior of `launch.animate --extend`, from its flags."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from portrait_jax import systems
from portrait_jax.animation.extension import Extension
from portrait_jax.errors import CheckpointError, ConfigError
from portrait_jax.training.checkpoints import compare
from portrait_jax.training.params import load_params


def load_extension(prior: str | None, seconds: float | None, emotion: int | None) -> Extension | None:
    """Reads the prior with the config that it was trained with; None if nothing is to be extended.

    Raises:
        ConfigError: if one flag lacks the other.
        CheckpointError: if there is no prior to read, or it is another network.
    """
    if seconds is None:
        if prior or emotion is not None:
            raise ConfigError("--prior and --emotion go with --extend; say by how many seconds the video is extended")
        return None
    if not prior:
        raise ConfigError("--extend needs --prior: a motion prior, trained as docs/motion_prior.md says")
    params, info = load_params(prior)
    config = ConfigDict(info.get("config") or {})
    if config.get("task") != "motion_prior":
        raise CheckpointError(
            f"{prior} holds '{config.get('task')}', not a motion prior; give the run of configs/motion_prior.py:gpt"
        )
    task = systems.build(config)
    compare(params, jax.eval_shape(task.init, jax.random.key(0)), prior)
    return Extension(seconds, task, params, -1 if emotion is None else emotion)
