"""`make demo` with a small system in the place of the embedded one: what it writes and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from portrait_jax.media.image import read_image
from portrait_jax.media.video import probe

PROGRAM = """
import sys
from pathlib import Path
from data import cases
from launch import cli, demo
from tests import tiny

folder = Path(sys.argv[1])
cases.DEMO_FRAMES, cases.DRIVING, cases.SOUND = 15, folder / "driving.npz", folder / "driving.wav"
cases.write_demo_driving(64)
demo.follow_your_emoji = tiny
demo.load_system_params = tiny.make_params
print("a file as output:", cli.status(demo.main, ["demo", f"--output={folder / 'driving.wav'}"]))
sys.argv = ["demo", f"--output={folder / 'results'}"]
cli.run(demo.main, demo.__doc__)
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory, root):
    """The folder of results, and what was printed."""
    folder = tmp_path_factory.mktemp("demo")
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "160"}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "results", done


def test_three_videos_with_sound_and_one_contact_sheet_are_written(demo):
    results, _ = demo
    videos = sorted(results.glob("*.mp4"))
    assert len(videos) == 3
    for video in videos:
        info = probe(video)
        assert (info.width, info.height, info.frames, info.fps, info.has_audio) == (32, 32, 15, 25.0, True)
        record = json.loads(video.with_suffix(".json").read_text())
        assert record["frames"] == 15 and len(record["checkpoint"]["sha256"]) == 64
        assert read_image(video.with_suffix(".png")).std() > 10
    assert read_image(results / "contact_sheet.png").std() > 10
    left_over = {path.suffix for path in results.iterdir()} - {".mp4", ".png", ".json"}
    assert left_over == set()


def test_the_demo_says_where_its_results_are_and_how_good(demo):
    results, done = demo
    assert f"contact sheet: {results / 'contact_sheet.png'}" in done.stdout
    assert all(str(video) in done.stdout for video in results.glob("*.mp4"))
    for row in ("this model", "truth", "still reference", "landmark error", "SSIM"):
        assert row in done.stdout, row
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_a_file_in_the_place_of_the_results_is_refused(demo):
    _, done = demo
    assert "a file as output: 2" in done.stdout and "driving.wav is a file; give a folder" in done.stderr
