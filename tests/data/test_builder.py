"""Protects: statistics tell the truth about the shards, and no TensorFlow is needed to write or read them."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from data import synthetic
from data.builder import open_split, read_statistics
from data.pipeline import make_loader
from data.prepare_synthetic import SyntheticConfig, prepare_synthetic
from data.records import unpack_mask
from data.views import RecordSource
from portrait_jax.errors import ConfigError, InputFileError


class Refusing:
    """An import hook that knows no package of these names."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def test_statistics_count_what_the_shards_hold(portraits, tiny):
    statistics = read_statistics(portraits)
    train = statistics["splits"]["train"]
    stored = open_split(portraits, "train")
    assert len(stored) == train["clips"] == train["identities"] == 5
    assert train["frames"] == sum(int(stored[i]["num_frames"]) for i in range(5)) == 5 * tiny.frames
    assert train["video_bytes"] == sum(len(stored[i]["video"]) for i in range(5))
    assert train["sizes"] == {"64x64": 5} and train["fps"] == {"25": 5}
    assert train["clip_frames"] == {"min": 14, "max": 14, "mean": 14.0}
    masks = [unpack_mask(stored[i]).mean() for i in range(5)]
    assert train["face_share"] == pytest.approx(np.mean(masks)) and 0.05 < np.mean(masks) < 0.6
    assert statistics["expression_names"] == list(synthetic.EXPRESSION_NAMES)
    assert len(statistics["attribute_names"]) == stored[0]["attributes"].shape[0]


def test_train_and_test_people_are_disjoint(portraits):
    people = [
        {source[i]["identity"] for i in range(len(source))}
        for source in (open_split(portraits, "train"), open_split(portraits, "test"))
    ]
    assert not people[0] & people[1]


def test_only_what_a_data_set_needs_is_left(portraits):
    assert {path.name for path in portraits.iterdir()} == {
        "prepare.json", "report.json", "statistics.json", "portrait_clips",
    }  # fmt: skip


def test_preparing_and_loading_need_neither_tensorflow_nor_torch(tmp_path, monkeypatch):
    absent = ("tensorflow", "torch")
    assert not {*absent} & sys.modules.keys()
    monkeypatch.setattr(sys, "meta_path", [Refusing(absent), *sys.meta_path])
    prepare_synthetic(SyntheticConfig(train=1, test=0, frames=2, size=32), tmp_path / "set")
    with make_loader({"path": str(tmp_path / "set"), "size": 32}, global_batch=1) as loader:
        assert next(loader)["frames"].shape == (1, 1, 32, 32, 3)


def test_an_unfinished_or_foreign_folder_is_refused(tmp_path, portraits):
    with pytest.raises(InputFileError, match="launch.prepare"):
        open_split(tmp_path, "train")
    with pytest.raises(ConfigError, match="no split 'validation'.*test, train"):
        open_split(portraits, "validation")
    (tmp_path / "statistics.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(InputFileError, match="schema version 99"):
        read_statistics(tmp_path)


def test_random_access_gives_the_same_record_twice(portraits):
    source = open_split(portraits, "train")
    np.testing.assert_array_equal(source[3]["landmarks"], source[3]["landmarks"])
    assert source[3]["clip_id"] != source[2]["clip_id"]


@pytest.mark.parametrize("number", range(6))
def test_a_shard_that_is_cut_anywhere_is_an_error_that_names_the_data_set(portraits, tmp_path, number):
    """Never other records than were written, and never a traceback."""
    folder = shutil.copytree(portraits, tmp_path / "cut")
    shard = max(folder.rglob("*train*array_record*"), key=lambda path: path.stat().st_size)
    data = shard.read_bytes()
    shard.write_bytes(data[: int(np.random.default_rng(number).integers(len(data)))])
    with pytest.raises(InputFileError, match=r"cut.*prepare (it|them) again"):
        source = RecordSource(folder, "train", 64)
        for index in range(len(source)):
            source[index]
