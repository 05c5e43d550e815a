"""The evaluation's cases and its entry point."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from data import synthetic
from data.cases import average_person, evaluation_cases
from portrait_jax.media.image import read_image
from portrait_jax.metrics.detector import DEFAULT_WEIGHTS, Detector
from portrait_jax.metrics.suite import BASELINES, METRICS, evaluate
from portrait_jax.training.params import save_params
from tests import tiny, tiny_hunyuan, tiny_xnemo


@pytest.fixture(scope="module")
def both():
    """One case of each kind: a person driven by itself and by another."""
    return {name: evaluation_cases(1, 8, 64, 0, cross=name == "cross") for name in ("same", "cross")}


def test_same_identity_is_driven_by_its_own_landmarks(both):
    case = both["same"][0]
    assert case.truth.shape == (8, 64, 64, 3) and case.portrait.shape == (64, 64, 3)
    np.testing.assert_array_equal(case.driving_landmarks, case.truth_landmarks)
    np.testing.assert_array_equal(case.driving_frames, case.truth)


def test_cross_identity_has_the_same_answer_but_another_driver(both):
    same, cross = both["same"][0], both["cross"][0]
    np.testing.assert_array_equal(same.truth, cross.truth)
    np.testing.assert_array_equal(same.portrait, cross.portrait)
    driver = Detector.load().detect(cross.driving_frames).attributes.mean(axis=0)
    own = Detector.load().detect(cross.truth).attributes.mean(axis=0)
    assert cross.driving_frames.shape == cross.truth.shape
    assert driver @ own < 0.8 * np.linalg.norm(driver) * np.linalg.norm(own), (
        "the driver's pictures show the portrait's person"
    )
    assert np.abs(cross.driving_landmarks - cross.truth_landmarks)[:, :468, :2].max() > 1.0


def test_the_portrait_is_neutral_and_stands_where_the_drivers_first_frame_stands(both):
    case = both["same"][0]
    moved = np.linalg.norm(case.reference_landmarks[168, :2] - case.truth_landmarks[0, 168, :2])
    assert moved < 0.1 * 64
    assert np.linalg.norm(case.reference_landmarks[13, :2] - case.reference_landmarks[14, :2]) < 1.0


def test_the_baselines_score_as_they_must_on_real_cases(both):
    for scores in evaluate(BASELINES, both, Detector.load(), average_person=average_person(20)).values():
        truth, still = scores["truth"], scores["still reference"]
        assert truth["l1"] == 0 < still["l1"] and truth["identity"] == pytest.approx(1)
        assert truth["landmark_error"] < still["landmark_error"]


def test_people_differ_from_the_average_in_many_directions():
    people = [synthetic.identity_attributes(synthetic.sample_identity(seed)) for seed in range(1, 40, 2)]
    offsets = np.stack(people) - average_person()
    offsets /= np.linalg.norm(offsets, axis=-1, keepdims=True)
    assert abs((offsets @ offsets.T)[np.triu_indices(20, 1)].mean()) < 0.15


DEMO = "--config=configs/follow_your_emoji.py:demo"
MISTAKES = [
    ([], "--config is missing"),
    ([DEMO], "--output is missing"),
    ([DEMO, "--output=x", "--probe=nowhere.safetensors"], "nowhere.safetensors"),
    ([DEMO, "--output=setup.py", "--checkpoint=nowhere.safetensors"], "setup.py is a file; give a folder"),
]

PROGRAM = """
import json, sys
from absl.testing import flagsaver
from launch import cli, evaluate
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["evaluate", *arguments]
    with flagsaver.flagsaver():
        print("status", cli.status(evaluate.main, sys.argv), file=sys.stderr, flush=True)
