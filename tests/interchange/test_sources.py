"""Whatever a path holds is opened or refused with its own message."""

import json

import numpy as np
import pytest

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange.sources import open_checkpoint
from tests.interchange.made import save

ONE, TWO = {"a": np.ones(3, np.float32)}, {"b": np.ones(4, np.float32)}


@pytest.fixture
def sharded(tmp_path):
    save(tmp_path / "m-1.safetensors", ONE)
    save(tmp_path / "m-2.safetensors", TWO)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}))
    return index


def test_shards_are_one_checkpoint_by_index_or_folder(sharded):
    for path in (sharded, sharded.parent):
        source = open_checkpoint(path)
        assert sorted(source.specs) == ["a", "b"] and source.read("b").shape == (4,)
        assert source.kind.startswith("2 shards")


def test_a_missing_shard_is_named_with_its_place(sharded):
    (sharded.parent / "m-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of its 2 shards \(m-2\.safetensors\); put them into "):
        open_checkpoint(sharded)


def test_a_shard_without_its_tensors_is_named(sharded):
    save(sharded.parent / "m-2.safetensors", ONE)
    with pytest.raises(CheckpointError, match=r"names 1 tensor that its shards do not hold \(b\)"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no index of a sharded"),
        ("[]", "no 'weight_map'"),
        ('{"weight_map": {}}', "no 'weight_map'"),
        ('{"weight_map": {"a": 1}}', "no 'weight_map'"),
        ('{"weight_map": {"a": "../../etc/passwd"}}', "outside its folder"),
    ],
)
def test_a_broken_or_hostile_index_is_refused(sharded, content, message):
    sharded.write_text(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello world, this is text", "no checkpoint: neither safetensors nor a PyTorch or ONNX file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b'{"a": 1}', "JSON file"),
        (b"\x89PNG\r\n\x1a\n0000", "no checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nowhere"):
        open_checkpoint(tmp_path / "nowhere")


def test_a_folder_gives_its_one_checkpoint_safetensors_before_pickles(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"not looked at")
    save(tmp_path / "model.safetensors", ONE)
    assert open_checkpoint(tmp_path).path.name == "model.safetensors"


def test_a_folder_with_several_or_none_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_checkpoint(tmp_path)
    save(tmp_path / "x.safetensors", ONE)
    assert open_checkpoint(tmp_path).path.name == "x.safetensors"
    save(tmp_path / "y.safetensors", ONE)
    with pytest.raises(CheckpointError, match=r"several checkpoints \(x\.safetensors, y\.safetensors\)"):
        open_checkpoint(tmp_path)
