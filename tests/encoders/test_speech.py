"""Protects: sound stays in time with the frames at any rate and length, and long sounds are read in bounded memory."""

from __future__ import annotations

from fractions import Fraction

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.animation.sound import sound_blocks
from portrait_jax.encoders.speech import Clock, clip_windows, frame_windows, measure, plan_pieces, speech_states
from portrait_jax.encoders.wav2vec2 import SAMPLE_RATE, Wav2Vec2, Wav2Vec2Config, normalise_waveform, sample_at
from portrait_jax.errors import AudioError, ConfigError
from tests.weights import random_params

TINY = Wav2Vec2Config(conv_channels=(4,) * 7, hidden=8, layers=2, heads=2, mlp=16, position_kernel=4, position_groups=2)
RATES = [25.0, 24.0, float(Fraction(30000, 1001)), 12.5, 60.0]
FIELD, HOP = TINY.shortest, TINY.hop


def loudness(samples, places):
    """A stand-in for the network: each vector is the energy of its field of samples; two equal layers, and the first's input."""
    wave = np.asarray(samples[0], np.float64)
    total = np.concatenate([[0.0], np.cumsum(wave**2)])
    starts = HOP * np.arange(TINY.length(len(wave)))
    vectors = (total[starts + FIELD] - total[starts])[None, :, None]
    return np.repeat(np.asarray(sample_at(jnp.asarray(vectors, jnp.float32), places))[:, :, None], 3, axis=2)


def blocks_of(sound: np.ndarray, size: int = 16001):
    return lambda: (sound[first : first + size] for first in range(0, len(sound), size))


def test_a_sound_is_filled_up_with_silence_to_whole_clips_and_no_frame_of_that_is_kept():
    """Two seconds and a bit are 51 frames; with clips of 20 the network hears 60, the last ten zeros, as its norms make them."""
    sound = (0.3 + np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE + 300)).astype(np.float32)
    heard = []

    def encode(samples, places):
        heard.append((np.asarray(samples[0]), len(places)))
        return loudness(samples, places)

    clock = Clock(25.0, TINY, centred=False, whole=20)
    states = np.concatenate(list(speech_states(encode, blocks_of(sound), clock)))
    ((samples, places),) = heard
    assert len(states) == 51 and places == 60 and len(samples) == len(sound) + 9 * 640
    np.testing.assert_allclose(samples[len(sound) :], 0, atol=1e-6)
    assert np.abs(samples[: len(sound)]).mean() > 0.5
    plain = np.concatenate(list(speech_states(loudness, blocks_of(sound), Clock(25.0, TINY, centred=False))))
    np.testing.assert_allclose(states[:49], plain[:49], rtol=1e-5)


def test_the_pieces_of_a_long_sound_that_are_silence_alone_are_left_out():
    sound = np.random.default_rng(0).normal(0, 0.1, 41 * SAMPLE_RATE).astype(np.float32)
    clock = Clock(25.0, TINY, whole=25 * 20)
    parts = list(speech_states(loudness, blocks_of(sound), clock, seconds=8.0, context=1.0))
    assert sum(map(len, parts)) == 41 * 25 and all(len(part) for part in parts)


@pytest.mark.parametrize("fps", RATES)
def test_a_click_track_of_ten_minutes_shows_no_drift(fps):
    """Clicks anywhere, until the end: the frames around each one light up, and their middle is where it sounded."""
    sound = np.zeros(600 * SAMPLE_RATE + 1234, np.float32)
    clicks = np.random.default_rng(0).integers(0, 600, 300) + np.linspace(0.1, 0.9, 300)
    clicks = np.sort(clicks[np.unique(clicks.astype(int), return_index=True)[1]])
    sound[np.round(clicks * SAMPLE_RATE).astype(int)] = 1.0
    clock = Clock(fps, TINY)
    heard = np.concatenate(list(speech_states(loudness, blocks_of(sound), clock)))[:, 0, 0]
    assert len(heard) == clock.frames(len(sound)) == int(np.ceil(len(sound) / SAMPLE_RATE * fps))
    check_clicks(heard, clicks, fps)


