"""Protects videos of windows with a clean prefix: the rule itself, statistics of the anchor, chunks that change nothing."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import classifier_free, mimicking
from portrait_jax.diffusion.sampler import sample
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import make_solver
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.long_video.overlap import chunk_sampler, frame_noise
from portrait_jax.long_video.prefix import init_carry, plan_prefixed, sample_prefixed
from portrait_jax.nn.moments import align, moments

SCHEDULE = make_schedule("linear")
LENGTH, OVERLAP = 6, 2
SHAPE = (1, 2, 2, 3)
"""b h w c of one frame."""
KEY = jax.random.key(7)
PARAMS = {"mix": jax.random.normal(jax.random.key(3), (LENGTH, LENGTH)) / 3}


def network(params, x, timestep, conditioning):
    """Mixes frames, so that the prefix matters; reads a per-frame field, and which frames are given."""
    mixed = jnp.einsum("fg,bghwc->bfhwc", params["mix"], x)
    told = conditioning.given[:, :, None, None, None]
    return jnp.tanh(mixed + conditioning.spatial + told + timestep[:, None, None, None, None] / 1000) + 0.1 * x


def driving(plan, first, size):
    wave = jax.random.normal(jax.random.key(5), (1, plan.frames, 2, 2, 3))
    spatial = wave[:, plan.source_frames(first, size)]
    return {"cond": Conditioning(spatial=spatial), "uncond": Conditioning(spatial=0 * spatial)}


@cache
def solver_of(name="ddim"):
    return make_solver(name, SCHEDULE, 3, "epsilon", "leading", offset=1, previous="stride")


@cache
def sampler(solver, size, anchor, mimic):
    guidance = mimicking(2.0, 1.5, 0.9) if mimic else classifier_free(2.0)
    return chunk_sampler(
        sample_prefixed,
        network,
        solver=solver,
        guidance=guidance,
        length=LENGTH,
        overlap=OVERLAP,
        size=size,
        anchor=anchor,
    )


def animate(solver, frames, size, anchor="latent", mimic=False):
    """Samples a video chunk by chunk, passing the carry through host memory as a resumed run would."""
    plan = plan_prefixed(frames, LENGTH, OVERLAP, anchor=anchor)
    run, carry, parts = sampler(solver, size, anchor, mimic), plan.blank(solver, SHAPE), []
    for first in plan.chunks(size):
        arguments = plan.arguments(first, size)
        carry, latents = run(PARAMS, driving(plan, first, size), carry, KEY, *arguments)
        parts.append(np.asarray(plan.emit(first, latents)))
        carry = jax.device_get(carry)
    return np.concatenate(parts, axis=1)


def reference_animation(solver, frames, anchored, guidance):
    """Both algorithms as simply as they can be written: one window, one step, one channel at a time."""
    stride, stored, prefix, video = LENGTH - OVERLAP, {}, None, []
    plan = plan_prefixed(frames, LENGTH, OVERLAP)
    count = 1 if frames <= LENGTH else 1 + -(-(frames - LENGTH) // stride)
    for i in range(count):
        free = range(LENGTH) if i == 0 else range(OVERLAP, LENGTH)
        state = np.array(solver.init(frame_noise(KEY, i * stride, LENGTH, SHAPE)))
        given = np.array([[float(i > 0 and j < OVERLAP) for j in range(LENGTH)]], np.float32)
        told = {name: value.replace(given=jnp.asarray(given)) for name, value in driving(plan, i, 1).items()}
        for k, timestep in enumerate(solver.timesteps):
            if i > 0:
                state[:, :OVERLAP] = prefix
            at = jnp.full(1, timestep)
            predictions = {name: network(PARAMS, jnp.asarray(state), at, told[name]) for name in ("cond", "uncond")}
            more = (jnp.asarray(given),) if guidance.reads_given else ()
            state = np.array(solver.step(jnp.asarray(state), guidance.combine(predictions, *more), k))
            for c in range(SHAPE[-1]):
                values = np.stack([state[0, j, :, :, c] for j in free])
                if i == 0:
                    stored[k, c] = values.mean(), values.std()
                elif anchored:
                    mean, deviation = stored[k, c]
                    for j in free:
                        own = (state[0, j, :, :, c] - values.mean()) / (values.std() + 1e-5)
                        state[0, j, :, :, c] = own * deviation + mean
        if i > 0:
            state[:, :OVERLAP] = prefix
        prefix = state[:, stride:].copy()
        video.append(state if i == 0 else state[:, OVERLAP:])
    return np.concatenate(video, axis=1)[:, :frames]


@pytest.mark.parametrize(("anchor", "mimic"), [("latent", False), ("none", False), ("latent", True)])
def test_the_scan_follows_both_algorithms(anchor, mimic):
    solver = solver_of()
    guidance = mimicking(2.0, 1.5, 0.9) if mimic else classifier_free(2.0)
    expected = reference_animation(solver, 17, anchor == "latent", guidance)
    np.testing.assert_allclose(animate(solver, 17, 2, anchor, mimic), expected, atol=3e-5)


@pytest.mark.parametrize(("name", "size"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_chunks_equal_the_monolithic_scan_bit_for_bit(name, size):
    whole = animate(solver_of(name), 17, plan_prefixed(17, LENGTH, OVERLAP).count)
    assert whole.shape == (1, 17, 2, 2, 3) and np.isfinite(whole).all()
    np.testing.assert_array_equal(animate(solver_of(name), 17, size), whole)


@pytest.mark.parametrize(
    ("frames", "windows"), [(1, 1), (LENGTH, 1), (LENGTH + 1, 2), (LENGTH + 4, 2), (LENGTH + 5, 3)]
)
def test_lengths_give_the_windows_of_the_paper_and_every_frame_once(frames, windows):
    plan = plan_prefixed(frames, LENGTH, OVERLAP)
    assert plan.count == windows and plan.emitted.sum() == frames
    assert plan.blended.size == 0
    numbers = [start + np.arange(count) for start, count in zip(plan.starts, plan.emitted)]
    np.testing.assert_array_equal(np.concatenate(numbers), np.arange(frames))


def test_borders_come_after_the_prefix():
    assert plan_prefixed(17, 6, 2).borders.tolist() == [6, 10, 14]
    assert plan_prefixed(6, 6, 2).borders.tolist() == []


def test_the_prefix_comes_out_as_it_went_in():
    solver, plan = solver_of("dpmpp_2m"), plan_prefixed(14, LENGTH, OVERLAP)
    run = sampler(solver, 3, "latent", False)
    _, latents = run(PARAMS, driving(plan, 0, 3), plan.blank(solver, SHAPE), KEY, 0, plan.count)
    for before, after in zip(latents[:-1], latents[1:]):
        np.testing.assert_array_equal(after[:, :OVERLAP], before[:, LENGTH - OVERLAP :])


def test_a_video_of_one_window_equals_plain_sampling():
    solver, plan = solver_of(), plan_prefixed(4, LENGTH, OVERLAP)
    given = {name: c.replace(given=jnp.zeros((1, LENGTH))) for name, c in driving(plan, 0, 1).items()}
    noise = frame_noise(KEY, 0, LENGTH, SHAPE)
    plain = jax.jit(lambda: sample(partial(network, PARAMS), noise, given, solver, classifier_free(2.0)))()
    np.testing.assert_allclose(animate(solver, 4, 1), plain[:, :4], rtol=1e-5, atol=1e-5)


def measured_network(params, x, timestep, conditioning):
    """`network` whose features, the mixed frames, are measured and brought to the anchor's."""
    told, features = conditioning.anchor, jnp.einsum("fg,bghwc->bfhwc", params["mix"], x) + conditioning.spatial
    own = jnp.stack(moments(features, told.free), axis=1)
    mean, deviation = jnp.moveaxis(told.statistics["mix"], 1, 0)
    given = conditioning.given[:, :, None, None, None]
    moved = align(features, told.free, mean, deviation, told.strength)
    return jnp.tanh(moved + given) + 0.1 * x, {"mix": own}


