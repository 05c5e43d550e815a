"""What a person does in a clip: head motion, glances, blinks, moods, and a mouth that follows the sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.synthetic import audio
from data.synthetic.features import EXPRESSION_NAMES

MAX_ANGLES = np.array([35.0, 20.0, 20.0])
_INDEX = {name: i for i, name in enumerate(EXPRESSION_NAMES)}


@dataclass(frozen=True)
class Performance:
    """`pose` float32 `(f, 6)` yaw pitch roll in degrees, x y scale in image sides; `expression` float32 `(f, E)`;
    `audio` int16 `(n,)` at 16 kHz, as long as the frames (silent without speech); `fps`."""

    pose: np.ndarray
    expression: np.ndarray
    audio: np.ndarray
    fps: float


def _wander(rng: np.random.Generator, t: np.ndarray, slow: float, fast: float) -> np.ndarray:
    """A smooth random curve within −1..1: a few sines between two frequencies in Hz."""
    frequency = np.exp(rng.uniform(np.log(slow), np.log(fast), 5))
    strength = rng.uniform(0.3, 1.0, 5) / np.sqrt(frequency / slow)
    waves = np.sin(2 * np.pi * frequency * t[:, None] + rng.uniform(0, 2 * np.pi, 5))
    return waves @ strength / strength.sum() * 1.25


def _hold(rng: np.random.Generator, t: np.ndarray, every: float, ease: float, low: float, high: float) -> np.ndarray:
    """Levels that jump about every `every` seconds and ease over `ease` seconds: moods and glances."""
    changes = np.cumsum(rng.exponential(every, int(t[-1] / every * 3) + 4)) - every * rng.uniform(0, 1)
    levels = rng.uniform(low, high, len(changes) + 1)
    value = np.full(len(t), levels[0])
    for start, level, before in zip(changes, levels[1:], levels[:-1], strict=True):
        u = np.clip((t - start) / ease, 0.0, 1.0)
        value += (level - before) * u * u * (3 - 2 * u)
    return value


def _blinks(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    closed = np.zeros(len(t))
    start = rng.uniform(0.1, 2.5)
    while start < t[-1] + 0.3:
        u = (t - start) / rng.uniform(0.18, 0.30)
        closed = np.maximum(closed, np.where((u > 0) & (u < 1), np.sin(np.pi * np.clip(u, 0, 1)) ** 0.6, 0.0))
        start += rng.uniform(0.9, 4.0)
    return closed


def _pose(rng: np.random.Generator, t: np.ndarray, energy: float | None) -> np.ndarray:
    """Head motion: some clips nearly still, some strong; always inside the ranges."""
    drawn = rng.choice([0.12, 0.45, 0.8, 1.0], p=[0.15, 0.3, 0.3, 0.25])
    energy = drawn if energy is None else energy
    reach = MAX_ANGLES * (1.0, 0.85, 0.7) * energy
    rest = rng.uniform(-1, 1, 3) * MAX_ANGLES * (0.5, 0.3, 0.25)
    angles = np.stack([_wander(rng, t, 0.12, 0.7) for _ in range(3)], 1) * reach + rest
    angles = MAX_ANGLES * np.tanh(angles / MAX_ANGLES)
    scale = rng.uniform(0.37, 0.53) * (1.0 + 0.07 * energy * _wander(rng, t, 0.1, 0.4))
    x = 0.5 + rng.uniform(-0.05, 0.05) + 0.04 * energy * _wander(rng, t, 0.1, 0.5) + 0.0012 * angles[:, 0]
    y = 0.47 + rng.uniform(-0.03, 0.04) + 0.03 * energy * _wander(rng, t, 0.1, 0.5)
    return np.column_stack([angles, x, y, np.clip(scale, 0.35, 0.60)])


def sample_performance(
    seed: int, frames: int, fps: float | int = 25, *, speech: bool = True, energy: float | None = None
) -> Performance:
    """The performance of a seed: `frames` frames at `fps`; the same at every call.

    Without `speech` the sound is silent and the mouth makes slow faces of its own. `energy`, 0 … 1, is how much the head moves;
    None draws it.
    """
    if frames < 1 or fps <= 0:
        raise ValueError(f"need at least one frame and a positive rate, got {frames} frames at {fps} fps")
    rng = np.random.default_rng((int(seed), 2))
    t = np.arange(frames) / fps
    pose = _pose(rng, t, energy)
    e = np.zeros((frames, len(EXPRESSION_NAMES)))

    def put(name: str, values: np.ndarray, low: float = 0.0, high: float = 1.0) -> None:
        e[:, _INDEX[name]] = np.clip(values, low, high)

    mood = _hold(rng, t, 1.8, 0.6, -0.45, 1.0)
    put("smile", mood, -1.0)
    put("brow_raise", _hold(rng, t, 1.2, 0.3, -0.5, 1.0) + 0.2 * _wander(rng, t, 0.3, 1.5))
    put("brow_frown", _hold(rng, t, 1.6, 0.4, -1.2, 0.9))
    put("brow_sad", 0.8 * np.maximum(-mood, 0.0) + _hold(rng, t, 2.0, 0.5, -1.0, 0.5))
    put("squint", _hold(rng, t, 1.5, 0.4, -0.7, 0.8))
    put("gaze_x", _hold(rng, t, 0.9, 0.08, -1.0, 1.0) * 0.75 - pose[:, 0] / 110.0, -1.0)
    put("gaze_y", _hold(rng, t, 1.1, 0.08, -0.65, 0.65), -1.0)
    blink, wink = _blinks(rng, t), rng.random()
    put("blink_right", blink if wink > 0.06 else 0.0 * blink)
    put("blink_left", blink if wink < 0.94 else 0.0 * blink)
    put("mouth_shift", 0.5 * _hold(rng, t, 1.5, 0.4, -1.0, 1.0) ** 3, -1.0)
    sound = audio.synthesize(rng, frames / fps)
    if speech:
        at = np.arange(len(sound.jaw)) / sound.control_rate
        for name, curve in (("jaw_open", sound.jaw), ("pucker", sound.pucker), ("wide", sound.wide)):
            put(name, np.interp(t + 0.5 / fps, at, curve))
        samples = sound.samples
    else:
        put("jaw_open", _hold(rng, t, 1.0, 0.35, -0.8, 1.0))
        put("pucker", _hold(rng, t, 1.3, 0.35, -1.0, 1.0))
        put("wide", _hold(rng, t, 1.3, 0.35, -0.8, 1.0) * (1.0 - e[:, _INDEX["pucker"]]))
        samples = np.zeros_like(sound.samples)
    e[:, _INDEX["smile"]] *= 1.0 - 0.6 * e[:, _INDEX["pucker"]]
    return Performance(
        pose.astype(np.float32), e.astype(np.float32), np.rint(samples * 32767).astype(np.int16), float(fps)
    )
