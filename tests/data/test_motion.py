"""Protects: sequences of motion latents are read whole or refused by name, and measured as they are."""

from __future__ import annotations

import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import motion_prior
from data import motion
from data.pipeline import make_loader
from portrait_jax.errors import CheckpointError, ConfigError, InputFileError
from portrait_jax.training.params import load_params

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """Three sequences of 3 channels, of both file types; one labelled."""
    motion.write_motion(tmp_path / "a.npz", RNG.normal(2.0, 3.0, (9, 3)))
    motion.write_motion(tmp_path / "b.npz", RNG.normal(2.0, 3.0, (12, 3)), emotion=4)
    save_file({"motion": RNG.normal(2.0, 3.0, (8, 3)).astype(np.float16)}, tmp_path / "c.safetensors")
    (tmp_path / "notes.txt").write_text("no sequence")
    return tmp_path


def load(folder, frames=8, **settings):
    with make_loader(
        {"kind": "motion", "path": str(folder), **settings}, global_batch=3, frames=frames, needs=("motion",)
    ) as loader:
        return next(loader), loader.get_state()


def test_a_batch_holds_windows_and_labels(folder):
    batch, state = load(folder)
    assert batch["motion"].shape == (3, 8, 3) and batch["motion"].dtype == np.float32
    assert sorted(batch["emotion"].tolist()) == [-1, -1, 4] and batch["emotion"].dtype == np.int32
    whole = {item: motion.read_motion(folder / item) for item in ("a.npz", "b.npz", "c.safetensors")}
    for window in batch["motion"]:
        assert any(
            np.array_equal(window, clip[start : start + 8]) for clip in whole.values() for start in range(len(clip) - 7)
        )
    again, _ = load(folder)
    np.testing.assert_array_equal(batch["motion"], again["motion"])
    motion.write_motion(folder / "a.npz", np.zeros((10, 3)))
    with make_loader({"kind": "motion", "path": str(folder)}, global_batch=3, frames=8) as loader:
        with pytest.raises(CheckpointError, match="was made with data"):
            loader.set_state(state)


def test_windows_start_anywhere_in_a_clip():
    view = motion.MotionView(np.arange(20.0, dtype=np.float32)[:, None], -1)
    starts = {float(motion.window(view, np.random.default_rng(i), 16)["motion"][0, 0]) for i in range(60)}
    assert starts == {0, 1, 2, 3, 4}


def test_splits_are_sub_folders_where_there_are_any(folder, tmp_path):
    motion.write_motion(tmp_path / "parted" / "train" / "a.npz", np.zeros((8, 3)))
    motion.write_motion(tmp_path / "parted" / "test" / "b.npz", np.zeros((9, 3)))
    assert motion.MotionSource(tmp_path / "parted", "test", 0).min_frames == 9
    with pytest.raises(InputFileError, match="holds no sequences for 'test'"):
        motion.MotionSource(folder, "test", 0)


def test_too_short_a_clip_and_a_label_out_of_range_are_config_errors(folder):
    with pytest.raises(ConfigError, match="examples of 9 frames, but the clips have 8"):
        load(folder, frames=9)
    with pytest.raises(ConfigError, match=r"labels beyond data.emotions 4 in b.npz"):
        load(folder, emotions=4)
    assert load(folder, emotions=5)[0]["motion"].shape == (3, 8, 3)


def spoil(path, kind):
    """Writes a file that is no sequence."""
    good = np.zeros((8, 3), np.float32)
    makers = {
        "text": lambda: path.write_text("hello"),
        "no motion": lambda: np.savez(path, latents=good),
        "flat": lambda: np.savez(path, motion=good[0]),
        "whole numbers": lambda: np.savez(path, motion=good.astype(int)),
        "objects": lambda: np.savez(path, motion=np.array([{}], object)),
        "no channel": lambda: np.savez(path, motion=np.zeros((8, 0), np.float32)),
        "label": lambda: np.savez(path, motion=good, emotion=np.int32(-2)),
        "not finite": lambda: np.savez(path, motion=good / 0),
        "half": lambda: (np.savez(path, motion=good), path.write_bytes(path.read_bytes()[:150])),
    }
    with np.errstate(invalid="ignore"):
        makers[kind]()


@pytest.mark.parametrize(
    "kind", ["text", "no motion", "flat", "whole numbers", "objects", "no channel", "label", "not finite", "half"]
)
def test_what_is_no_sequence_is_named(tmp_path, kind):
    path = tmp_path / "broken.npz"
    spoil(path, kind)
    with pytest.raises(InputFileError, match="broken.npz"):
        motion.read_motion(path)


def test_a_header_that_promises_too_much_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(motion, "LIMIT", 95)
    motion.write_motion(tmp_path / "big.npz", np.zeros((8, 3)))
    monkeypatch.setattr(motion, "load_npz", None)  # reading would fail otherwise than by the refusal
    with pytest.raises(InputFileError, match=r"big.npz: motion is float32\(8, 3\); give floats"):
        motion.header(tmp_path / "big.npz")


def test_other_dtypes_of_safetensors_and_damaged_ones_are_named(tmp_path):
    save_file({"motion": np.zeros((8, 3), ml_dtypes.bfloat16)}, tmp_path / "b.safetensors")
    (tmp_path / "d.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes()[:-4])
    for name in ("b", "d"):
        with pytest.raises(InputFileError, match=f"{name}.safetensors"):
            motion.read_motion(tmp_path / f"{name}.safetensors")


def test_channels_must_agree(folder):
    motion.write_motion(folder / "z.npz", np.zeros((8, 4)))
    with pytest.raises(InputFileError, match=r"holds latents of \[3, 4\] channels"):
        motion.MotionSource(folder, "train", 0)


def test_statistics_standardise_the_training_sequences(folder):
    found = motion.write_statistics(folder, folder)
    assert found == {"sequences": 3, "frames": 29, "channels": 3}
    params, _ = load_params(folder / "statistics.safetensors")
    clips = np.concatenate([motion.read_motion(folder / name) for name in ("a.npz", "b.npz", "c.safetensors")])
    measured = params["motion_statistics"]
    np.testing.assert_allclose(measured["mean"], clips.mean(0), rtol=1e-5)
    np.testing.assert_allclose(measured["std"], clips.std(0), rtol=1e-5)
    assert motion.write_statistics(folder, folder) == found, "its own file is no sequence"


def test_a_constant_channel_is_not_blown_up(tmp_path):
    motion.write_motion(tmp_path / "a.npz", np.stack([np.ones(9), np.arange(9.0)], axis=1))
    motion.write_statistics(tmp_path, tmp_path)
    std = load_params(tmp_path / "statistics.safetensors")[0]["motion_statistics"]["std"]
    assert std[0] == pytest.approx(motion.SMALL * std[1] / 2, rel=1e-4)


def test_a_label_survives_in_the_file(tmp_path):
    motion.write_motion(tmp_path / "a.npz", np.zeros((4, 2)), emotion=3)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert sorted(archive.namelist()) == ["emotion.npy", "motion.npy"]
    assert motion.header(tmp_path / "a.npz") == (tmp_path / "a.npz", 4, 2, 3)


def test_without_a_folder_performances_give_curves_of_about_unit_size():
    batch, _ = load("", frames=16, clip_frames=20)
    assert batch["motion"].shape == (3, 16, motion_prior.DEMO["vqvae"]["motion"])
    assert 0.1 < batch["motion"].std() < 1.5
    test = motion.open_motion("", "test", 20, 0)
    assert test[0] != motion.open_motion("", "train", 20, 0)[0]
