"""Protects: `--analysis motion` reads off latents what they hold of movement and of people."""

import json

import numpy as np
import pytest

from launch.evaluations import motion
from launch.evaluations.common import Options
from portrait_jax.animation import Animator
from portrait_jax.errors import ConfigError
from portrait_jax.metrics.detector import DEFAULT_WEIGHTS
from tests import tiny, tiny_xnemo


def group(people: int, seed: int, whose: bool) -> motion.People:
    """Made-up latents that hold yaw and mouth, and with `whose` the person too."""
    rng = np.random.default_rng(seed)
    attributes = np.repeat(rng.normal(size=(people, 3)), 10, axis=0)
    attributes[:, 2] = 1.0  # Everybody's.
    moves = {name: rng.normal(size=len(attributes)) for name in motion.MOVES}
    held = [
        moves["yaw"],
        moves["mouth"] - moves["yaw"],
        *(attributes.T[:2] if whose else rng.normal(size=(2, 10 * people))),
    ]
    return motion.People(np.stack(held, axis=1).astype(np.float32), moves, attributes)


@pytest.mark.parametrize("whose", [False, True])
def test_movement_and_people_are_told_apart(whose):
    found = motion.scores(group(40, 0, whose), group(20, 1, whose))
    assert min(found["yaw"], found["mouth"]) > 0.95 and found["eyes"] < 0.2
    assert (found["person"] > 0.95) if whose else (found["person"] < 0.2)


def test_the_report_of_a_system_with_a_motion_encoder(tmp_path):
    system = tiny_xnemo.make_system()
    animator = Animator(system, tiny.make_params(system))
    motion.run(animator, Options(tmp_path, 2, 3, 0, str(DEFAULT_WEIGHTS)), {"seed": 0})
    found = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["unseen people"]["latents"]
    assert found.keys() == motion.METRICS.keys() and np.isfinite(list(found.values())).all()
    other = tiny.make_system()
    with pytest.raises(ConfigError, match="has no motion encoder"):
        motion.run(Animator(other, tiny.make_params(other)), Options(tmp_path, 2, 3, 0, ""), {})
