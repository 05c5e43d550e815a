"""`python -m launch.animate` as a user meets it: flags reach the settings, and each mistake has its message and status 2."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from portrait_jax.media.image import read_image, write_image
from portrait_jax.media.video import VideoWriter, probe
from portrait_jax.training.params import save_params
from tests import tiny
from tests.animation import scene

PROGRAM = """
import json, sys
from absl.testing import flagsaver
from launch import animate, cli

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["animate", *arguments]
    with flagsaver.flagsaver():
        print("status", cli.status(animate.main, sys.argv, animate.__doc__), file=sys.stderr, flush=True)
"""

FLAGS = {
    "checkpoint": "tiny.safetensors",
    "portrait": "portrait.png",
    "portrait_landmarks": "portrait.npz",
    "driving": "driving.npz",
    "output": "out/result.mp4",
}

MISTAKES = {
    "no portrait": ({"portrait": ""}, "--portrait is missing: follow_your_emoji is told who it is by a picture"),
    "no output": ({"output": ""}, "--output is missing; give it (--help says"),
    "portrait not there": ({"portrait": "no.png"}, "image file no.png does not exist"),
    "portrait not an image": ({"portrait": "text.txt"}, "text.txt is not an image"),
    "landmarks of another picture": (
        {"portrait": "small.png"}, "landmarks of a 64×64 picture, but small.png is 48×40; give the picture that",
    ),
    "driving not there": ({"driving": "no.mp4"}, "no.mp4 does not exist"),
    "driving truncated": ({"driving": "cut.mp4"}, "cut.mp4"),
    "sound of a silent video": ({"audio": "silent.mp4"}, "silent.mp4 has no audio stream"),
    "sound too short": ({"audio": "short.wav"}, "short.wav lasts 0.30 s; at least 0.5 s are needed: give a longer"),
    "sound silent": ({"audio": "quiet.wav"}, "quiet.wav is silent; give a recording of speech, or leave it out"),
    "output not mp4": ({"output": "result.gif"}, "must end in .mp4"),
    "two portraits in one file": (
        {"portrait": "portrait.png|small.png", "portrait_landmarks": ""}, "2 portraits make a video each; give a folder",
    ),
    "landmarks of one of two portraits": (
        {"portrait": "portrait.png|small.png", "output": "out"}, "given 1 times for 2 portraits; give it once for each",
    ),
    "mesh of another axis": ({"mesh": "dta=2"}, "--mesh has no axis 'dta'; did you mean 'data'?"),
    "mesh of more devices than there are": ({"mesh": "data=99"}, "needs 99 devices"),
    "mistyped key": ({"config.sampling.stepz": "3"}, "the config has no key 'stepz'; did you mean 'steps'?"),
    "mistyped flag": ({"drivng": "driving.npz"}, "Did you mean --driving?"),
    "value of the wrong type": ({"config.sampling.steps": "few"}, "config.sampling.steps=few"),
    "seed below zero": ({"seed": "-1"}, "--seed=-1"),
    "no window": ({"config.sampling.overlap": "4"}, "0 <= overlap < length, but the overlap is 4 and the length 4; give"),
    "prompt for what reads none": ({"prompt": "a face"}, "a prompt means nothing to 'follow_your_emoji', which reads no text"),
    "checkpoint not there": ({"checkpoint": "no.safetensors"}, "there is no checkpoint no.safetensors"),
    "checkpoint damaged": ({"checkpoint": "text.txt"}, "text.txt is no checkpoint: neither safetensors nor"),
    "checkpoint of another size": (
        {"config.model.guider.channels": "(4, 8, 16)"}, "stored (3, 3, 8, 8), model (3, 3, 8, 16)",
    ),
    "checkpoint with missing and unknown keys": (
        {"checkpoint": "other.safetensors"},
        "1 unknown (stranger/kernel); give the config that it was trained with, or another checkpoint",
    ),
    "sizes that do not fit": ({"config.model.guider.out_channels": "4"}, "guider.out_channels"),
    "no system": (
        {"config.task": "autoencoder"},
        "task 'autoencoder' animates no portraits; give the config of a system that does: anyexpress, follow_your_emoji",
    ),
    "unknown system": ({"config.task": "follow_your_emoij"}, "did you mean 'follow_your_emoji'?"),
    "unknown face": ({"portrait_landmarks": "", "face": "nobody"}, "face 'nobody' is not known"),
    "no face model": ({"portrait_landmarks": "", "face_landmarker": "text.txt"}, "text.txt is not a face model"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    """Inputs, good and bad, and a checkpoint of the tiny system."""
    path = tmp_path_factory.mktemp("animate")
    scene.fill(path)
    system = tiny.make_system()
    params = tiny.make_params(system)
    save_params(path / "tiny.safetensors", params, {"config": {}})
    other = {name: subnet for name, subnet in params.items() if name != "guider"}
    save_params(path / "other.safetensors", {**other, "stranger": {"kernel": np.ones(2)}}, {"config": {}})
    scene.write_wav(path / "short.wav", scene.click(0.3))
    scene.write_wav(path / "quiet.wav", scene.AudioClip(np.zeros((48000, 2), np.float32), 48000))
    (path / "text.txt").write_text("hello")
    write_image(path / "small.png", np.zeros((40, 48, 3), np.uint8))
    video = (path / "silent.mp4").read_bytes()
    (path / "cut.mp4").write_bytes(video[: len(video) // 2])
    return path


@pytest.fixture(scope="module")
def call(folder, root):
    """Runs the entry point once per set of changed flags (`a|b`: given twice), in one program; returns one answer for each."""

    def run(*changes: dict[str, str]) -> list[SimpleNamespace]:
        config = f"--config={root / 'tests' / 'tiny.py'}"
        commands = [
            [
                config,
                *(f"--{name}={one}" for name, value in {**FLAGS, **change}.items() for one in value.split("|") if one),
            ]
            for change in changes
        ]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(commands)],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        *answers, rest = done.stderr.split("status ")
        statuses = [int(part.split()[0]) for part in (*answers[1:], rest)]
        texts = [answers[0], *(part.split("\n", 1)[1] for part in answers[1:])]
        return [
            SimpleNamespace(status=status, text=text, out=done.stdout)
            for status, text in zip(statuses, texts, strict=True)
        ]

    return run


def files(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_mistake_has_its_message_and_status_2_and_leaves_nothing(call, folder):
    before = files(folder)
    answers = call(*(change for change, _ in MISTAKES.values()))
    for (name, (_, message)), answer in zip(MISTAKES.items(), answers, strict=True):
        assert answer.status == 2, (name, answer.text)
        assert "error: " in answer.text and message in answer.text, (name, answer.text)
        assert "Traceback" not in answer.text, name
    assert files(folder) == before


def test_flags_reach_the_animation_and_its_record(call, folder):
    settings = {"seed": "3", "steps": "1", "guidance": "1.0", "fps": "12.5", "rotation": "relative"}
    (answer,) = call({**settings, "audio": "voice.wav", "output": "flags/result.mp4"})
    assert answer.status == 0, answer.text
    assert "flags/result.mp4: 6 frames at 12.5 fps; contact sheet flags/result.png" in answer.out
    assert "animating: 6 frames" in answer.text and "animating: done" in answer.text
    record = json.loads((folder / "flags/result.json").read_text())
    assert record["sampling"]["steps"] == 1 and record["sampling"]["guidance"] == 1.0
    assert (record["seed"], record["fps"], record["rotation"]) == (3, 12.5, "relative")
    assert record["config"]["model"]["image_size"] == 32
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("tiny.safetensors", "voice.wav")
    }
    assert record["checkpoint"] == {"path": "tiny.safetensors", "sha256": digests["tiny.safetensors"]}
    assert record["inputs"]["audio"] == {"path": "voice.wav", "sha256": digests["voice.wav"]}
    assert record["inputs"]["portrait"]["path"] == "portrait.png"
    info = probe(folder / "flags/result.mp4")
    assert (info.frames, info.fps, info.has_audio) == (6, 12.5, True)
    assert sorted(path.name for path in (folder / "flags").iterdir()) == ["result.json", "result.mp4", "result.png"]


def test_weights_that_were_trained_on_in_place_do_not_go_on_with_a_video(call, folder):
    (answer,) = call({"output": "again/result.mp4"})
    assert answer.status == 0, answer.text
    # As if that run had been interrupted: what it was begun with lies in the folder of its parts.
    parts = folder / "again/result.parts"
    parts.mkdir()
    record = json.loads((folder / "again/result.json").read_text())
    of_result = ("frames", "fps", "audio", "version", "jax", "device")
    (parts / "job.json").write_text(json.dumps({k: v for k, v in record.items() if k not in of_result}))
    system = tiny.make_system()
    before = (folder / "tiny.safetensors").read_bytes()
    save_params(folder / "tiny.safetensors", tiny.make_params(system, seed=1), {"config": {}})
    (answer,) = call({"output": "again/result.mp4", "resume": "true"})
    (folder / "tiny.safetensors").write_bytes(before)
    assert answer.status == 2 and "was begun with other settings (checkpoint.sha256 (" in answer.text, answer.text
    assert "); use those again, or start anew without --resume" in answer.text


def test_portraits_and_videos_without_a_face_or_with_two_are_named(call, folder, samples_dir, face_landmarker_path):
    one = read_image(samples_dir / "portraits" / "older_man_beach.jpg")
    write_image(folder / "pair.png", np.concatenate([one, one], axis=1))
    write_image(folder / "wall.png", np.full((96, 96, 3), 128, np.uint8))
    with VideoWriter(folder / "wall.mp4", 25) as writer:
        for _ in range(3):
            writer.write(np.full((96, 96, 3), 128, np.uint8))
    before = files(folder)
    real = {"portrait_landmarks": "", "face_landmarker": str(face_landmarker_path)}
    answers = call(
        {**real, "portrait": "wall.png"}, {**real, "portrait": "pair.png"},
        {"face_landmarker": str(face_landmarker_path), "driving": "wall.mp4"},
    )  # fmt: skip
    for answer, message in zip(
        answers,
        ("no face found in wall.png", "faces found in pair.png", "no face found in any of the 3 frames of wall.mp4"),
        strict=True,
    ):
        assert answer.status == 2 and message in answer.text, answer.text
    assert files(folder) == before


def test_help_lists_the_flags(root):
    command = [sys.executable, "-m", "launch.animate", "--help"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Animates a portrait by a driving video")
    assert all(f"--{flag}:" in done.stdout for flag in ("portrait", "driving", "audio", "output", "seed", "resume"))
