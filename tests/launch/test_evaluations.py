"""Protects the benchmark runner and the comparison of long videos, from files to a report, on the smallest system."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import get_type_hints

import numpy as np
import pytest

from launch.evaluations import long_video, manifest, speed
from launch.evaluations.common import Options
from portrait_jax.animation import Animator
from portrait_jax.errors import ConfigError
from portrait_jax.media.image import read_image
from portrait_jax.metrics import bench
from portrait_jax.metrics.detector import DEFAULT_WEIGHTS
from portrait_jax.systems.system import SamplingConfig
from tests import tiny
from tests.metrics import triples


@pytest.fixture(scope="module")
def animator() -> Animator:
    system = tiny.make_system()
    return Animator(system, tiny.make_params(system), steps=1, guidance=1.0)


@pytest.fixture(scope="module")
def benchmark(animator, tmp_path_factory):
    """The folder of a run over two procedural triples and a third whose file is no video."""
    folder = tmp_path_factory.mktemp("bench")
    triples.fill(folder, tiny.SIZE)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    path = triples.write(folder, *triples.LINES, {"name": "broken", "driving": "broken.mp4"})
    options = manifest.Options(str(path), folder / "out", 6, 0, "probe", str(DEFAULT_WEIGHTS), None, None, None, True)
    manifest.run(animator, options, {"seed": 0})
    return folder, json.loads((folder / "out" / "metrics.json").read_text())


def test_results_are_kept_as_arrays_where_asked_beside_the_truth_if_there_is_one(benchmark):
    folder, _ = benchmark
    with (
        np.load(folder / "out" / "videos" / "self.npz") as own,
        np.load(folder / "out" / "videos" / "cross.npz") as other,
    ):
        assert own["result"].shape == own["truth"].shape == (6, bench.SIDE, bench.SIDE, 3)
        assert own["result"].dtype == np.uint8 and own["result"].std() > 1
        assert set(other.files) == {"result"}


def test_both_groups_are_scored_beside_the_still_portrait(benchmark):
    _, found = benchmark
    assert found["metrics"].keys() == {"self", "cross"} and found["cases"].keys() == {"self", "cross"}
    for group, ways in found["metrics"].items():
        assert ways.keys() == {"result", "still portrait"}
        for scores in ways.values():
            assert scores.keys() == bench.METRICS.keys()
            assert 0 <= scores["landmark_accuracy"] <= 1 and scores["landmark_error"] > 0
            assert (scores["l1"] is None) == (scores["ssim"] is None) == (group == "cross")
    assert found["metrics"]["self"]["still portrait"]["l1"] < found["metrics"]["self"]["result"]["l1"]


def test_what_is_left_out_is_said(benchmark):
    _, found = benchmark
    assert found["left_out"].keys() == {"identity", "lpips", "fvd", "image_quality"}
    assert found["skipped"].keys() == {"broken"} and "broken.mp4" in found["skipped"]["broken"]
    assert found["settings"]["judge"] == "probe" and len(found["settings"]["manifest"]["sha256"]) == 64


def test_a_table_and_pictures_lie_beside_the_numbers(benchmark):
    folder, _ = benchmark
    table = (folder / "out" / "table.md").read_text()
    assert table.startswith("| driving | metric | result | still portrait |") and "landmarks within 5 %" in table
    sheet = read_image(folder / "out" / "comparison.png")
    assert sheet.shape[0] >= 2 * tiny.SIZE and sheet.std() > 10


def test_both_strategies_are_compared_at_their_own_borders(animator, tmp_path):
    options = Options(tmp_path / "out", 1, 13, 0, str(DEFAULT_WEIGHTS))
    long_video.run(animator, options, {"seed": 0})
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]["13 frames"]
    assert found.keys() == {"overlap", "progressive"}
    for scores in found.values():
        assert scores.keys() == long_video.METRICS.keys()
        assert all(np.isfinite(value) for value in scores.values())
    assert found["overlap"]["l1"] != found["progressive"]["l1"]
    sheet = read_image(tmp_path / "out" / "comparison.png")
    assert sheet.shape[0] >= 3 * tiny.SIZE


def test_variants_stand_beside_the_plain_sampler(animator, tmp_path):
    options = Options(tmp_path / "out", 1, 9, 0, str(DEFAULT_WEIGHTS), variants=("steps=2", "decode_tile=3"))
    speed.run(animator, options, {})
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = written["metrics"]["cross identity"]
    assert found.keys() == written["taken"].keys() == {"plain", "steps=2", "decode_tile=3"}
    assert all(scores["seconds"] > 0 and scores["processor"] > 0 for scores in found.values())
    assert found["plain"]["distance"] is None
    assert 5 < found["steps=2"]["distance"] < 100 and 5 < found["decode_tile=3"]["distance"] < 100


def test_a_variant_wins_over_the_animators_own_settings_and_leaves_the_others(animator):
    texts = ("solver=euler, steps=4", "window=5,overlap=1")
    found = speed.variants_of(animator, texts, 9)
    few, short = (found[text].settings for text in texts)
    assert (few["solver"], few["steps"], few["guidance"], found[texts[0]].solver.steps) == ("euler", 4, 1.0, 4)
    assert (short["steps"], short["window"], short["overlap"]) == (1, 5, 1)
    assert found["plain"].settings == animator.settings


def test_values_of_a_variant_have_the_types_of_the_settings():
    told = speed.parse("guidance_interval=(0.2, 1),steps=4 , anchor=none,portrait_guidance=None,mimic=2")
    assert told == {
        "guidance_interval": (0.2, 1.0),
        "steps": 4,
        "anchor": "none",
        "portrait_guidance": None,
        "mimic": 2.0,
    }
    assert isinstance(told["mimic"], float) and speed.parse("portrait_guidance=2.5") == {"portrait_guidance": 2.5}
    assert speed.READERS.keys() >= set(get_type_hints(SamplingConfig).values())


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ((), "nothing to compare: give --variant"),
        (("stepz=4",), "no sampling setting 'stepz'; did you mean 'steps'"),
        (("steps=4.5",), r"'steps=4.5': steps is a whole number, not '4.5'"),
        (("guidance_interval=(0.2)",), "two numbers in brackets"),
        (("steps=4,euler",), "'euler' sets nothing"),
        (("steps=4,,solver=euler",), "'' sets nothing"),
        (("steps=4", "steps=1"), "'steps=1' is what the config says already"),
        (("solver=eulr",), "did you mean 'euler'"),
        (("overlap=4",), "overlap < length"),
        (("decode_tile=-1",), "decode_tile -1"),
        (("cache_every=0",), "cache_every 0 must be at least 1"),
    ],
)
def test_variants_that_cannot_be_are_refused_before_anything_is_sampled(animator, variants, message):
    with pytest.raises(ConfigError, match=message):
        speed.variants_of(animator, variants, 9)


def test_two_evaluations_at_once_are_refused(root, tmp_path):
    flags = ["--config=tests/tiny.py", f"--output={tmp_path}", "--manifest=x.jsonl", "--analysis=long_video"]
    done = subprocess.run([sys.executable, "-m", "launch.evaluate", *flags], cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and "give one of them" in done.stderr and "Traceback" not in done.stderr
