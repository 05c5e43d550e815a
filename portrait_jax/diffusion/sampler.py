"""Sampling: one `lax.scan` over the solver's steps around guided network evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from portrait_jax.conditioning import SHARED, Conditioning, FeatureCache
from portrait_jax.diffusion import caching
from portrait_jax.diffusion.caching import UNCACHED, CacheSchedule, Kept
from portrait_jax.diffusion.guidance import Guidance, identity
from portrait_jax.diffusion.solvers import Index, Solver
from portrait_jax.errors import ConfigError, ShapeError, listed, nearest
from portrait_jax.sharding.activations import items_apart
from portrait_jax.typing import Array, Float, PyTree

Denoise = Callable[[Array, Array, Conditioning], PyTree]
"""(noisy latents `b f h w c`, timestep `b`, conditioning) → prediction `b f h w c`; one that measures, or is told of a cache,
returns a pair, that and a tree of arrays with the same batch axis."""

Predict = Callable[..., Mapping[str, PyTree]]
"""(noisy latents `b f h w c`, scalar timestep, {branch: `Conditioning.cache`} or None) → what `Denoise` returns, per branch."""


def one_batch(denoise: Denoise, branches: Mapping[str, Conditioning]) -> Predict:
    """Runs all branches as one batch: fastest where memory allows.

    Over a mesh whose batch axes divide that batch (clips × branches) each device runs its own clips and branches.

    Raises:
        ShapeError: if the branches have not the same fields and shapes.
    """
    joined = _joined(branches)

    def predict(x: Array, timestep: Array, caches: Mapping[str, FeatureCache] | None = None) -> Mapping[str, PyTree]:
        count, told = len(branches), joined
        if caches is not None:
            own = [caches[name] for name in branches]
            told = joined.replace(cache=items_apart(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *own)))
        repeated = jnp.concatenate([x] * count), jnp.broadcast_to(timestep, (x.shape[0] * count,))
        noisy, timesteps = items_apart(repeated)
        output = denoise(noisy, timesteps, told)
        leaves, structure = jax.tree.flatten(output)
        parts = zip(*(jnp.split(leaf, count) for leaf in leaves), strict=True)
        return {name: jax.tree.unflatten(structure, part) for name, part in zip(branches, parts, strict=True)}

    return predict


def one_by_one(denoise: Denoise, branches: Mapping[str, Conditioning]) -> Predict:
    """Runs the branches one after another: least memory, and branches may have different fields. Clips lie over a mesh's batch axes
    where these divide them."""

    def predict(x: Array, timestep: Array, caches: Mapping[str, FeatureCache] | None = None) -> Mapping[str, PyTree]:
        noisy, repeated = items_apart((x, jnp.broadcast_to(timestep, x.shape[:1])))
        own = caches or {}
        return {
            name: denoise(noisy, repeated, conditioning.replace(cache=own.get(name)))
            for name, conditioning in branches.items()
        }

    return predict


def predictor(
    denoise: Denoise, conditionings: Mapping[str, Conditioning], guidance: Guidance, *, batched: bool = True
) -> Predict:
    """How the guidance's branches are run, see `guided_step`."""
    for name in guidance.branches:
        if name not in conditionings:
            raise ConfigError(f"guidance needs a conditioning named '{name}'{nearest(name, list(conditionings))}")
    run = one_batch if batched and len(guidance.branches) > 1 else one_by_one
    return run(denoise, {name: conditionings[name] for name in guidance.branches})


def first_state(
    solver: Solver, noise: Float[Array, "b f h w c"], conditionings: Mapping[str, Conditioning], guidance: Guidance
) -> PyTree:
    """The state before step 0, around the last branch's `Conditioning.start` if it has one."""
    start = conditionings[guidance.branches[-1]].start
    return solver.init(noise, None if start is None else start[:, None])


