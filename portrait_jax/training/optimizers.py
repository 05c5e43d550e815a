"""From an optimizer's settings to an optax transformation."""

from __future__ import annotations

import optax

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.training.task import OptimizerConfig, Stage


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate as a function of optimizer steps done (0 … steps−1).

    Raises:
        ConfigError: for an unknown schedule.
    """
    after = {
        "constant": lambda: optax.constant_schedule(config.lr),
        "cosine": lambda: optax.cosine_decay_schedule(config.lr, max(steps - config.warmup_steps, 1)),
    }
    if config.schedule not in after:
        raise ConfigError(f"schedule '{config.schedule}' is not known{nearest(config.schedule, list(after))}")
    if not config.warmup_steps:
        return after[config.schedule]()
    # The first step already moves: a rate of exactly 0 would waste it.
    warmup = optax.linear_schedule(config.lr / (config.warmup_steps + 1), config.lr, config.warmup_steps)
    return optax.join_schedules([warmup, after[config.schedule]()], [config.warmup_steps])


def make_optimizer(stage: Stage) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW on the stage's schedule.

    Raises:
        ConfigError: for an unknown optimizer or schedule.
    """
    config = stage.optimizer
    if config.name != "adamw":
        raise ConfigError(f"optimizer '{config.name}' is not known; known are: adamw")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    rate = make_schedule(config, stage.steps)
    return optax.chain(clip, optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay))
