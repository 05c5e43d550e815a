"""Protects: a killed preparation leaves no half file and ends with the same data set as an undisturbed one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data import builder, parts, prepare_synthetic
from data.builder import open_split, read_statistics
from data.prepare_synthetic import SyntheticConfig
from portrait_jax.errors import ConfigError

KILLED = """
import sys, time
from data import prepare_synthetic
draw = prepare_synthetic.draw

def slow(source):
    yield from draw(source)
    time.sleep(0.3)

prepare_synthetic.draw = slow
prepare_synthetic.prepare_synthetic(prepare_synthetic.SyntheticConfig(train=5, test=2, frames=14, size=64), sys.argv[1])
"""


def test_a_killed_preparation_goes_on_and_gives_the_same_data_with_any_number_of_processes(
    tmp_path, portraits, tiny, root, monkeypatch
):
    output = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(output)], cwd=root, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while len(list(output.glob("sources/*.json"))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (output / "statistics.json").exists() and not (output / "portrait_clips").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in output.glob("parts/*/*.npz")}
    assert 3 <= len(kept) < 7
    for path in output.glob("parts/*/[!.]*.npz"):
        parts.load_part(path)

    whole = [path.name for path in output.glob("sources/*.json")]
    write, at_the_end = prepare_synthetic.write_shards, {}

    def write_shards(folder, *arguments):
        at_the_end.update({path.name: path.stat().st_mtime_ns for path in folder.glob("parts/*/*.npz")})
        return write(folder, *arguments)

    monkeypatch.setattr(prepare_synthetic, "write_shards", write_shards)
    # The rest is made by two processes, the reference data set was made by one.
    assert prepare_synthetic.prepare_synthetic(tiny, output, processes=2) == read_statistics(portraits)
    assert len(at_the_end) == 7
    for note in whole:
        part = note.replace(".json", "_000.npz")
        assert at_the_end[part] == kept[part], "a finished clip was drawn again"


def test_a_run_killed_while_writing_shards_starts_them_again(tmp_path, portraits, tiny, monkeypatch):
    class Killed(BaseException):
        pass

    load, loaded = builder.load_part, []

    def die(path):
        loaded.append(path)
        if len(loaded) > 10:  # Seven for the statistics, then in the middle of the shards.
            raise Killed
        return load(path)

    monkeypatch.setattr(builder, "load_part", die)
    with pytest.raises(Killed):
        prepare_synthetic.prepare_synthetic(tiny, tmp_path / "set")
    assert not (tmp_path / "set" / "statistics.json").exists()
    monkeypatch.undo()
    monkeypatch.setattr(prepare_synthetic, "draw", lambda source: pytest.fail("drew a finished clip again"))
    assert prepare_synthetic.prepare_synthetic(tiny, tmp_path / "set") == read_statistics(portraits)
    assert len(open_split(tmp_path / "set", "train")) == 5
    assert [path.name for path in (tmp_path / "set" / "portrait_clips").iterdir()] == ["1.0.0"]


def test_a_finished_data_set_is_not_made_again(portraits, tiny, monkeypatch):
    monkeypatch.setattr(prepare_synthetic, "draw", lambda source: pytest.fail("drew again"))
    assert prepare_synthetic.prepare_synthetic(tiny, portraits) == read_statistics(portraits)


def test_a_folder_with_other_settings_or_other_files_is_left_alone(portraits, tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"other settings \(frames\)"):
        prepare_synthetic.prepare_synthetic(dataclasses.replace(tiny, frames=15), portraits)
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no prepared data set"):
        prepare_synthetic.prepare_synthetic(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_the_report_counts_sources(portraits):
    assert json.loads((portraits / "report.json").read_text()) == {"clips": 7, "skipped": [], "sources": 7}


def test_fewer_frames_a_second_show_the_same_performance_for_longer(tiny):
    source = parts.Source("train_000000", "", "train", (tiny, 0))
    (quick,) = prepare_synthetic.draw(source)
    (slow,) = prepare_synthetic.draw(source._replace(item=(dataclasses.replace(tiny, fps=5.0), 0)))
    assert (quick["fps"], slow["fps"]) == (25.0, 5.0)
    assert len(slow["audio"]) == 5 * len(quick["audio"])
    assert np.ptp(slow["pose"], axis=0).sum() > 2 * np.ptp(quick["pose"], axis=0).sum()


@pytest.mark.parametrize("change", [{"train": 0}, {"size": 63}, {"frames": 0}, {"size": 8}, {"fps": 0.5}])
def test_settings_that_do_not_fit_are_refused(change):
    with pytest.raises(ConfigError, match="prepare:"):
        SyntheticConfig(**change)
