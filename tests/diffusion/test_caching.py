"""Protects feature caching: which steps run the whole network, whose features the others use, and that off means off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.caching import UNCACHED, CacheSchedule
from portrait_jax.diffusion.guidance import classifier_free
from portrait_jax.diffusion.sampler import first_state, guided_step, sample
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import make_solver
from portrait_jax.errors import ConfigError
from portrait_jax.long_video.overlap import chunk_sampler, init_carry, plan_windows, sample_windows
from portrait_jax.long_video.prefix import init_carry as prefix_carry
from portrait_jax.long_video.prefix import sample_prefixed
from portrait_jax.long_video.progressive import plan_gaps, sample_gaps
from portrait_jax.systems.system import SamplingConfig, cache_of, guidance_of

SCHEDULE = make_schedule("scaled_linear", zero_terminal_snr=True)
SHAPE = (2, 3, 2, 2, 2)
NOISE = jax.random.normal(jax.random.key(0), SHAPE)
STEPS = 5


class Network:
    """Its shallow half reads noise and level at every step; its deep half what it is told, and the level if it `changes`."""

    def __init__(self, changes: bool):
        self.changes, self.whole = changes, 0

    def count(self, _):
        self.whole += 1

    def __call__(self, x, timestep, conditioning):
        cache, level = conditioning.cache, timestep[:, None, None, None, None] / 1000
        if cache is not None and cache.deep is not None:
            deep = cache.deep
        else:
            jax.debug.callback(self.count, timestep)
            deep = jnp.sin(3 * conditioning.spatial) + (level**2 if self.changes else 0 * level)
        out = x * 0.5 + deep * 0.25 + level * 0.125
        return out if cache is None else (out, deep)


def conditionings():
    spatial = jax.random.normal(jax.random.key(2), SHAPE)
    return {"cond": Conditioning(spatial=spatial), "uncond": Conditioning(spatial=0.5 - spatial)}


def sampled(network, every, batched=True, **settings):
    rule = guidance_of(SamplingConfig(**{"guidance": 2.0, **settings}))
    solver = make_solver("ddim", SCHEDULE, STEPS)
    run = jax.jit(
        lambda: sample(network, NOISE, conditionings(), solver, rule, batched=batched, cache=CacheSchedule(every))
    )
    found = np.asarray(run())
    jax.effects_barrier()
    return found


def test_without_caching_the_network_never_hears_of_it_and_the_sample_is_the_plain_one_bit_for_bit():
    solver, rule = make_solver("ddim", SCHEDULE, STEPS), classifier_free(2.0)

    def plain(x, timestep, conditioning):
        assert conditioning.cache is None
        return Network(True)(x, timestep, conditioning)

    @jax.jit
    def by_hand():
        step = guided_step(plain, conditionings(), solver, rule)
        start = first_state(solver, NOISE, conditionings(), rule)
        return jax.lax.scan(lambda state, i: (step(state, i, None), None), start, jnp.arange(STEPS))[0]

    run = jax.jit(lambda: sample(plain, NOISE, conditionings(), solver, rule, cache=CacheSchedule(1, depth=2)))
    np.testing.assert_array_equal(run(), by_hand())
    assert not UNCACHED.on


@pytest.mark.parametrize(("every", "whole"), [(1, 5), (2, 3), (3, 2), (9, 1)])
def test_the_whole_network_runs_at_every_nth_step(every, whole):
    network = Network(True)
    sampled(network, every)
    assert network.whole == whole == CacheSchedule(every).whole(STEPS).sum()


@pytest.mark.parametrize("batched", [True, False])
def test_deep_features_that_never_change_give_the_plain_sample(batched):
    """They differ between branches, so that one branch's in the place of the other's would show. (Two programs round apart.)"""
    plain = sampled(Network(False), 1, batched)
    np.testing.assert_allclose(sampled(Network(False), 3, batched), plain, rtol=0, atol=1e-6)


def test_other_steps_use_the_features_of_the_last_whole_one():
    """A loop by hand keeps the level that the deep half saw last."""
    solver, scale = make_solver("ddim", SCHEDULE, STEPS), 2.0
    state, told = NOISE, {name: c.spatial for name, c in conditionings().items()}
    for index, timestep in enumerate(solver.timesteps):
        seen = solver.timesteps[index - index % 2] / 1000
        made = {
            name: state * 0.5 + (jnp.sin(3 * spatial) + seen**2) * 0.25 + timestep / 1000 * 0.125
            for name, spatial in told.items()
        }
        state = solver.step(state, made["uncond"] + scale * (made["cond"] - made["uncond"]), index)
    found = sampled(Network(True), 2)
    np.testing.assert_allclose(found, state, atol=1e-5)
    assert np.abs(found - sampled(Network(True), 1)).max() > 1e-3


def test_where_guidance_begins_later_its_other_branch_gets_features_of_its_own():
    """It acts at steps 1 to 3: step 1 is whole, though the schedule alone would not have it so."""
    guided = guidance_of(SamplingConfig(guidance=2.0, guidance_interval=(0.2, 0.8))).active(STEPS)
    assert CacheSchedule(3).whole(STEPS, guided).tolist() == [True, True, False, True, False]
    settings = {"guidance_interval": (0.2, 0.8)}
    plain = sampled(Network(False), 1, **settings)
    np.testing.assert_allclose(sampled(Network(False), 3, **settings), plain, rtol=0, atol=1e-6)


# Long videos

FRAME = (1, 2, 2, 2)
KEY = jax.random.key(7)


def in_windows(strategy, every, changes, size):
    """Twelve frames, each told something of its own, in chunks of `size` windows."""
    solver, cache = make_solver("ddim", SCHEDULE, STEPS), CacheSchedule(every)
    wave = jax.random.normal(jax.random.key(5), (1, 12, *FRAME[1:]))
    shared = {"solver": solver, "guidance": classifier_free(2.0), "cache": cache}
    plan = plan_gaps(12, 4) if strategy == "progressive" else plan_windows(12, 6, 2)
    sizes = {} if strategy == "progressive" else {"length": 6, "overlap": 2, "size": size}
    sampler = {"overlap": sample_windows, "prefix": sample_prefixed, "progressive": sample_gaps}[strategy]
    network = Network(changes)
    run = chunk_sampler(sampler, lambda params, *args: network(*args), **shared, **sizes)
    begin = {"overlap": init_carry, "prefix": prefix_carry}.get(strategy)
    carry = plan.blank(solver, FRAME) if begin is None else begin(solver, 2, FRAME)
    parts = []
    for first in plan.chunks(size):
        spatial = wave[:, plan.source_frames(first, size)]
        told = {"cond": Conditioning(spatial=spatial), "uncond": Conditioning(spatial=0.5 - spatial)}
        carry, latents = run({}, told, carry, KEY, *plan.arguments(first, size))
        parts.append(np.asarray(plan.emit(first, latents)))
        carry = jax.device_get(carry)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("strategy", ["overlap", "prefix", "progressive"])
def test_no_window_uses_the_features_of_another(strategy):
    plain = in_windows(strategy, 1, changes=False, size=2)
    np.testing.assert_allclose(in_windows(strategy, 2, changes=False, size=2), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["overlap", "prefix"])
def test_chunks_equal_one_large_chunk_bit_for_bit(strategy):
    """What is kept is no part of what a chunk hands over, so an interruption changes nothing."""
    whole = in_windows(strategy, 2, changes=True, size=3)
    np.testing.assert_array_equal(in_windows(strategy, 2, changes=True, size=1), whole)
    assert np.abs(whole - in_windows(strategy, 1, changes=True, size=3)).max() > 1e-3


def test_an_anchor_in_features_does_not_go_with_caching():
    with pytest.raises(ConfigError, match=r"cache_every 2 does not go with sampling.anchor 'blocks'.*set it to 1"):
        sample_prefixed(
            Network(False), {}, {}, KEY, 0, 1, solver=make_solver("ddim", SCHEDULE, 2), guidance=classifier_free(1.0),
            length=4, overlap=2, size=1, anchor="blocks", cache=CacheSchedule(2),
        )  # fmt: skip


def test_numbers_that_say_nothing_are_refused():
    assert cache_of(SamplingConfig(cache_every=3, cache_depth=2)) == CacheSchedule(3, 2)
    with pytest.raises(ConfigError, match="cache_every 0 must be at least 1"):
        cache_of(SamplingConfig(cache_every=0))