def guided_step(
    denoise: Denoise,
    conditionings: Mapping[str, Conditioning],
    solver: Solver,
    guidance: Guidance,
    *,
    batched: bool = True,
    measures: bool = False,
) -> Callable[[PyTree, Index, Array | None], PyTree]:
    """Builds step(state, index, noise) → state: the guided network evaluation and the solver's update.

    Everything that does not depend on the step, such as joining the branches, happens here, outside the loop. Where `denoise`
    `measures`, step returns (state, {branch: what it measured}).

    Raises:
        ConfigError, ShapeError: see `guided`.
    """
    predict = guided_at(denoise, conditionings, solver, guidance, batched=batched, measures=measures)

    def step(state: PyTree, index: Index, noise: Array | None = None) -> PyTree:
        found = predict(solver.result(state), index)
        if not measures:
            return solver.step(state, found, index, noise)
        prediction, measured = found
        return solver.step(state, prediction, index, noise), measured

    return step


class Steps(NamedTuple):
    """What a loop over solver steps calls; see `cached_steps`."""

    step: Callable[[PyTree, Index, Array | None, Kept], tuple[PyTree, Kept]]
    """(state, step, noise, what earlier steps keep for later ones) → (state, kept)."""
    blank: Callable[[PyTree], Kept]
    """The first state → what the first step is handed as kept."""


def cached_steps(
    denoise: Denoise,
    conditionings: Mapping[str, Conditioning],
    solver: Solver,
    guidance: Guidance,
    cache: CacheSchedule,
    *,
    batched: bool = True,
) -> Steps:
    """`guided_step` whose network keeps its deep features as `cache` says, for each branch its own; see `diffusion.caching`.

    Raises:
        ConfigError, ShapeError: see `guided`.
    """
    if not cache.on:
        plain = guided_step(denoise, conditionings, solver, guidance, batched=batched)
        return Steps(lambda state, index, noise, kept: (plain(state, index, noise), kept), lambda state: {})
    timesteps, active = jnp.asarray(solver.timesteps), guidance.active(solver.steps)
    chosen = [guidance] if active is None else [identity(guidance.branches[-1]), guidance]
    rules = [(guided(denoise, conditionings, rule, batched=batched, measures=True), rule.branches) for rule in chosen]
    predict = caching.choose(rules, cache, timesteps, active)

    def step(state: PyTree, index: Index, noise: Array | None, kept: Kept) -> tuple[PyTree, Kept]:
        prediction, kept = predict(solver.result(state), index, kept)
        return solver.step(state, prediction, index, noise), kept

    return Steps(step, lambda state: caching.blank(rules[-1], cache, solver.result(state), timesteps[0]))


def guided_at(
    denoise: Denoise,
    conditionings: Mapping[str, Conditioning],
    solver: Solver,
    guidance: Guidance,
    *,
    batched: bool = True,
    measures: bool = False,
) -> Callable[[Array, Index], PyTree]:
    """`guided` at the solver's steps: predict(noisy latents, step); outside the guidance's interval its last branch alone.

    Raises:
        ConfigError, ShapeError: see `guided`; or for an interval where the network measures all branches at every step.
    """
    whole = guided(denoise, conditionings, guidance, batched=batched, measures=measures)
    timesteps, active = jnp.asarray(solver.timesteps), guidance.active(solver.steps)
    if active is None:
        return lambda x, index: whole(x, timesteps[index])
    if measures:
        raise ConfigError(
            "sampling.anchor 'blocks' measures every branch at every step; leave sampling.guidance_interval whole"
        )
    alone = guided(denoise, conditionings, identity(guidance.branches[-1]))

    def predict(x: Array, index: Index) -> Array:
        return jax.lax.cond(jnp.asarray(active)[index], whole, alone, x, timesteps[index])

    return predict


