"""Protects a benchmark's file: what it may say, and the line that is named when it says something else."""

from __future__ import annotations

import pytest

from portrait_jax.errors import InputFileError
from portrait_jax.metrics import manifest
from portrait_jax.metrics.manifest import Triple, read_manifest
from tests.metrics.triples import write


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "a.npz", "p.png"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "b.mp4").write_bytes(b"something")
    return tmp_path


def test_cases_come_in_order_with_paths_in_the_manifests_folder(folder):
    cross = {
        "name": "one",
        "portrait": "p.png",
        "driving": "a.mp4",
        "landmarks": "a.npz",
        "portrait_landmarks": "a.npz",
    }
    path = write(folder, cross, "", {"name": "two", "driving": "videos/b.mp4"})
    first, second = read_manifest(path)
    assert first == Triple("one", folder / "a.mp4", folder / "p.png", folder / "a.npz", folder / "a.npz")
    assert second == Triple("two", folder / "videos" / "b.mp4")
    assert (first.group, second.group) == ("cross", "self")


GOOD = {"name": "x", "driving": "a.mp4"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["{"], "line 1 is no JSON"),
        (["[" * 100_000], "line 1 is no JSON"),
        ([GOOD, "[1]"], "line 2 is list, not an object"),
        ([{**GOOD, "drivng": "a.mp4"}], "unknown key 'drivng'; did you mean 'driving'"),
        ([{**GOOD, "portrait": 3}], "'portrait' is 3, not text"),
        ([{"name": "x"}], "lacks driving"),
        ([{**GOOD, "name": "a/b"}], "the name 'a/b' is not"),
        ([{**GOOD, "name": ""}], "the name '' is not"),
        ([GOOD, GOOD], "line 2: there is a case 'x' already"),
        ([{**GOOD, "driving": "/etc/passwd"}], "no path inside the manifest's folder"),
        ([{**GOOD, "driving": "../a.mp4"}], "no path inside the manifest's folder"),
        ([{**GOOD, "driving": "c.mp4"}], "does not exist"),
        ([{**GOOD, "driving": "videos"}], "is a folder"),
        ([{**GOOD, "driving": "a.npz"}], "self-reenactment needs a video"),
        ([" "], "holds 0 cases"),
    ],
)
def test_what_a_manifest_may_not_say_is_named_with_its_line(folder, entries, message):
    with pytest.raises(InputFileError, match=message):
        read_manifest(write(folder, *entries))


def test_a_manifest_has_bounds(folder, monkeypatch):
    path = write(folder, GOOD, {**GOOD, "name": "y"})
    monkeypatch.setattr(manifest, "MOST_CASES", 1)
    with pytest.raises(InputFileError, match="holds 2 cases; give 1 to 1"):
        read_manifest(path)
    monkeypatch.setattr(manifest, "MOST_BYTES", 10)
    with pytest.raises(InputFileError, match="is larger than"):
        read_manifest(path)


def test_text_that_is_not_utf_8_is_refused(folder):
    (folder / "bench.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputFileError, match="not UTF-8"):
        read_manifest(folder / "bench.jsonl")
