"""Speech-like sound: syllables of vowels and soft consonants, voiced by harmonics under moving formants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 16_000

# First three formants in Hz, then jaw opening, pucker and wideness of the lips, each 0..1.
VOWELS = {
    "a": (760, 1250, 2550, 1.00, 0.00, 0.20),
    "e": (530, 1850, 2500, 0.60, 0.00, 0.65),
    "i": (290, 2250, 3000, 0.28, 0.00, 1.00),
    "o": (480, 880, 2500, 0.62, 0.80, 0.00),
    "u": (310, 800, 2300, 0.30, 1.00, 0.00),
    "schwa": (500, 1500, 2500, 0.45, 0.10, 0.15),
}


@dataclass(frozen=True)
class Speech:
    """Sound and the mouth that makes it: `samples` float `(n,)` in −1..1; `jaw`, `pucker`, `wide` `(n // hop,)` at
    `control_rate` Hz, all 0 in silence."""

    samples: np.ndarray
    jaw: np.ndarray
    pucker: np.ndarray
    wide: np.ndarray
    control_rate: float


CONTROL_RATE = 200.0


def _syllables(rng: np.random.Generator, seconds: float) -> list[tuple[float, float, str, float]]:
    """(start, duration, vowel, stress) until the end, in words of one to five with pauses between."""
    found, t = [], float(rng.uniform(0.05, 0.35))
    while t < seconds - 0.12:
        for _ in range(int(rng.integers(1, 6))):
            duration = float(rng.uniform(0.13, 0.30))
            if t + duration > seconds - 0.02:
                return found
            found.append((t, duration, str(rng.choice(list(VOWELS))), float(rng.uniform(0.55, 1.0))))
            t += duration * float(rng.uniform(0.86, 1.02))
        t += float(rng.choice([rng.uniform(0.06, 0.15), rng.uniform(0.3, 0.7)], p=[0.6, 0.4]))
    return found


def synthesize(rng: np.random.Generator, seconds: float) -> Speech:
    """A babble of `seconds`; the same generator state gives the same babble."""
    steps = max(int(np.ceil(seconds * CONTROL_RATE)) + 1, 2)
    clock = np.arange(steps) / CONTROL_RATE
    envelope = np.zeros(steps)
    targets = np.tile(np.array([*VOWELS["schwa"][:3], 0.3, 0.0, 0.1]), (steps, 1))
    weight = np.full((steps, 1), 1e-3)
    targets = targets * weight
    for start, duration, vowel, stress in _syllables(rng, seconds):
        phase = np.clip((clock - start) / duration, 0.0, 1.0)
        bump = stress * np.sin(np.pi * phase) ** 0.8
        envelope = np.maximum(envelope, bump)
        targets += bump[:, None] * np.asarray(VOWELS[vowel], float)
        weight += bump[:, None]
    targets /= weight
    loud = envelope * (0.35 + 0.65 * targets[:, 3])
    samples = _voice(rng, clock, targets[:, :3], loud, seconds)
    return Speech(samples, loud, envelope * targets[:, 4], envelope * targets[:, 5], CONTROL_RATE)


def _voice(
    rng: np.random.Generator, clock: np.ndarray, formants: np.ndarray, loud: np.ndarray, seconds: float
) -> np.ndarray:
    count = int(round(seconds * SAMPLE_RATE))
    pitch = rng.uniform(95, 220)
    drift = (
        1.0 + 0.08 * np.sin(2 * np.pi * rng.uniform(0.3, 0.7) * clock + rng.uniform(0, 6)) + 0.03 * np.sin(11.0 * clock)
    )
    t = np.arange(count) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(np.interp(t, clock, pitch * drift)) / SAMPLE_RATE
    sound = np.zeros(count)
    for harmonic in range(1, int(3800 / pitch) + 1):
        frequency = harmonic * pitch * drift[:, None]
        gain = (1.0 / (1.0 + ((frequency - formants) / (60.0 + 0.05 * formants)) ** 2) * (1.0, 0.6, 0.25)).sum(1) + 0.01
        sound += np.interp(t, clock, gain / harmonic**0.4) * np.sin(harmonic * phase)
    breath = np.convolve(rng.standard_normal(count), np.array([0.5, -0.5]), "same") * 0.04
    power = np.interp(t, clock, np.convolve(np.abs(loud), np.ones(3) / 3, "same"))
    level = np.sqrt(np.mean(sound**2)) + 1e-9
    return np.clip(0.22 * power * (sound / level + breath), -1.0, 1.0)
