"""The checkpoint that comes with the package moves unseen people better than a portrait that stands still."""

from __future__ import annotations

import numpy as np
import pytest

from configs import follow_your_emoji
from data.cases import evaluation_cases
from portrait_jax.animation import Animator, animate_clip
from portrait_jax.metrics.detector import Detector
from portrait_jax.metrics.suite import METRICS, MOTION_METRICS, Case, evaluate, still_reference
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.loading import load_system_params

pytestmark = pytest.mark.usefixtures("optimised")

PEOPLE, FRAMES, SEED = 3, 24, 0
"""The first half of the first three people of the README's table."""
MARGIN = {"landmark_error": 0.8, "landmark_accuracy": 1.2, "l1_moving": 0.9}
"""Parts of the still portrait's figure that count as clearly better."""
LEAST = {"mouth": 0.4, "yaw": 0.6}
"""Correlations; a portrait that stands still has none."""


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, float]]:
    """Method → metric → mean over the people."""
    system = FollowYourEmoji.from_config(follow_your_emoji.get_config("demo"))
    params = load_system_params(system)
    # One window per call, as in test_real_driver: the same program, which is compiled once.
    animator = Animator(system, params, windows_per_chunk=1)

    def trained(case: Case) -> np.ndarray:
        return animate_clip(
            system, params, case.portrait, case.reference_landmarks, case.driving_landmarks, seed=0, animator=animator
        )

    methods = {"trained": trained, "still": still_reference}
    cases = evaluation_cases(PEOPLE, FRAMES, system.image_size, SEED, cross=True)
    return evaluate(methods, {"cross identity": cases}, Detector.load())["cross identity"]


def test_every_metric_of_motion_has_its_margin():
    assert {*MARGIN, *LEAST} == set(MOTION_METRICS)


@pytest.mark.parametrize("name", sorted(MARGIN))
def test_it_is_clearly_better_than_a_portrait_that_stands_still(table, name):
    found, still = table["trained"][name], table["still"][name]
    better = found < MARGIN[name] * still if METRICS[name].best == "low" else found > MARGIN[name] * still
    assert better, (found, still)


@pytest.mark.parametrize("name", sorted(LEAST))
def test_it_follows_the_driver(table, name):
    assert table["trained"][name] > LEAST[name]


def test_it_stays_the_person_of_the_portrait(table):
    assert table["trained"]["identity"] > 0.8
