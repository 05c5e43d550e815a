"""Using a probe, and how well the shipped one sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data import synthetic
from data.cases import average_person
from portrait_jax.errors import CheckpointError
from portrait_jax.metrics import degrade
from portrait_jax.metrics.detector import DEFAULT_WEIGHTS, Detector
from portrait_jax.metrics.following import face_width, following
from portrait_jax.metrics.points import POINTS
from portrait_jax.metrics.probe import Probe, ProbeConfig
from portrait_jax.metrics.suite import identity, point_distance
from portrait_jax.training.params import save_params

pytestmark = pytest.mark.usefixtures("optimised")

SMALL = ProbeConfig(attributes=3, size=32, channels=(8, 8, 8, 8))
SMALL_DICT = {"attributes": 3, "size": 32, "channels": [8, 8, 8, 8]}


@pytest.fixture(scope="module")
def params():
    image = jnp.zeros((1, 32, 32, 3))
    return {"probe": jax.jit(Probe(SMALL).init)(jax.random.key(0), image)["params"]}


@pytest.fixture(scope="module")
def people():
    """Two frames of each of twelve people from the test split: images, landmarks, attributes."""
    frames, landmarks, attributes = [], [], []
    for index in range(12):
        person = synthetic.sample_identity(synthetic.split_seed("test", 500 + index))
        acting = synthetic.sample_performance(index, 24)
        for moment in (6, 20):
            shot = synthetic.render(person, acting.pose[moment], acting.expression[moment], 128)
            frames.append(shot.image)
            landmarks.append(shot.landmarks)
            attributes.append(synthetic.identity_attributes(person))
    return np.stack(frames), np.stack(landmarks), np.stack(attributes)


@pytest.fixture(scope="module")
def shipped():
    return Detector.load()


def error_percent(detector, images, landmarks):
    """Mean distance of the probe's points in percent of each face's width."""
    distance = point_distance(detector.detect(images).landmarks_px, landmarks)
    return float((100 * distance / face_width(landmarks)[:, None]).mean())


def smooth(count, size):
    """Slow waves: pictures that look the same at any size."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    waves = [0.5 + 0.5 * np.sin(k + 4 * x + np.cos(k) * 3 * y) for k in range(3 * count)]
    return (255 * np.stack(waves, axis=-1)).astype(np.uint8).reshape(size, size, count, 3).transpose(2, 0, 1, 3)


def test_batches_of_any_length_and_pictures_of_any_size_are_judged_in_their_own_pixels(params):
    images = smooth(5, 32)
    whole, part = Detector(params, SMALL, batch=5).detect(images), Detector(params, SMALL, batch=2).detect(images)
    np.testing.assert_allclose(whole.landmarks_px[:, POINTS], part.landmarks_px[:, POINTS], atol=1e-3)
    np.testing.assert_allclose(whole.attributes, part.attributes, atol=1e-4)
    large = Detector(params, SMALL, batch=5).detect(smooth(5, 64))
    # An untrained network magnifies the last digits of a resized picture: only the mean is bounded tightly.
    assert np.abs(large.landmarks_px - 2 * whole.landmarks_px)[:, POINTS].mean() < 0.5


def test_weights_and_config_come_back_from_the_file(params, tmp_path):
    save_params(tmp_path / "probe.safetensors", params, {"config": {"task": "probe", "model": SMALL_DICT}}, "float16")
    images = smooth(2, 32)
    found = Detector.load(tmp_path / "probe.safetensors").detect(images)
    expected = Detector(params, SMALL).detect(images)
    np.testing.assert_allclose(found.landmarks_px[:, POINTS], expected.landmarks_px[:, POINTS], atol=0.05)


def test_weights_of_something_else_are_refused(params, tmp_path):
    file = tmp_path / "other.safetensors"
    save_params(file, params, {"config": {"task": "autoencoder", "model": {}}})
    with pytest.raises(CheckpointError, match="autoencoder.*not a probe"):
        Detector.load(file)
    save_params(file, {"probe": {"stem": params["probe"]["stem"]}}, {"config": {"task": "probe", "model": SMALL_DICT}})
    with pytest.raises(CheckpointError, match="missing"):
        Detector.load(file)


def test_the_shipped_file_is_small():
    assert DEFAULT_WEIGHTS.stat().st_size < 700_000


def test_the_shipped_probe_finds_unseen_people_within_two_and_a_half_percent_of_their_faces(shipped, people):
    images, landmarks, _ = people
    error = error_percent(shipped, images, landmarks)
    assert error < 2.5


def test_damage_as_in_generated_pictures_costs_the_shipped_probe_little(shipped, people):
    images, landmarks, _ = people
    keys = jax.random.split(jax.random.key(0), len(images))
    damaged = jax.jit(jax.vmap(degrade.degrade))(keys, jnp.asarray(images, jnp.float32) / 255)
    error = error_percent(shipped, np.asarray(255 * damaged).astype(np.uint8), landmarks)
    assert error < 3.5


def test_the_shipped_probe_tells_people_apart(shipped, people):
    seen = shipped.detect(people[0]).attributes - average_person()
    pairs = [seen[2 * i : 2 * i + 2] for i in range(len(seen) // 2)]
    same = [identity(a[:1], a[1:]) for a in pairs]
    other = [identity(a, b) for i, a in enumerate(pairs) for b in pairs[:i]]
    assert np.mean(same) > 0.85
    assert np.mean(other) < 0.4


@pytest.mark.parametrize("seed", [4, 5])
def test_the_shipped_probe_sees_who_follows_whom(shipped, seed):
    """In performances that turn the head by several degrees: the probe's own trembling hides less than one."""
    acting = synthetic.sample_performance(seed, 40)
    driver, result = (synthetic.sample_identity(synthetic.split_seed("test", 700 + k)) for k in range(2))
    moments = list(zip(acting.pose, acting.expression, strict=True))
    driving = np.stack([synthetic.render(driver, *moment, 64).landmarks for moment in moments])
    images = np.stack([synthetic.render(result, *moment, 128).image for moment in moments])
    for name, followed in following(driving, shipped.detect(images).landmarks_px).items():
        assert followed.correlation > 0.85 and followed.follows, name
        assert abs(followed.shuffled) < 0.1, name
