"""Protects: a file that kills the process which reads it costs itself alone, in this run or the next."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from data.workers import run, started
from portrait_jax.errors import PortraitError


def note(folder: Path, name: str) -> Path:
    return folder / f"{name}.started"


def work(folder: Path, name: str) -> None:
    """Writes the file `name`; a bad name kills the process."""
    with started(note(folder, name)):
        if name == "bad":
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / name).touch()


def die(name: str) -> None:
    """Ends the process before anything is begun."""
    os._exit(3)


@pytest.mark.parametrize(
    ("processes", "suspects"), [(2, []), (1, ["bad"]), (1, ["bad", "a"])], ids=["in a pool", "next time", "beside it"]
)
def test_who_kills_its_process_twice_is_blamed_and_the_others_are_done(tmp_path, processes, suspects):
    """With one process the crash ends the run: what is left of it is the note."""
    for name in suspects:
        note(tmp_path, name).touch()
    blamed = []
    names = ["a", "bad", "b", "c"]
    done = list(run(names, partial(work, tmp_path), partial(note, tmp_path), blamed.append, processes))
    assert len(done) == 4 and blamed == ["bad"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


def test_processes_that_die_before_they_begin_are_an_error_of_the_run(tmp_path):
    with pytest.raises(PortraitError, match="before they begin"):
        list(run(["a", "b"], die, partial(note, tmp_path), pytest.fail, 2))


def test_an_exception_leaves_no_note(tmp_path):
    with pytest.raises(ValueError, match="bug"), started(tmp_path / "sub" / "a.started"):
        assert (tmp_path / "sub" / "a.started").exists()
        raise ValueError("bug")
    assert not list((tmp_path / "sub").iterdir())
