"""Protects long videos: every frame once, chunks that change nothing, memory that does not grow, seams that hold."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.guidance import classifier_free, identity
from portrait_jax.diffusion.sampler import sample
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import SOLVERS, make_solver
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.long_video.overlap import chunk_sampler, frame_noise, init_carry, plan_windows, sample_windows

SCHEDULE = make_schedule("scaled_linear", zero_terminal_snr=True)
LENGTH, OVERLAP = 6, 2
SHAPE = (1, 2, 2, 3)
"""b h w c of one frame."""
KEY = jax.random.key(7)


@st.composite
def layouts(draw):
    length = draw(st.integers(1, 40))
    return draw(st.integers(1, 400)), length, draw(st.integers(0, length - 1))


@given(layouts())
def test_every_frame_is_emitted_exactly_once_and_in_order(layout):
    frames, length, overlap = layout
    windows = plan_windows(frames, length, overlap)
    emitted = [np.arange(start, start + count) for start, count in zip(windows.starts, windows.emitted)]
    np.testing.assert_array_equal(np.concatenate(emitted), np.arange(frames))
    assert np.all(windows.emitted >= 1) and np.all(windows.emitted <= length)
    np.testing.assert_array_equal(np.diff(windows.starts), length - overlap)


@given(layouts(), st.integers(1, 5))
def test_chunks_cover_the_windows_and_repeat_only_the_last_frame(layout, size):
    windows = plan_windows(*layout)
    for first in windows.chunks(size):
        source = windows.source_frames(first, size)
        assert source.size == (size - 1) * windows.stride + windows.length
        for position in range(min(size, windows.count - first)):
            window = source[position * windows.stride :][: windows.length]
            expected = np.minimum(windows.starts[first + position] + np.arange(windows.length), windows.frames - 1)
            np.testing.assert_array_equal(window, expected)
    assert sum(min(size, windows.count - first) for first in windows.chunks(size)) == windows.count


@settings(max_examples=8)
@given(st.sampled_from([(1, 6, 2), (6, 6, 2), (7, 6, 2), (30, 6, 5), (25, 6, 0)]), st.integers(1, 3))
def test_what_chunks_emit_joins_to_the_whole_video(layout, size):
    windows = plan_windows(*layout)
    joined = []
    for first in windows.chunks(size):
        starts = (first + np.arange(size)) * windows.stride
        numbers = starts[:, None] + np.arange(windows.length)
        latents = jnp.asarray(numbers, jnp.float32)[:, None, :, None, None, None]
        joined.append(np.asarray(windows.emit(first, latents))[0, :, 0, 0, 0])
    np.testing.assert_array_equal(np.concatenate(joined), np.arange(windows.frames))


@pytest.mark.parametrize(("length", "overlap"), [(4, 4), (0, 0), (4, -1)])
def test_impossible_windows_are_refused_with_what_to_change(length, overlap):
    words = rf"0 <= overlap < length.*overlap is {overlap} and the length {length}; give longer windows or a smaller"
    with pytest.raises(ConfigError, match=words):
        plan_windows(5, length, overlap)


def test_a_video_without_frames_is_refused():
    with pytest.raises(ConfigError, match="at least one frame, not 0; give a longer driving sequence"):
        plan_windows(0, 4, 1)


@given(layouts())
def test_a_window_begins_where_the_frames_before_it_end(layout):
    windows = plan_windows(*layout)
    firsts = [windows.first_frame(window) for window in range(windows.count + 2)]
    assert firsts == [*np.cumsum([0, *windows.emitted]), windows.frames]


def test_borders_are_where_windows_begin_and_blended_frames_belong_to_two():
    windows = plan_windows(17, 6, 2)
    assert windows.borders.tolist() == [4, 8, 12]
    assert windows.blended.tolist() == [4, 5, 8, 9, 12, 13]
    assert plan_windows(5, 6, 2).borders.size == 0


def test_noise_of_a_frame_does_not_depend_on_the_window():
    whole = frame_noise(KEY, 0, 12, SHAPE)
    part = jax.jit(lambda start: frame_noise(KEY, start, 5, SHAPE))(4)
    np.testing.assert_array_equal(part, whole[:, 4:9])
    assert not np.allclose(whole[:, 0], whole[:, 1])
    assert whole.shape == (1, 12, 2, 2, 3)


def test_noise_in_common_is_the_same_in_every_window():
    whole = frame_noise(KEY, 0, 12, SHAPE, share=1.0)
    np.testing.assert_array_equal(whole, jnp.broadcast_to(whole[:, :1], whole.shape))
    np.testing.assert_array_equal(
        frame_noise(KEY, 4, 5, SHAPE, share=0.5), frame_noise(KEY, 0, 12, SHAPE, share=0.5)[:, 4:9]
    )


def network(params, x, timestep, conditioning):
    """Mixes frames, so that a window's neighbours matter; reads a per-frame field."""
    mixed = jnp.einsum("fg,bghwc->bfhwc", params["mix"][: x.shape[1], : x.shape[1]], x)
    return jnp.tanh(mixed + conditioning.spatial + timestep[:, None, None, None, None] / 1000) + 0.1 * x


