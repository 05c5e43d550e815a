"""Animation tasks whose exact answer is known: test people of the procedural portraits, driven by test people.

The truth of a case is the portrait's person rendered with the driver's performance, so it is exact across identities too.
"""

from __future__ import annotations

import wave
from functools import partial
from pathlib import Path

import numpy as np

from data import synthetic
from portrait_jax.face.alignment import LandmarkSequence, save_landmarks
from portrait_jax.metrics.suite import Case
from portrait_jax.typing import Float

ASSETS = Path(__file__).parent.parent / "portrait_jax" / "assets"
DRIVING = ASSETS / "demo_driving.npz"
"""Landmarks of the demo's driver, made by `write_demo_driving`."""
SOUND = ASSETS / "demo_driving.wav"

DEMO_FRAMES = 50
DEMO_PEOPLE = (500, 504, 513)
"""Test people of the demo, chosen to look different from each other before any result was seen."""
DEMO_DRIVER = 520
DEMO_PERFORMANCE = 531
ENERGY = 0.12
"""How much heads of `spoken_case` move, as in the training clips of systems that hear: nothing tells them where the head is."""
FIRST_PERFORMANCE = 1000
"""Performances of evaluation cases have indices from here on, apart from those of people."""


def average_person(count: int = 300) -> Float[np.ndarray, " a"]:
    """Mean identity attributes of people of the training split, from whom the suite counts identities."""
    people = (synthetic.sample_identity(synthetic.split_seed("train", index)) for index in range(count))
    return np.mean([synthetic.identity_attributes(person) for person in people], axis=0)


def make_case(
    name: str, person: int, driver: int, performance: synthetic.Performance, size: int, *, ahead: bool = True
) -> Case:
    """Test person number `person` driven by number `driver`, at `size` pixels.

    The portrait is neutral and stands where the driver's first frame stands, since motion is transferred relative to it; it looks
    straight `ahead`, or where the first frame looks.
    """
    somebody, other = (synthetic.sample_identity(synthetic.split_seed("test", index)) for index in (person, driver))
    pose = performance.pose[0].astype(np.float32)
    if ahead:
        pose = np.concatenate([np.zeros(3, np.float32), pose[3:]])
    neutral = np.zeros(len(synthetic.EXPRESSION_NAMES), np.float32)
    portrait = synthetic.render(somebody, pose, neutral, size)
    perform = partial(synthetic.render_clip, performance=performance, size=size)
    truth = perform(somebody)
    driving = truth if person == driver else perform(other)
    return Case(
        name=name,
        portrait=portrait.image,
        reference_landmarks=portrait.landmarks,
        driving_landmarks=driving["landmarks"],
        truth=truth["frames"],
        truth_landmarks=truth["landmarks"],
        driving_frames=driving["frames"],
        sound=performance.audio.astype(np.float32) / 32768,
    )


def evaluation_cases(count: int, frames: int, size: int, seed: int, *, cross: bool) -> list[Case]:
    """Test people 0 … count − 1, each driven by itself or, with `cross`, by another test person.

    Args:
        count: number of cases.
        frames: length of each clip.
        size: height and width in pixels.
        seed: of the performances.
    """

    def case(index: int) -> Case:
        number = FIRST_PERFORMANCE * (seed + 1) + index
        performance = synthetic.sample_performance(synthetic.split_seed("test", number), frames)
        return make_case(f"test person {index}", index, count + index if cross else index, performance, size)

    return [case(index) for index in range(count)]


def spoken_case(index: int, frames: int, size: int, seed: int) -> Case:
    """Test person number `index`, who speaks for so many frames; the portrait looks where the performance begins."""
    number = FIRST_PERFORMANCE * (seed + 1) + index
    performance = synthetic.sample_performance(synthetic.split_seed("test", number), frames, energy=ENERGY)
    return make_case(f"test person {index}", index, index, performance, size, ahead=False)


def demo_performance() -> synthetic.Performance:
    """What the demo's driver does and says."""
    return synthetic.sample_performance(synthetic.split_seed("test", DEMO_PERFORMANCE), DEMO_FRAMES)


def demo_cases(size: int) -> list[Case]:
    """The three people of `launch.demo`, with the driver's landmarks as they are stored."""
    return [make_case(f"person_{person}", person, DEMO_DRIVER, demo_performance(), size) for person in DEMO_PEOPLE]


def write_demo_driving(size: int = 128) -> None:
    """Makes `DRIVING` and `SOUND` anew; needed when the generator changes."""
    performance = demo_performance()
    driver = synthetic.sample_identity(synthetic.split_seed("test", DEMO_DRIVER))
    landmarks = synthetic.render_clip(driver, performance, size)["landmarks"]
    save_landmarks(DRIVING, LandmarkSequence(performance.fps, size, size, landmarks))
    with wave.open(str(SOUND), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(performance.audio.astype("<i2").tobytes())


if __name__ == "__main__":
    write_demo_driving()
