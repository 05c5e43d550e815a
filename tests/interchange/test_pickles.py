"""Legacy PyTorch files: read without running their code, or refused; the first tests need no torch."""

import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange.sources import open_checkpoint


def test_without_torch_the_message_says_how_to_do_without(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "m.ckpt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match=r"only torch reads.*interchange.*\.safetensors"):
        open_checkpoint(tmp_path / "m.ckpt")


class Payload:
    """Runs a command when a careless program unpickles it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def test_nested_dictionaries_and_half_precision_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    inner = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    torch.save({"state_dict": inner, "epoch": 3}, tmp_path / "lightning.ckpt")
    torch.save({"image_proj": {"x": torch.ones(2)}, "ip_adapter": {"1.k": torch.zeros(2).half()}}, tmp_path / "ip.bin")
    source = open_checkpoint(tmp_path / "lightning.ckpt")
    assert sorted(source.specs) == ["a.weight", "b"]
    np.testing.assert_array_equal(source.read("a.weight"), np.arange(6).reshape(2, 3))
    assert source.read("b").dtype == ml_dtypes.bfloat16 and source.read("b")[0] == 1
    assert sorted(open_checkpoint(tmp_path / "ip.bin").specs) == ["image_proj.x", "ip_adapter.1.k"]


def test_the_old_format_without_archive_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert open_checkpoint(tmp_path / "old.pth").read("a").tolist() == [1, 1, 1]


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, archive):
    torch = pytest.importorskip("torch")
    mark = tmp_path / "ran"
    content = {"a": torch.ones(3), "evil": Payload(f"touch {mark}")}
    torch.save(content, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=archive)
    with pytest.raises(CheckpointError, match=r"holds more than tensors \((posix|nt)\.system\).*refused"):
        open_checkpoint(tmp_path / "evil.ckpt")
    assert not mark.exists()


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_pickle_is_called_so(tmp_path, kept):
    torch = pytest.importorskip("torch")
    path = tmp_path / "cut.pth"
    torch.save({"a": torch.ones(10_000)}, path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        open_checkpoint(path)


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    pytest.importorskip("torch")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(CheckpointError, match="compressed inside"):
        open_checkpoint(tmp_path / "bomb.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="no PyTorch checkpoint"):
        open_checkpoint(tmp_path / "other.pth")


def test_a_pickle_without_tensors_says_so(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        open_checkpoint(tmp_path / "list.pt")