PARAMS = {"mix": jax.random.normal(jax.random.key(3), (LENGTH, LENGTH)) / 3}


def driving(windows, first, size):
    """Conditioning of a chunk: one random residual per source frame, dropped in the unconditional branch."""
    wave = jax.random.normal(jax.random.key(5), (1, windows.frames, 2, 2, 3))
    spatial = wave[:, windows.source_frames(first, size)]
    return {"cond": Conditioning(spatial=spatial), "uncond": Conditioning(spatial=0 * spatial)}


@cache
def solver_of(name, steps=4, eta=0.0):
    """One object per kind, so that jitted programs are shared between tests."""
    return make_solver(name, SCHEDULE, steps, **({"eta": eta} if eta else {}))


@cache
def sampler(solver, size, overlap=OVERLAP, run=network):
    guidance = classifier_free(2.0)
    return chunk_sampler(
        sample_windows, run, solver=solver, guidance=guidance, length=LENGTH, overlap=overlap, size=size
    )


def animate(solver, frames, size, overlap=OVERLAP):
    """Samples a video chunk by chunk, passing the carry through host memory as a resumed run would."""
    windows, run = plan_windows(frames, LENGTH, overlap), sampler(solver, size, overlap)
    carry, parts = init_carry(solver, overlap, SHAPE), []
    for first in windows.chunks(size):
        carry, latents = run(PARAMS, driving(windows, first, size), carry, KEY, first, windows.count)
        parts.append(np.asarray(windows.emit(first, latents)))
        carry = jax.device_get(carry)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(("name", "size"), [("ddim", 1), ("ddim", 2), ("ddim", 4), ("dpmpp_2m", 2)])
def test_chunks_equal_the_monolithic_scan_bit_for_bit(name, size):
    solver, frames = solver_of(name), 25
    whole = animate(solver, frames, size=plan_windows(frames, LENGTH, OVERLAP).count)
    assert whole.shape == (1, frames, 2, 2, 3)
    np.testing.assert_array_equal(animate(solver, frames, size), whole)


def test_chunks_equal_the_monolithic_scan_with_a_stochastic_solver_and_a_wide_overlap():
    solver = solver_of("ddim", eta=1.0)
    np.testing.assert_array_equal(animate(solver, 15, 2, overlap=4), animate(solver, 15, 6, overlap=4))


@pytest.mark.parametrize(("name", "frames"), [("ddim", LENGTH), ("ddim", 3), ("euler", 3), ("dpmpp_2m", 3)])
def test_a_video_of_one_window_equals_plain_sampling(name, frames):
    solver, windows = solver_of(name), plan_windows(frames, LENGTH, OVERLAP)
    noise = frame_noise(KEY, 0, LENGTH, SHAPE)
    given = driving(windows, 0, 1)
    plain = jax.jit(lambda: sample(partial(network, PARAMS), noise, given, solver, classifier_free(2.0)))()
    np.testing.assert_allclose(animate(solver, frames, 1), plain[:, :frames], atol=1e-6)


def reference_animation(solver, frames):
    """The window rule as simply as it can be written, one frame at a time."""
    windows, past, video = plan_windows(frames, LENGTH, OVERLAP), None, []
    for number, start in enumerate(windows.starts):
        state = np.array(solver.init(frame_noise(KEY, int(start), LENGTH, SHAPE)))
        given, seen = driving(windows, number, 1), []
        for index, timestep in enumerate(solver.timesteps):
            if past is not None:
                for j in range(OVERLAP):
                    own = np.float32((j + 1) / (OVERLAP + 1))
                    state[:, j] = (1 - own) * past[index][:, LENGTH - OVERLAP + j] + own * state[:, j]
            seen.append(state.copy())
            told = jnp.full(1, timestep)
            cond, uncond = (network(PARAMS, jnp.asarray(state), told, given[name]) for name in ("cond", "uncond"))
            state = np.array(solver.step(jnp.asarray(state), uncond + 2.0 * (cond - uncond), index))
        past = seen
        video.append(state[:, : windows.emitted[number]])
    return np.concatenate(video, axis=1)


def test_the_scan_follows_the_window_rule():
    solver = solver_of("ddim")
    np.testing.assert_allclose(animate(solver, 17, 2), reference_animation(solver, 17), atol=2e-5)


def test_windows_past_the_end_change_nothing_and_come_back_empty():
    solver, windows = solver_of("ddim"), plan_windows(8, LENGTH, OVERLAP)
    run = sampler(solver, 4)
    _, latents = run(PARAMS, driving(windows, 0, 4), init_carry(solver, OVERLAP, SHAPE), KEY, 0, windows.count)
    assert windows.count == 2
    assert np.all(np.asarray(latents[:2]) != 0) and np.all(np.asarray(latents[2:]) == 0)
    assert windows.emit(0, latents).shape[1] == 8


