"""Protects: prepared clips become the latents that `launch.animate` would read off the same faces, resumably."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.motion import MotionSource, read_motion
from data.motion_latents import LatentsConfig, write_latents
from data.views import RecordSource
from portrait_jax.animation.faces import clip_signals
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip
from portrait_jax.errors import ConfigError
from portrait_jax.training.params import load_params, save_params
from tests import tiny_xnemo
from tests.tiny import get_config, make_params, make_system

FRAMES = 14


@pytest.fixture(scope="module")
def system():
    return tiny_xnemo.make_system()


@pytest.fixture(scope="module")
def checkpoint(system, tmp_path_factory):
    path = tmp_path_factory.mktemp("xnemo") / "xnemo.safetensors"
    save_params(path, make_params(system), {"config": tiny_xnemo.get_config().to_dict()})
    return path


def test_latents_are_those_of_the_clips_faces(portraits, tiny, system, checkpoint, tmp_path):
    found = write_latents(LatentsConfig(batch=4), portraits, checkpoint, tmp_path)
    assert found == {"sequences": tiny.train, "frames": tiny.train * FRAMES, "channels": tiny_xnemo.WIDTH}
    assert len(MotionSource(tmp_path, "test", 0)) == tiny.test
    source = RecordSource(portraits, "test", 64)
    view = source.view(source[1], np.random.default_rng(0))
    frames, landmarks = view.frames(range(FRAMES)), view.landmarks(range(FRAMES))
    signals = clip_signals(system, Portrait(frames[0], landmarks[0]), Clip(landmarks, frames), "none")
    params = jax.tree.map(jnp.asarray, load_params(checkpoint)[0])
    expected = system.encode_motion(params, jnp.asarray(signals.at(np.arange(FRAMES))["faces"]))
    latents = read_motion(tmp_path / "test" / "000001.npz")
    np.testing.assert_allclose(latents, expected, atol=1e-5)
    assert np.ptp(latents, axis=0).max() > 1e-3, "faces that move have latents that move"
    assert (tmp_path / "statistics.safetensors").is_file()


def test_what_is_there_is_not_made_again(portraits, tiny, checkpoint, tmp_path):
    write_latents(LatentsConfig(), portraits, checkpoint, tmp_path)
    kept, lost = tmp_path / "train" / "000000.npz", tmp_path / "train" / "000003.npz"
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    write_latents(LatentsConfig(), portraits, checkpoint, tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == content


def test_latents_of_two_encoders_are_not_mixed(portraits, system, checkpoint, tmp_path):
    write_latents(LatentsConfig(), portraits, checkpoint, tmp_path / "latents")
    other = tmp_path / "other.safetensors"
    save_params(other, make_params(system, seed=1), {"config": tiny_xnemo.get_config().to_dict()})
    (tmp_path / "latents" / "train" / "000000.npz").unlink()
    with pytest.raises(ConfigError, match="another motion encoder"):
        write_latents(LatentsConfig(), portraits, other, tmp_path / "latents")
    with pytest.raises(ConfigError, match="at least 1"):
        LatentsConfig(batch=0)


def test_a_system_without_motion_encoder_is_refused(portraits, tmp_path):
    path = tmp_path / "other.safetensors"
    save_params(path, make_params(make_system()), {"config": get_config().to_dict()})
    with pytest.raises(ConfigError, match="has no motion encoder"):
        write_latents(LatentsConfig(), portraits, path, tmp_path / "latents")