"""


def test_each_mistake_is_a_message_with_status_2(root):
    command = [sys.executable, "-c", PROGRAM, json.dumps([arguments for arguments, _ in MISTAKES])]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    answers = done.stderr.split("status 2")
    assert len(answers) == len(MISTAKES) + 1 and "Traceback" not in done.stderr, done.stderr
    for (arguments, message), answer in zip(MISTAKES, answers, strict=False):
        assert "error: " in answer and message in answer, (arguments, answer)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, root):
    """The folder of a run on the small system and one person, and what was printed."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_params(folder / "tiny.safetensors", tiny.make_params(tiny.make_system()), {"config": {}})
    arguments = {"config": root / "tests" / "tiny.py", "checkpoint": "tiny.safetensors", "output": "out/report"}
    arguments |= {"identities": 1, "frames": 8, "steps": 1, "guidance": 1, "seed": 3}
    command = [sys.executable, "-m", "launch.evaluate", *(f"--{name}={value}" for name, value in arguments.items())]
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "140"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_report_holds_every_metric_of_every_method(evaluated):
    folder, done = evaluated
    assert sorted(path.name for path in (folder / "out/report").iterdir()) == [
        "comparison.png", "metrics.json", "table.md",
    ]  # fmt: skip
    found = json.loads((folder / "out/report/metrics.json").read_text())["metrics"]
    assert found.keys() == {"same identity", "cross identity"}
    for methods in found.values():
        assert methods.keys() == {"trained", "untrained", "truth", "still reference"}
        assert all(scores.keys() == METRICS.keys() for scores in methods.values())
        assert methods["truth"]["l1"] == 0 < methods["still reference"]["l1"]
        assert methods["trained"]["l1"] != methods["untrained"]["l1"]
    table = (folder / "out/report/table.md").read_text()
    assert table.startswith("| driving | metric | trained | untrained | truth | still reference |")
    assert "1 unseen people, 8 frames each" in done.stdout and "landmark error" in done.stdout
    assert "same identity: 1 people" in done.stderr and "cross identity: done" in done.stderr


def test_the_report_says_what_it_was_made_with(evaluated):
    folder, _ = evaluated
    settings = json.loads((folder / "out/report/metrics.json").read_text())["settings"]
    weights = hashlib.sha256((folder / "tiny.safetensors").read_bytes()).hexdigest()
    assert settings["checkpoint"] == {"path": "tiny.safetensors", "sha256": weights}
    assert settings["probe"]["sha256"] == hashlib.sha256(DEFAULT_WEIGHTS.read_bytes()).hexdigest()
    assert settings["config"]["model"]["image_size"] == tiny.SIZE
    asked = {name: settings[name] for name in ("identities", "frames", "seed", "steps", "guidance")}
    assert asked == {"identities": 1, "frames": 8, "seed": 3, "steps": 1, "guidance": 1.0}


def test_the_comparison_shows_each_method_of_each_group(evaluated):
    sheet = read_image(evaluated[0] / "out/report/comparison.png")
    assert sheet.shape[0] >= 8 * tiny.SIZE and sheet.shape[1] >= 6 * tiny.SIZE and sheet.std() > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "more"),
    [(tiny_xnemo, {"config.sampling.alignment": "none"}), (tiny_hunyuan, {})],
    ids=["xnemo", "hunyuan"],
)
def test_a_system_that_sees_the_driver_is_compared_with_a_shuffled_one(tmp_path, root, module, more):
    save_params(tmp_path / "tiny.safetensors", tiny.make_params(module.make_system()), {"config": {}})
    arguments = {"config": module.__file__, "checkpoint": "tiny.safetensors", "output": "out"}
    arguments |= {"identities": 1, "frames": 8, "steps": 1, "guidance": 1, "config.model.image_size": 64, **more}
    command = [sys.executable, "-m", "launch.evaluate", *(f"--{name}={value}" for name, value in arguments.items())]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/metrics.json").read_text())["metrics"]
    for methods in found.values():
        assert methods.keys() == {"trained", "untrained", "truth", "still reference", "shuffled driver"}
        assert methods["trained"]["l1"] != methods["shuffled driver"]["l1"]