def test_overlap_carries_the_first_window_into_the_second():
    """A disturbed carry changes the next window's first frames; without overlap there is nothing to change."""
    solver, windows = solver_of("ddim"), plan_windows(10, LENGTH, OVERLAP)
    run = sampler(solver, 1)
    first, _ = run(PARAMS, driving(windows, 0, 1), init_carry(solver, OVERLAP, SHAPE), KEY, 0, 2)
    first = jax.device_get(first)
    _, kept = run(PARAMS, driving(windows, 1, 1), first, KEY, 1, 2)
    _, moved = run(PARAMS, driving(windows, 1, 1), jax.tree.map(lambda leaf: leaf + 0.5, first), KEY, 1, 2)
    change = np.abs(np.asarray(moved - kept)).mean((0, 1, 3, 4, 5))
    assert np.all(change[:OVERLAP] > 0.1), "blended frames follow the window before"
    assert np.all(change[OVERLAP:] > 0.01), "and the rest follows through the network, which mixes frames"
    _, ignored = run(PARAMS, driving(windows, 0, 1), jax.tree.map(lambda leaf: leaf + 0.5, first), KEY, 0, 2)
    _, fresh = run(PARAMS, driving(windows, 0, 1), init_carry(solver, OVERLAP, SHAPE), KEY, 0, 2)
    np.testing.assert_array_equal(ignored, fresh)


def test_overlap_makes_seams_smoother_than_disjoint_windows():
    """Jumps between windows, measured against jumps inside them, shrink with an overlap."""

    def seam(overlap):
        video = animate(solver_of("ddim"), 41, 4, overlap)
        jumps = np.abs(np.diff(video, axis=1)).mean((0, 2, 3, 4))
        seams = plan_windows(41, LENGTH, overlap).starts[1:] - 1
        return jumps[seams].mean() / jumps.mean()

    assert seam(3) < seam(0)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_the_carry_is_the_overlap_only_and_keeps_its_shape(name):
    solver = solver_of(name)
    carry = init_carry(solver, OVERLAP, SHAPE)
    assert {leaf.shape for leaf in jax.tree.leaves(carry)} == {(4, 1, OVERLAP, 2, 2, 3)}
    windows = plan_windows(50, LENGTH, OVERLAP)
    after, latents = jax.eval_shape(sampler(solver, 3), PARAMS, driving(windows, 0, 3), carry, KEY, 0, windows.count)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)
    assert latents.shape == (3, 1, LENGTH, 2, 2, 3)


def test_working_memory_does_not_grow_with_windows():
    """Compiled scratch memory of a chunk stays the same from 2 to 16 windows; only inputs and outputs grow."""

    def scratch(size):
        solver, windows = solver_of("ddim"), plan_windows(200, LENGTH, OVERLAP)
        arguments = (PARAMS, driving(windows, 0, size), init_carry(solver, OVERLAP, SHAPE), KEY, 0, windows.count)
        return sampler(solver, size).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    assert scratch(16) <= scratch(2) * 1.1


def test_all_chunks_and_video_lengths_share_one_trace():
    traces = []

    def counting(params, x, timestep, conditioning):
        traces.append(1)
        return network(params, x, timestep, conditioning)

    solver = solver_of("dpmpp_2m")
    run = sampler(solver, 2, run=counting)
    counts = []
    for frames in (30, 17):
        windows, carry = plan_windows(frames, LENGTH, OVERLAP), init_carry(solver, OVERLAP, SHAPE)
        for first in windows.chunks(2):
            carry, _ = run(PARAMS, driving(windows, first, 2), carry, KEY, first, windows.count)
            counts.append(len(traces))
    assert len(set(counts)) == 1


def test_a_carry_of_other_settings_is_refused():
    solver, windows = solver_of("ddim"), plan_windows(20, LENGTH, OVERLAP)
    other = init_carry(solver_of("ddim", 5), OVERLAP, SHAPE)
    with pytest.raises(ShapeError, match="5 solver steps of 2 frames, but this run has 4 steps"):
        sampler(solver, 2)(PARAMS, driving(windows, 0, 2), other, KEY, 0, windows.count)


def test_conditioning_of_the_wrong_span_is_refused():
    solver = solver_of("ddim")
    with pytest.raises(ShapeError, match=r"'cond.spatial' covers 7 frames, but the windows cover 10"):
        sample_windows(
            partial(network, PARAMS),
            {"cond": Conditioning(spatial=jnp.zeros((1, 7, 2, 2, 3)))},
            init_carry(solver, OVERLAP, SHAPE),
            KEY,
            0,
            5,
            solver=solver,
            guidance=identity(),
            length=LENGTH,
            overlap=OVERLAP,
            size=2,
        )
