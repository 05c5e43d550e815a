"""Protects the seals of checkpoints: any byte that changes is named, and seals go with what they are of."""

from __future__ import annotations

import pytest

from portrait_jax.training import seals


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoints" / "7"
    (folder / "params").mkdir(parents=True)
    (folder / "params" / "data").write_bytes(bytes(range(256)) * 40)
    (folder / "meta").write_text("{}")
    return folder


def test_changed_cut_and_missing_files_are_named_and_new_ones_are_nobodys_business(checkpoint):
    assert seals.broken(checkpoint) == [], "not sealed yet"
    seals.seal(checkpoint)
    (checkpoint / "later").write_text("more")
    assert seals.broken(checkpoint) == []
    data = bytearray((checkpoint / "params" / "data").read_bytes())
    data[5000] ^= 1
    (checkpoint / "params" / "data").write_bytes(data)
    assert seals.broken(checkpoint) == ["params/data"]
    (checkpoint / "meta").unlink()
    assert seals.broken(checkpoint) == ["meta", "params/data"]
    seals.seal(checkpoint)
    assert seals.broken(checkpoint) == ["meta", "params/data"], "a seal is set once"


def test_a_seal_is_forgotten_with_its_checkpoint_and_a_damaged_one_says_nothing(checkpoint):
    seals.seal(checkpoint)
    seals.path_of(checkpoint).write_text("{")
    assert seals.broken(checkpoint) == []
    seals.forget(checkpoint.parent, [7])
    assert seals.path_of(checkpoint).exists()
    seals.forget(checkpoint.parent, [8])
    assert not seals.path_of(checkpoint).exists()