def animate_measured(frames, size, strength=1.0, batched=True, seen=None):
    """As `animate`, with the network's features brought to those of the first window."""
    solver = solver_of()
    plan = plan_prefixed(frames, LENGTH, OVERLAP, anchor="blocks", strength=strength)
    plan = dataclasses.replace(plan, sites={key: {"mix": SHAPE[-1]} for key in ("uncond", "cond")})
    run = plan.sampler(seen or measured_network, size, solver=solver, guidance=classifier_free(2.0), batched=batched)
    carry, parts = plan.blank(solver, SHAPE), []
    for first in plan.chunks(size):
        carry, latents = run(PARAMS, driving(plan, first, size), carry, KEY, *plan.arguments(first, size))
        parts.append(np.asarray(plan.emit(first, latents)))
        carry = jax.device_get(carry)
    return np.concatenate(parts, axis=1), carry


def test_features_are_brought_to_those_of_the_first_window_in_each_branch():
    """With its own statistics as the target, what a window does is measured again inside the network, by a callback."""
    found = []

    def watching(params, x, timestep, conditioning):
        out, own = measured_network(params, x, timestep, conditioning)
        told = conditioning.anchor
        features = jnp.einsum("fg,bghwc->bfhwc", params["mix"], x) + conditioning.spatial
        mean, deviation = jnp.moveaxis(told.statistics["mix"], 1, 0)
        moved = jnp.stack(moments(align(features, told.free, mean, deviation, told.strength), told.free), axis=1)
        jax.debug.callback(lambda *values: found.append(values), moved, told.strength, ordered=True)
        return out, own

    _, carry = animate_measured(14, 1, batched=False, seen=watching)
    jax.effects_barrier()
    steps, windows = 3, 3
    assert len(found) == 2 * steps * windows
    branches = ("uncond", "cond")  # As guidance runs them.
    for number, (moved, strength) in enumerate(found):
        window, (step, branch) = number // (2 * steps), divmod(number % (2 * steps), 2)
        assert strength == (window > 0)
        np.testing.assert_allclose(moved, carry["blocks"][branches[branch]]["mix"][step], atol=1e-4)


def test_anchored_features_change_later_windows_alone_and_chunks_change_nothing():
    whole, _ = animate_measured(17, 4)
    free, _ = animate_measured(17, 4, strength=0.0)
    np.testing.assert_allclose(whole[:, :LENGTH], free[:, :LENGTH], atol=1e-5)
    assert np.abs(whole[:, LENGTH:] - free[:, LENGTH:]).max() > 1e-2
    np.testing.assert_array_equal(animate_measured(17, 1)[0], whole)
    np.testing.assert_allclose(animate_measured(17, 4, batched=False)[0], whole, atol=1e-4)


def test_a_foreign_carry_and_an_unknown_anchor_are_refused():
    solver, plan = solver_of(), plan_prefixed(9, LENGTH, OVERLAP)
    with pytest.raises(ShapeError, match="prefix of 3 frames, but this run has 3 steps and a prefix of 2"):
        sampler(solver, 2, "latent", False)(
            PARAMS, driving(plan, 0, 2), init_carry(solver, 3, SHAPE), KEY, 0, plan.count
        )
    with pytest.raises(ConfigError, match="did you mean 'latent'"):
        plan_prefixed(9, LENGTH, OVERLAP, anchor="latents")