def guided(
    denoise: Denoise,
    conditionings: Mapping[str, Conditioning],
    guidance: Guidance,
    *,
    batched: bool = True,
    measures: bool = False,
) -> Callable[..., PyTree]:
    """Builds predict(noisy latents, scalar timestep) → the prediction that the guidance makes of its branches', float32; and, where
    `denoise` `measures`, {branch: what it measured}, or its deep features where it is told of them ({branch: cache}, a third
    argument).

    Raises:
        ConfigError: if a branch that the guidance needs is missing.
        ShapeError: if `batched` and the branches differ in fields or shapes.
    """
    predict = predictor(denoise, conditionings, guidance, batched=batched)
    more = (conditionings[guidance.branches[-1]].given,) if guidance.reads_given else ()

    def combined(predictions: Mapping[str, Array]) -> Array:
        # Branches differ by little, and a scale makes what bfloat16 rounds off of that difference larger.
        return guidance.combine({name: each.astype(jnp.float32) for name, each in predictions.items()}, *more)

    if not measures:
        return lambda x, timestep: combined(predict(x, timestep))

    def both(
        x: Array, timestep: Array, caches: Mapping[str, FeatureCache] | None = None
    ) -> tuple[Array, dict[str, PyTree]]:
        found = predict(x, timestep, caches)
        predictions = {name: prediction for name, (prediction, _) in found.items()}
        return combined(predictions), {name: measured for name, (_, measured) in found.items()}

    return both


def sample(
    denoise: Denoise,
    noise: Float[Array, "b f h w c"],
    conditionings: Mapping[str, Conditioning],
    solver: Solver,
    guidance: Guidance,
    *,
    batched: bool = True,
    step_noise: Callable[[Index], Float[Array, "b f h w c"]] | None = None,
    cache: CacheSchedule = UNCACHED,
) -> Float[Array, "b f h w c"]:
    """Samples latents from noise. Pure; jit it with the network's parameters as an argument.

    Args:
        denoise: the network, see `Denoise`; it may compute in bf16, the solver's state is float32.
        noise: unit-variance noise.
        conditionings: at least the guidance's branches, each with the batch axis of `noise`.
        batched: whether the branches run as one batch (`one_batch`) or one after another (`one_by_one`).
        step_noise: step index → fresh unit-variance noise, for stochastic solvers only.
        cache: the schedule of feature caching; the default runs the whole network at every step.

    Returns:
        float32 latents in the scale of the network's training.

    Raises:
        ConfigError, ShapeError: see `guided_step`.
    """
    run = cached_steps(denoise, conditionings, solver, guidance, cache, batched=batched)

    def body(carry: tuple[PyTree, Kept], index: Array) -> tuple[tuple[PyTree, Kept], None]:
        state, kept = carry
        fresh = step_noise(index) if step_noise is not None else None
        return run.step(state, index, fresh, kept), None

    start = first_state(solver, noise, conditionings, guidance)
    (state, _), _ = jax.lax.scan(body, (start, run.blank(start)), jnp.arange(solver.steps))
    return solver.result(state)


def _joined(branches: Mapping[str, Conditioning]) -> Conditioning:
    """Concatenates the branches on the batch axis; fields that they share stay as they are."""
    (first, reference), *others = branches.items()
    for name, conditioning in others:
        if any(getattr(conditioning, field) is not getattr(reference, field) for field in SHARED):
            raise ShapeError(
                f"guidance branches '{first}' and '{name}' must share {', '.join(SHARED)}, the very same arrays; "
                "make one branch from the other by `replace`, or use batched=False"
            )
        here, there = _fields(reference), _fields(conditioning)
        differing = sorted(path for path in here | there if here.get(path) != there.get(path))
        if differing:
            shapes = (f"{path} {here.get(path, 'absent')} and {there.get(path, 'absent')}" for path in differing)
            raise ShapeError(
                f"guidance branches '{first}' and '{name}' cannot form one batch: {listed(shapes)}; "
                "fill dropped fields (zero tokens, reference_mask 0), or use batched=False"
            )
    own = [conditioning.replace(**dict.fromkeys(SHARED)) for conditioning in branches.values()]
    joined = items_apart(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *own))
    return joined.replace(**{field: getattr(reference, field) for field in SHARED})


def _fields(conditioning: Conditioning) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(conditioning)
    return {jax.tree_util.keystr(path).lstrip("."): jnp.shape(leaf) for path, leaf in leaves}
