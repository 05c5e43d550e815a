"""From an optimizer's settings to an optax transformation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optax

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.training.state import flatten, matches, merge, partition, unflatten
from portrait_jax.training.task import OptimizerConfig, Stage
from portrait_jax.typing import Params, PyTree


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate as a function of optimizer steps done (0 … steps−1).

    Raises:
        ConfigError: for an unknown schedule.
    """
    after = {
        "constant": lambda: optax.constant_schedule(config.lr),
        "linear": lambda: optax.linear_schedule(config.lr, 0.0, max(steps - config.warmup_steps, 1)),
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
    """The stage's optimizer; with an adversary two, each for its own leaves.

    Raises:
        ConfigError: for an unknown optimizer or schedule.
    """
    own = adamw(stage.optimizer, stage.steps)
    if stage.adversary is None:
        return own
    return apart(own, adamw(stage.adversary.optimizer, stage.steps), stage.adversary.trainable)


def adamw(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW on its schedule; raises as `make_optimizer`."""
    if config.name != "adamw":
        raise ConfigError(f"optimizer '{config.name}' is not known; known are: adamw")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    rate = make_schedule(config, steps)
    return optax.chain(
        clip, optax.adamw(rate, config.b1, config.b2, weight_decay=config.weight_decay, mask=decaying(config))
    )


def decaying(config: OptimizerConfig) -> Callable[[Params], PyTree] | None:
    """Parameters → which of their leaves decay; None: all do."""
    if not config.no_decay:
        return None

    def mask(params: Params) -> PyTree:
        return unflatten({name: not matches(name, config.no_decay) for name in flatten(params)})

    return mask


def apart(
    own: optax.GradientTransformation, adversary: optax.GradientTransformation, patterns: Sequence[str]
) -> optax.GradientTransformation:
    """One optimizer for the leaves that `patterns` match and one for all others; norms and moments are not shared."""

    def init(params: Params) -> PyTree:
        theirs, ours = partition(params, patterns)
        return {"own": own.init(ours), "adversary": adversary.init(theirs)}

    def update(gradients: Params, state: PyTree, params: Params | None = None) -> tuple[Params, PyTree]:
        theirs, ours = partition(gradients, patterns)
        their_params, our_params = (None, None) if params is None else partition(params, patterns)
        our_updates, our_state = own.update(ours, state["own"], our_params)
        their_updates, their_state = adversary.update(theirs, state["adversary"], their_params)
        return merge(our_updates, their_updates), {"own": our_state, "adversary": their_state}

    return optax.GradientTransformation(init, update)
