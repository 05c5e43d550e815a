"""Protects videos from keyframes: every frame once, given frames untouched, the recursion as written, chunks that change
nothing, memory that hardly grows."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import classifier_free, identity
from portrait_jax.diffusion.pinned import Pinned
from portrait_jax.diffusion.sampler import sample
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import make_solver
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.long_video.known import tell
from portrait_jax.long_video.overlap import chunk_sampler, frame_noise, noise_of
from portrait_jax.long_video.progressive import init_carry, plan_gaps, sample_gaps

SCHEDULE = make_schedule("scaled_linear", zero_terminal_snr=True)
LENGTH = 4
SHAPE = (1, 2, 2, 3)
"""b h w c of one frame."""
KEY = jax.random.key(7)


# The plan


@st.composite
def layouts(draw):
    length = draw(st.integers(3, 20))
    return draw(st.integers(1, 3000)), length


@given(layouts())
def test_every_frame_is_emitted_exactly_once_and_in_order(layout):
    frames, length = layout
    plan = plan_gaps(frames, length)
    emitted = [start + np.arange(count) for start, count in zip(plan.starts, plan.emitted) if count]
    np.testing.assert_array_equal(np.concatenate(emitted), np.arange(frames))
    assert plan.emitted.max() <= length and plan.emitted[plan.levels > 0].sum() == 0
    done = [plan.first_frame(unit) for unit in range(plan.count + 1)]
    assert done == [0, *np.cumsum(plan.emitted)] and plan.first_frame(plan.count + 3) == frames


@given(layouts())
def test_every_frame_is_made_once_and_both_ends_of_a_clip_are_made_before_it(layout):
    frames, length = layout
    plan = plan_gaps(frames, length)
    made, newest = [], {}
    for level, start, slot in zip(plan.levels.tolist(), plan.starts.tolist(), plan.slots.tolist()):
        numbers = start + plan.stride**level * np.arange(length)
        if level == plan.depth:
            made += numbers.tolist()
        else:
            ends = newest[level + 1][slot : slot + 2]
            np.testing.assert_array_equal(ends, numbers[[0, -1]])
            made += numbers[1:-1].tolist()
        newest[level] = numbers
    assert len(set(made)) == len(made)
    assert set(range(frames)) <= set(made)


@given(layouts(), st.integers(1, 5))
def test_chunks_name_the_frames_of_their_clips_and_never_one_past_the_end(layout, size):
    plan = plan_gaps(*layout)
    for first in list(plan.chunks(size))[:3] + list(plan.chunks(size))[-1:]:
        (clips,) = plan.arguments(first, size)
        source = plan.source_frames(first, size).reshape(size, plan.length)
        assert source.max() < plan.frames
        active = clips["active"] > 0
        assert active.sum() == min(size, plan.count - first)
        np.testing.assert_array_equal(source[active, 0], plan.starts[first : first + size])


def test_keyframes_have_a_border_on_both_sides():
    plan = plan_gaps(11, 4)
    assert plan.blended.tolist() == [3, 6, 9]
    assert plan.borders.tolist() == [3, 4, 6, 7, 9, 10]
    assert plan_gaps(4, 4).borders.size == 0


def test_the_depth_grows_with_the_logarithm_of_the_length():
    assert [plan_gaps(frames, 16).depth for frames in (1, 16, 17, 226, 227, 3376, 3377)] == [0, 0, 1, 1, 2, 2, 3]
    overhead = plan_gaps(30_000, 16)
    assert (overhead.levels > 0).mean() < 0.08


@pytest.mark.parametrize(("frames", "length", "message"), [(0, 8, "at least one frame"), (9, 2, "give at least 3")])
def test_a_plan_that_cannot_be_is_refused(frames, length, message):
    with pytest.raises(ConfigError, match=message):
        plan_gaps(frames, length)


# The scan


def network(params, x, timestep, conditioning):
    """Mixes frames, listens to what is given and to its control, and depends on the noise level."""
    mixed = jnp.einsum("fg,bghwc->bfhwc", params["mix"], x)
    told = conditioning.known - conditioning.given[:, :, None, None, None]
    level = timestep[:, None, None, None, None] / 1000
    return jnp.tanh(mixed + conditioning.spatial + 0.5 * jnp.roll(told, 1, axis=1) + level) + 0.1 * x


PARAMS = {"mix": jax.random.normal(jax.random.key(3), (LENGTH, LENGTH)) / 3}


@cache
def solver_of(name, eta=0.0):
    return make_solver(name, SCHEDULE, 3, **({"eta": eta} if eta else {}))


@cache
def sampler(solver, run=network):
    return chunk_sampler(sample_gaps, run, solver=solver, guidance=classifier_free(2.0), noise_share=0.3)


def control(frames):
    """A random residual for every frame."""
    return jax.random.normal(jax.random.key(5), (1, frames, 2, 2, 3))


def driving(plan, first, size):
    spatial = control(plan.frames)[:, plan.source_frames(first, size)]
    return {"cond": Conditioning(spatial=spatial), "uncond": Conditioning(spatial=0 * spatial)}


def chunks(solver, frames, size):
    """Plan, latents of every clip, and the video, chunk by chunk; the carry passes through host memory."""
    plan, run = plan_gaps(frames, LENGTH), sampler(solver)
    carry, clips, video = init_carry(plan.depth, LENGTH, SHAPE), [], []
    for first in plan.chunks(size):
        carry, latents = run(PARAMS, driving(plan, first, size), carry, KEY, *plan.arguments(first, size))
        carry = jax.device_get(carry)
        clips.append(np.asarray(latents))
        video.append(np.asarray(plan.emit(first, latents)))
    return plan, np.concatenate(clips)[: plan.count], np.concatenate(video, axis=1)


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("dpmpp_2m", 0.0), ("ddim", 1.0)])
def test_chunks_equal_the_monolithic_scan_bit_for_bit(name, eta):
    solver = solver_of(name, eta)
    _, _, whole = chunks(solver, 17, size=plan_gaps(17, LENGTH).count)
    assert whole.shape == (1, 17, 2, 2, 3)
    np.testing.assert_array_equal(chunks(solver, 17, 4)[2], whole)


def test_given_frames_come_out_exactly_as_they_went_in():
    plan, clips, video = chunks(solver_of("dpmpp_2m"), 23, 4)
    newest = {}
    for level, slot, clip in zip(plan.levels.tolist(), plan.slots.tolist(), clips):
        if level < plan.depth:
            np.testing.assert_array_equal(clip[:, 0], newest[level + 1][:, slot])
            np.testing.assert_array_equal(clip[:, -1], newest[level + 1][:, slot + 1])
        newest[level] = clip
    top = clips[0]
    step = plan.stride**plan.depth
    np.testing.assert_array_equal(video[:, ::step], top[:, : len(range(0, 23, step))])


def noise_at(numbers):
    return jnp.concatenate([frame_noise(KEY, int(number), 1, SHAPE, 0.3) for number in numbers], axis=1)


@cache
def clip_sampler():
    """One clip by the plain sampling loop."""
    solver = solver_of("ddim")

    def run(noise, spatial, known, given):
        branches = {"cond": Conditioning(spatial=spatial), "uncond": Conditioning(spatial=0 * spatial)}
        told = {name: tell(branch, known, given) for name, branch in branches.items()}
        pinned = Pinned.to(solver, known, given)
        return sample(partial(network, PARAMS), noise, told, pinned, classifier_free(2.0))

    return jax.jit(run)


def reference_video(frames):
    """The recursion as simply as it can be written."""
    stride, made = LENGTH - 1, {}
    spatial = np.asarray(control(frames))

    def clip(start, step, inside):
        numbers = start + step * np.arange(LENGTH)
        known, given = np.zeros((1, LENGTH, 2, 2, 3), np.float32), np.zeros((1, LENGTH), np.float32)
        for j in (0, LENGTH - 1):
            if inside:
                known[:, j], given[:, j] = made[numbers[j]], 1
        latents = clip_sampler()(noise_at(numbers), spatial[:, np.minimum(numbers, frames - 1)], known, given)
        for j, number in enumerate(numbers):
            made.setdefault(number, np.asarray(latents[:, j]))
        for j in range(stride if step > 1 else 0):
            if start + j * step < frames - 1:
                clip(start + j * step, step // stride, True)

    top = 1
    while top * stride < frames - 1:
        top *= stride
    clip(0, top, False)
    return np.stack([made[number] for number in range(frames)], axis=1)


def test_the_scan_follows_the_recursion():
    frames = 12
    np.testing.assert_allclose(chunks(solver_of("ddim"), frames, 4)[2], reference_video(frames), atol=2e-5)


@pytest.mark.parametrize("frames", [1, 3, LENGTH])
def test_a_video_of_one_clip_equals_plain_sampling_with_nothing_given(frames):
    spatial = control(frames)[:, np.minimum(np.arange(LENGTH), frames - 1)]
    nothing = jnp.zeros((1, LENGTH, 2, 2, 3)), jnp.zeros((1, LENGTH))
    plain = clip_sampler()(noise_at(range(LENGTH)), spatial, *nothing)
    np.testing.assert_allclose(chunks(solver_of("ddim"), frames, 1)[2], plain[:, :frames], atol=1e-6)


def test_clips_start_around_given_latents():
    """With a schedule that leaves some signal at its first level: at zero SNR a start says nothing."""
    solver, plan = make_solver("ddim", make_schedule("scaled_linear"), 3), plan_gaps(LENGTH, LENGTH)
    branches = {"cond": Conditioning(spatial=control(LENGTH), start=jnp.full((1, 2, 2, 3), 4.0))}
    run = chunk_sampler(sample_gaps, network, solver=solver, guidance=identity())
    _, latents = run(PARAMS, branches, init_carry(0, LENGTH, SHAPE), KEY, *plan.arguments(0, 1))
    nothing = jnp.zeros((1, LENGTH, 2, 2, 3)), jnp.zeros((1, LENGTH))
    told = {name: tell(branch, *nothing) for name, branch in branches.items()}
    expected = [
        sample(partial(network, PARAMS), noise_of(KEY, jnp.arange(LENGTH), SHAPE), each, solver, identity())
        for each in (told, {"cond": told["cond"].replace(start=None)})
    ]
    np.testing.assert_allclose(latents[0], expected[0], atol=1e-5)
    assert np.abs(latents[0] - expected[1]).max() > 1e-3


@settings(max_examples=6)
@given(st.integers(1, 90))
def test_any_length_gives_as_many_frames(frames):
    """Chunks of one size, so that programs are shared by all lengths of one depth."""
    video = chunks(solver_of("ddim"), frames, 4)[2]
    assert video.shape == (1, frames, 2, 2, 3) and np.isfinite(video).all()


def test_clips_past_the_end_come_back_empty_and_leave_the_carry():
    solver, plan = solver_of("ddim"), plan_gaps(3, LENGTH)
    carry, latents = sampler(solver)(
        PARAMS, driving(plan, 0, 4), init_carry(0, LENGTH, SHAPE), KEY, *plan.arguments(0, 4)
    )
    assert plan.count == 1 and not np.asarray(latents[1:]).any()
    np.testing.assert_array_equal(carry["clips"][0], latents[0])


def test_the_carry_is_one_clip_per_level():
    plan = plan_gaps(5000, LENGTH)
    carry = init_carry(plan.depth, LENGTH, SHAPE)
    assert carry["clips"].shape == (8, 1, LENGTH, 2, 2, 3)
    arguments = (PARAMS, driving(plan, 0, 3), carry, KEY, *plan.arguments(0, 3))
    after, latents = jax.eval_shape(sampler(solver_of("ddim")), *arguments)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)
    assert latents.shape == (3, 1, LENGTH, 2, 2, 3)


def test_lengths_of_one_depth_share_one_trace():
    traces = []

    def counting(params, x, timestep, conditioning):
        traces.append(1)
        return network(params, x, timestep, conditioning)

    run, counts = sampler(solver_of("ddim"), counting), []
    for frames in (11, 20):
        plan = plan_gaps(frames, LENGTH)
        carry = init_carry(plan.depth, LENGTH, SHAPE)
        for first in plan.chunks(4):
            carry, _ = run(PARAMS, driving(plan, first, 4), carry, KEY, *plan.arguments(first, 4))
            counts.append(len(traces))
    assert len(set(counts)) == 1


def test_conditioning_of_the_wrong_span_is_refused():
    plan = plan_gaps(9, LENGTH)
    with pytest.raises(ShapeError, match="covers 4 frames, but the windows cover 8"):
        sampler(solver_of("ddim"))(
            PARAMS, driving(plan, 0, 1), init_carry(plan.depth, LENGTH, SHAPE), KEY, *plan.arguments(0, 2)
        )
