"""Outputs appear whole or not at all; bad inputs are named."""

import hashlib
import os

import pytest

from portrait_jax.errors import InputFileError
from portrait_jax.media.files import atomic_output, checked_input, digest


def test_an_error_while_writing_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), atomic_output(tmp_path / "new" / "out.txt") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert list((tmp_path / "new").iterdir()) == []


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_output(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"


def test_success_moves_the_file_into_place(tmp_path):
    with atomic_output(tmp_path / "out.txt") as partial:
        partial.write_text("whole")
        assert partial.suffix == ".txt"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_a_folder_that_may_not_be_written_to_is_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputFileError, match="may not be written to"), atomic_output(tmp_path / "out.txt") as partial:
        partial.write_text("never")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make, words", [
    (lambda path: None, "does not exist"),
    (lambda path: path.touch(), "empty"),
    (lambda path: path.mkdir(), "is a folder"),
])  # fmt: skip
def test_unusable_inputs_are_named_with_their_kind_and_path(tmp_path, make, words):
    path = tmp_path / "face.bin"
    make(path)
    with pytest.raises(InputFileError, match=words) as caught:
        checked_input(path, "image")
    assert str(path) in str(caught.value)


def test_an_output_that_is_a_folder_is_refused(tmp_path):
    with pytest.raises(InputFileError, match="folder"), atomic_output(tmp_path):
        pass


def test_a_digest_is_what_sha256sum_says(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert digest(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