@pytest.mark.parametrize(("name", "rate"), [("clicks.wav", 22050), ("clicks.m4a", 48000)])
def test_a_file_of_clicks_shows_no_drift_either(tmp_path, name, rate):
    """Ten minutes as they come from a file: decoded and resampled, uncompressed and as AAC."""
    clicks = np.arange(1.0, 600.0, 2.0) + np.linspace(0.1, 0.9, 300)
    sound = np.zeros(600 * rate, np.float32)
    for click in clicks:  # of 5 ms: a single sample is no sound that a codec keeps
        first = round((click - 0.0025) * rate)
        sound[first : first + rate // 200] = 0.9 * np.sin(np.arange(rate // 200))
    write_sound(tmp_path / name, sound, rate)
    clock = Clock(25.0, TINY)
    heard = np.concatenate(list(speech_states(loudness, lambda: sound_blocks(tmp_path / name, clock), clock)))[:, 0, 0]
    assert len(heard) == pytest.approx(600 * 25, abs=1)
    check_clicks(heard, clicks, 25.0)


def check_clicks(heard, clicks, fps: float) -> None:
    """The frames around each click light up, their middle is where it sounds, and is so from the beginning to the end."""
    middle, quiet = (np.arange(len(heard)) + 0.5) / fps, np.median(heard)
    errors = []
    for click in clicks:
        near = np.abs(middle - click) < 0.06 + 0.5 / fps
        weight = heard[near] - quiet
        if weight.max() > 0.1:  # At a coarse rate a click can fall between two frames.
            errors.append((weight * middle[near]).sum() / weight.sum() - click)
    assert len(errors) > 0.9 * len(clicks) or fps < 20
    third = len(errors) // 3
    assert np.abs(errors).max() < max(0.75 / fps, HOP / SAMPLE_RATE)
    assert abs(np.mean(errors[:third]) - np.mean(errors[-third:])) < 0.006


def write_sound(path, sound: np.ndarray, rate: int) -> None:
    """Mono, as the file's suffix says."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac" if path.suffix == ".m4a" else "pcm_s16le", rate=rate, layout="mono")
        for first in [*range(0, len(sound), rate), None]:
            frame = None
            if first is not None:
                block = np.ascontiguousarray((32767 * sound[None, first : first + rate]).astype(np.int16))
                frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
            container.mux(stream.encode(frame))


@given(st.integers(400, 3_000_000), st.sampled_from(RATES))
def test_pieces_take_every_frame_once_lie_inside_the_sound_and_never_grow(samples, fps):
    clock = Clock(fps, TINY)
    pieces = plan_pieces(clock, samples, seconds=30.0, context=5.0)
    taken = np.concatenate([np.arange(piece.first, piece.stop) for piece in pieces])
    np.testing.assert_array_equal(taken, np.arange(clock.frames(samples)))
    last, margin = len(taken), round(5 * fps)
    for piece in pieces:
        assert piece.origin >= 0 and piece.origin + piece.length <= samples
        assert piece.length <= 30.1 * SAMPLE_RATE
        assert piece.first == 0 or piece.first - piece.start >= margin
        assert piece.stop == last or piece.start + piece.seen - piece.stop >= margin
        places = clock.places(np.arange(piece.first, piece.stop), piece.origin)
        # Only the ends of the sound lie beyond the first and the last vector.
        assert piece.first == 0 or places.min() >= 0
        assert piece.stop == last or places.max() <= TINY.length(piece.length) - 1
    assert len({(piece.length, piece.seen) for piece in pieces}) == 1


def test_a_long_sound_is_held_a_piece_at_a_time():
    read = []

    def blocks():
        for _ in range(200):
            read.append(sum(read[-1:]) + 16000)
            yield np.ones(16000, np.float32)

    seen = []

    def encode(samples, places):
        seen.append((samples.shape[1], read[-1]))
        return np.zeros((1, len(places), 3, 1), np.float32)

    frames = sum(len(states) for states in speech_states(encode, blocks, Clock(25.0, TINY)))
    assert frames == 5000
    assert len({length for length, _ in seen}) == 1
    # Read as far as the piece needs and no further.
    assert all(count <= (20 * number + 32) * 16000 + 3_200_000 for number, (_, count) in enumerate(seen))


def test_a_short_sound_is_encoded_as_a_whole_like_the_published_encoder():
    """Whole seconds at 25 frames: what differs from interpolation with aligned corners is the clock's constant 7.5 ms."""
    module, wave = Wav2Vec2(TINY), 0.3 * jax.random.normal(jax.random.key(0), (1, 16000)) + 0.1
    params = random_params(module, jnp.zeros((1, 400)))
    run = jax.jit(lambda samples, places: module.apply(params, samples, places=places))
    clock = Clock(25.0, TINY)
    (states,) = speech_states(run, blocks_of(np.asarray(wave[0]), 999), clock)
    expected = run(normalise_waveform(wave), jnp.asarray(clock.places(np.arange(25))))[0, :, 1:]
    assert states.shape == (25, 2, 8)
    np.testing.assert_allclose(states, expected, atol=2e-4)
    np.testing.assert_allclose(clock.places(np.arange(25)) - 2 * np.arange(25), (320 - 199.5) / 320, atol=1e-5)


def test_windows_repeat_the_ends_and_agree_with_those_of_a_clip():
    states = np.arange(12.0, dtype=np.float32).reshape(6, 2, 1)
    windows = frame_windows(states, np.array([0, 3, 5]), 1)
    assert windows[:, :, 0, 0].tolist() == [[0, 0, 2], [4, 6, 8], [8, 10, 10]]
    inside = clip_windows(jnp.asarray(states)[None], 2, 2, 1)
    np.testing.assert_array_equal(inside[0], frame_windows(states, np.array([2, 3]), 1))
    with pytest.raises(ConfigError, match="raise data.audio_margin"):
        clip_windows(jnp.asarray(states)[None], 0, 2, 1)


def test_the_level_is_that_of_the_whole_sound():
    sound = np.random.default_rng(1).normal(0.2, 0.1, 5000).astype(np.float32)
    level = measure(blocks_of(sound, 77)())
    assert level.samples == 5000
    np.testing.assert_allclose([level.mean, level.deviation], [sound.mean(), sound.std()], rtol=1e-4)


def test_mistakes_name_the_remedy():
    with pytest.raises(AudioError, match="empty"):
        measure([])
    with pytest.raises(AudioError, match="399 samples are too few"):
        next(speech_states(loudness, blocks_of(np.zeros(399, np.float32)), Clock(25.0, TINY)))
    with pytest.raises(ConfigError, match="lengthen"):
        plan_pieces(Clock(25.0, TINY), 16000, seconds=10.0, context=5.0)
    with pytest.raises(ConfigError, match="frame rate of 0"):
        Clock(0.0, TINY)
