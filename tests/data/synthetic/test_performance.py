"""Performances are deterministic, smooth, within range, and the mouth follows the sound."""

import numpy as np
import pytest

from data.synthetic import EXPRESSION_NAMES, sample_performance
from data.synthetic.audio import SAMPLE_RATE, synthesize

JAW = EXPRESSION_NAMES.index("jaw_open")


def loudness(samples: np.ndarray, frames: int, fps: float) -> np.ndarray:
    """Root mean square of the sound during each frame."""
    edges = np.rint(np.arange(frames + 1) / fps * SAMPLE_RATE).astype(int)
    sound = samples.astype(float) / 32768
    return np.array([np.sqrt(np.mean(sound[a:b] ** 2)) for a, b in zip(edges[:-1], edges[1:], strict=True)])


def test_a_seed_always_gives_the_same_performance():
    first, again, other = sample_performance(5, 40), sample_performance(5, 40), sample_performance(6, 40)
    for name in ("pose", "expression", "audio"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize("fps", [12.5, 25, 30])
def test_sound_and_frames_are_equally_long(fps):
    performance = sample_performance(1, 33, fps)
    assert performance.pose.shape == (33, 6)
    assert performance.expression.shape == (33, len(EXPRESSION_NAMES))
    assert abs(len(performance.audio) - 33 / fps * SAMPLE_RATE) <= 1
    assert performance.audio.dtype == np.int16


def test_poses_stay_in_range_and_move_smoothly():
    steps, spread = [], []
    for seed in range(40):
        pose = sample_performance(seed, 75).pose
        assert np.all(np.abs(pose[:, 0]) <= 35) and np.all(np.abs(pose[:, 1:3]) <= 20)
        assert np.all((pose[:, 5] >= 0.35) & (pose[:, 5] <= 0.60))
        steps.append(np.abs(np.diff(pose[:, :3], axis=0)).max())
        spread.append(np.ptp(pose[:, 0]))
    assert max(steps) < 8.0
    assert min(spread) < 8.0 < 25.0 < max(spread), "some clips are nearly still, some strong"


def test_expressions_stay_in_range_and_every_one_occurs():
    values = np.concatenate([sample_performance(seed, 60).expression for seed in range(30)])
    assert values.min() >= -1 and values.max() <= 1
    assert np.all(np.ptp(values, axis=0) > 0.5)


def test_loudness_opens_the_jaw():
    for seed in range(6):
        performance = sample_performance(seed, 100)
        level = loudness(performance.audio, 100, 25)
        assert np.corrcoef(level, performance.expression[:, JAW])[0, 1] > 0.8


def test_without_speech_there_is_silence_but_the_mouth_still_moves():
    performance = sample_performance(3, 100, speech=False)
    assert not performance.audio.any()
    assert np.ptp(performance.expression[:, JAW]) > 0.2


def test_vowels_have_their_formants():
    speech = synthesize(np.random.default_rng(4), 3.0)
    spectrum = np.abs(np.fft.rfft(speech.samples)) ** 2
    frequency = np.fft.rfftfreq(len(speech.samples), 1 / SAMPLE_RATE)
    voice, hiss = spectrum[(frequency > 80) & (frequency < 3500)].sum(), spectrum[frequency > 4500].sum()
    assert voice > 50 * hiss
    assert 0.05 < np.abs(speech.samples).max() <= 1.0


@pytest.mark.parametrize(("frames", "fps"), [(0, 25), (10, 0)])
def test_an_impossible_length_is_refused(frames, fps):
    with pytest.raises(ValueError, match="at least one frame"):
        sample_performance(0, frames, fps)


def test_a_given_energy_stills_the_head_and_changes_nothing_else():
    drawn, calm = sample_performance(5, 60), sample_performance(5, 60, energy=0.0)
    assert np.ptp(calm.pose[:, :3], axis=0).max() == 0 < np.ptp(drawn.pose[:, :3], axis=0).min()
    np.testing.assert_array_equal(calm.audio, drawn.audio)
    np.testing.assert_array_equal(calm.expression[:, JAW], drawn.expression[:, JAW])
