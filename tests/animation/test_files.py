"""Protects: what lies on the disk after an animation, after an interruption, and after a mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from portrait_jax.animation import Animator, files
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.landmarks import control_drawing, drawn
from portrait_jax.animation.portrait import load_portrait
from portrait_jax.errors import AudioError, InputFileError, NoFaceError, PortraitError, VideoError
from portrait_jax.face.alignment import Alignment, load_landmarks
from portrait_jax.media.audio import read_clip
from portrait_jax.media.image import read_image
from portrait_jax.media.video import probe, read_video
from tests import tiny
from tests.animation import scene

VICTIM = """
import os, signal, sys
from pathlib import Path
from portrait_jax.animation import Animator
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.landmarks import control_drawing, drawn
from portrait_jax.media.video import VideoWriter
from tests import tiny
from tests.animation import scene

write, written = VideoWriter.write, []

def dying(writer, image):
    written.append(image)
    if len(written) == 6:  # In the middle of the second segment.
        os.kill(os.getpid(), signal.SIGKILL)
    write(writer, image)

VideoWriter.write = dying
system = tiny.make_system()
animate_files(Animator(system, tiny.make_params(system)), scene.job(Path(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def animator() -> Animator:
    system = tiny.make_system()
    return Animator(system, tiny.make_params(system))


@pytest.fixture(scope="module")
def done(animator, tmp_path_factory):
    """An animation that nothing disturbed: its folder, job, record and reports."""
    folder = tmp_path_factory.mktemp("done")
    scene.fill(folder)
    reports: list[tuple] = []
    job = scene.job(folder)
    record = animate_files(animator, job, about={"checkpoint": "x"}, report=lambda *report: reports.append(report))
    return SimpleNamespace(folder=folder, job=job, record=record, reports=reports)


@pytest.fixture
def folder(tmp_path):
    """A fresh folder of inputs."""
    scene.fill(tmp_path)
    return tmp_path


def names(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# What is written


def test_video_sheet_and_settings_are_there_and_nothing_else(done):
    assert names(done.folder / "out") == ["result.json", "result.mp4", "result.png"]
    info = probe(done.job.output)
    assert (info.width, info.height, info.fps, info.frames) == (32, 32, 25.0, scene.FRAMES)
    assert not info.has_audio


def test_the_video_shows_the_frames_of_the_animator(done, animator):
    portrait = load_portrait(done.job.portrait, 32, landmarks=done.job.portrait_landmarks)
    driving = load_landmarks(done.job.driving).landmarks
    signals = drawn(control_drawing(driving, animator.system, Alignment.of(driving, portrait.landmarks)))
    expected = np.concatenate([part for part, _ in animator.frames(portrait.image, signals, scene.FRAMES)])
    shown = read_video(done.job.output).astype(float)
    distance = np.abs(shown[:, None] - expected[None].astype(float)).mean(axis=(2, 3, 4))
    assert distance.argmin(axis=1).tolist() == list(range(scene.FRAMES)), "frames are lost or out of order"


def test_the_settings_hold_all_that_the_frames_depend_on(done):
    stored = json.loads(done.job.record.read_text())
    assert stored == json.loads(json.dumps(done.record))
    assert stored["frames"] == scene.FRAMES and stored["fps"] == 25.0 and stored["seed"] == 0
    assert stored["sampling"]["steps"] == 2 and stored["checkpoint"] == "x" and stored["audio"] is None
    assert {name: len(entry["sha256"]) for name, entry in stored["inputs"].items()} == {
        "portrait": 64, "driving": 64, "portrait_landmarks": 64,
    }  # fmt: skip


def test_progress_is_told_from_the_first_frame_to_the_last(done):
    animating = [report for report in done.reports if report[0] == "animating"]
    assert animating == [("animating", n, scene.FRAMES) for n in (0, 4, 8, 11)]


def test_the_contact_sheet_spans_the_whole_video(done, animator, folder, monkeypatch):
    seen = {}

    def sheet(rows, row_labels, column_labels):
        seen.update(rows=rows, row_labels=row_labels, column_labels=column_labels)
        return np.zeros((8, 8, 3), np.uint8)

    clip = scene.make_clip(30)
    with files.VideoWriter(folder / "long.mp4", 10) as writer:
        for frame in clip["frames"]:
            writer.write(frame)
    monkeypatch.setattr(files, "contact_sheet", sheet)
    scene.install_detector(monkeypatch, folder, clip)
    job = scene.job(folder, driving="long.mp4")
    animate_files(animator, job)
    assert seen["row_labels"] == ("driving", "landmarks", "result")
    assert [len(row) for row in seen["rows"]] == [len(seen["column_labels"])] * 3 == [9] * 3
    times = [float(label.removesuffix(" s")) for label in seen["column_labels"][1:]]
    assert times[0] == 0 and times[-1] >= 2.5 and max(np.diff(times)) <= 0.6
    result = read_video(job.output)
    for label, picture in zip(times, seen["rows"][2][1:], strict=True):
        distance = np.abs(result.astype(float) - picture).mean(axis=(1, 2, 3))
        assert distance.argmin() == round(label * 10)
    assert read_image(done.job.sheet).std() > 10


# Frame rate and sound


def test_the_driving_videos_rate_and_sound_are_kept_in_time(animator, folder, monkeypatch):
    scene.install_detector(monkeypatch, folder)
    record = animate_files(animator, scene.job(folder, driving="driving.mp4", portrait_landmarks=None))
    assert record["inputs"].keys() == {"portrait", "driving", "face_landmarker"}
    info = probe(folder / "out/result.mp4")
    assert info.fps == pytest.approx(scene.NTSC) == record["fps"] and info.frames == scene.FRAMES
    sound = read_clip(folder / "out/result.mp4")
    assert sound.duration == pytest.approx(scene.FRAMES / scene.NTSC, abs=0.03), "as long as the pictures"
    heard = np.argmax(np.abs(sound.samples[:, 0]) > 0.3) / sound.rate
    assert heard == pytest.approx(scene.CLICK, abs=0.01)
    assert record["audio"].endswith("driving.mp4")


def test_another_sound_takes_the_place_of_the_drivers(animator, folder, monkeypatch):
    scene.install_detector(monkeypatch, folder)
    record = animate_files(animator, scene.job(folder, driving="silent.mp4", audio="voice.wav"))
    assert record["audio"].endswith("voice.wav") and probe(folder / "out/result.mp4").has_audio
    assert not animate_files(animator, scene.job(folder, "b.mp4", driving="silent.mp4"))["audio"]


@pytest.mark.parametrize(("driving", "fps", "frames"), [("driving.npz", 12.5, 6), ("driving.mp4", 15.0, 6)])
def test_another_frame_rate_keeps_the_duration(animator, folder, monkeypatch, driving, fps, frames):
    scene.install_detector(monkeypatch, folder)
    record = animate_files(animator, scene.job(folder, driving=driving, fps=fps))
    info = probe(folder / "out/result.mp4")
    assert (record["frames"], info.frames, info.fps) == (frames, frames, fps)


# Interruptions


class Stop(Exception):  # noqa: N818
    """Stands for whatever may end a run."""


def interrupted(animator, job, after: int) -> None:
    """Runs until `after` frames are done, with a checkpoint "x"."""

    def report(what, count, total):
        if what == "animating" and count >= after:
            raise Stop

    with pytest.raises(Stop):
        animate_files(animator, job, about={"checkpoint": "x"}, report=report)


def resumed(animator, folder, **changes):
    return animate_files(animator, scene.job(folder, resume=True, **changes), about={"checkpoint": "x"})


@pytest.mark.parametrize("after", [0, 4, 11])
def test_an_interrupted_run_goes_on_to_the_same_files(animator, done, folder, after):
    interrupted(animator, scene.job(folder), after)
    assert not (folder / "out/result.mp4").exists() and (folder / "out/result.parts").is_dir()
    resumed(animator, folder)
    for name in ("result.mp4", "result.png"):
        assert (folder / "out" / name).read_bytes() == (done.folder / "out" / name).read_bytes(), name
    assert names(folder / "out") == ["result.json", "result.mp4", "result.png"]


def test_finished_segments_are_not_made_again(animator, folder):
    interrupted(animator, scene.job(folder), 8)
    told = []
    animate_files(
        animator, scene.job(folder, resume=True), about={"checkpoint": "x"}, report=lambda *report: told.append(report)
    )
    assert told == [("animating", 8, 11), ("animating", 11, 11)]


def test_a_killed_run_goes_on_to_the_same_video(animator, done, folder, root):
    environment = {**os.environ, "PYTHONPATH": str(root)}
    victim = subprocess.run(
        [sys.executable, "-c", VICTIM, str(folder)], env=environment, capture_output=True, text=True
    )
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    assert [path.name for path in (folder / "out/result.parts").glob("segment_*")] == ["segment_00000000.mp4"]
    told = []
    animate_files(animator, scene.job(folder, resume=True), report=lambda *report: told.append(report))
    assert told[0] == ("animating", 4, 11), "the first segment was made again"
    assert (folder / "out/result.mp4").read_bytes() == done.job.output.read_bytes()
    assert names(folder / "out") == ["result.json", "result.mp4", "result.png"]


def test_landmarks_of_a_driving_video_are_found_once(animator, folder, monkeypatch):
    scene.install_detector(monkeypatch, folder)
    interrupted(animator, scene.job(folder, driving="driving.mp4"), 4)
    scene.install_detector(monkeypatch, folder, error=NoFaceError("asked again"))
    resumed(animator, folder, driving="driving.mp4")
    first = (folder / "out/result.mp4").read_bytes()
    scene.install_detector(monkeypatch, folder)
    animate_files(animator, scene.job(folder, driving="driving.mp4"))
    assert (folder / "out/result.mp4").read_bytes() == first


@pytest.mark.parametrize("changes", [{"seed": 1}, {"fps": 12.5}, {"rotation": "relative"}, {"face": "largest"}])
def test_other_settings_refuse_to_go_on_and_are_named(animator, folder, changes):
    interrupted(animator, scene.job(folder), 4)
    before = names(folder)
    ((name, value),) = changes.items()
    named = {"fps": "fps_asked"}.get(name, name)
    with pytest.raises(InputFileError, match=rf"other settings \({named} \(\w+, now {value}\)\); use those again"):
        resumed(animator, folder, **changes)
    assert names(folder) == before, "the work of the first run is lost"


def test_other_inputs_samplers_and_checkpoints_refuse_to_go_on(animator, folder):
    interrupted(animator, scene.job(folder), 4)
    with pytest.raises(InputFileError, match=r"\(sampling.steps \(2, now 3\)\)"):
        resumed(Animator(animator.system, animator.params, steps=3), folder)
    with pytest.raises(InputFileError, match=r"\(checkpoint \(x, now y\)\)"):
        animate_files(animator, scene.job(folder, resume=True), about={"checkpoint": "y"})
    files.write_image(folder / "portrait.png", read_image(folder / "portrait.png")[:, ::-1])
    with pytest.raises(InputFileError, match=r"\(inputs.portrait.sha256 \(\w{12}…, now \w{12}…\)\)"):
        resumed(animator, folder)


def test_another_sound_or_face_model_refuses_to_go_on(animator, folder, monkeypatch):
    scene.install_detector(monkeypatch, folder)
    given = {"driving": "silent.mp4", "audio": "voice.wav"}
    interrupted(animator, scene.job(folder, **given), 4)
    with pytest.raises(
        InputFileError, match=r"\(inputs.audio.path \(.*none\), inputs.audio.sha256 \(\w+…, now none\)\)"
    ):
        resumed(animator, folder, driving="silent.mp4")
    (folder / "face.task").write_bytes(b"another face model")
    with pytest.raises(InputFileError, match=r"settings \(inputs.face_landmarker.sha256 \("):
        resumed(animator, folder, **given)
    (folder / "face.task").write_bytes(b"a face model")
    scene.write_wav(folder / "voice.wav", scene.click(seconds=1.9))
    with pytest.raises(InputFileError, match=r"settings \(inputs.audio.sha256 \("):
        resumed(animator, folder, **given)


def test_where_no_face_is_searched_the_face_model_does_not_matter(animator, folder, monkeypatch):
    monkeypatch.setattr(files, "model_path", lambda path=None: pytest.fail("a face model was looked for"))
    interrupted(animator, scene.job(folder), 4)
    assert "face_landmarker" not in resumed(animator, folder, landmarker="face.task")["inputs"]


def test_a_damaged_record_of_an_interrupted_run_is_named(animator, folder):
    interrupted(animator, scene.job(folder), 4)
    (folder / "out/result.parts/job.json").write_text("{half")
    with pytest.raises(InputFileError, match="job.json is damaged.*start anew without --resume"):
        resumed(animator, folder)


def test_without_resume_a_run_starts_anew(animator, done, folder):
    interrupted(animator, scene.job(folder, seed=1), 4)
    animate_files(animator, scene.job(folder))
    assert (folder / "out/result.mp4").read_bytes() == done.job.output.read_bytes()


def test_resume_without_an_interrupted_run_just_runs(animator, done, folder):
    resumed(animator, folder)
    assert (folder / "out/result.mp4").read_bytes() == done.job.output.read_bytes()


# Mistakes


def spoil(folder) -> None:
    """Adds files that nothing can be made of."""
    (folder / "text.png").write_text("hello")
    (folder / "text.mp4").write_text("hello")
    (folder / "text.npz").write_text("hello")
    video = (folder / "driving.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(video[: len(video) * 2 // 3])
    files.write_image(folder / "small.png", np.zeros((32, 48, 3), np.uint8))
    scene.write_wav(folder / "short.wav", scene.click(0.3))
    scene.write_wav(folder / "quiet.wav", scene.AudioClip(np.zeros((48000, 2), np.float32), 48000))
    (folder / "folder.mp4").mkdir()
    (folder / "mine.parts").mkdir()
    (folder / "mine.parts" / "diary.txt").write_text("dear diary")


MISTAKES = {
    "portrait missing": ({"portrait": "no.png"}, InputFileError, "image file .*no.png does not exist"),
    "portrait not an image": ({"portrait": "text.png"}, InputFileError, "text.png is not an image"),
    "portrait of another size than its landmarks": (
        {"portrait": "small.png"}, InputFileError, "landmarks of a 64×64 picture, but .*small.png is 48×32",
    ),
    "portrait landmarks unreadable": ({"portrait_landmarks": "text.npz"}, InputFileError, "not a landmark sequence"),
    "driving missing": ({"driving": "no.mp4"}, InputFileError, "no.mp4 does not exist"),
    "driving sequence missing": ({"driving": "no.npz"}, InputFileError, "no.npz does not exist"),
    "driving not a video": ({"driving": "text.mp4"}, VideoError, "text.mp4 is not a video"),
    "driving not a sequence": ({"driving": "text.npz"}, InputFileError, "text.npz is not a landmark sequence"),
    "driving truncated": ({"driving": "cut.mp4"}, VideoError, "cut.mp4.*(truncated|damaged)"),
    "driving a folder": ({"driving": "folder.mp4"}, InputFileError, "folder.mp4 is a folder"),
    "sound missing": ({"audio": "no.wav"}, InputFileError, "audio file .*no.wav does not exist"),
    "sound of a silent video": ({"audio": "silent.mp4"}, AudioError, "silent.mp4 has no audio stream"),
    "sound too short": ({"audio": "short.wav"}, AudioError, r"short.wav lasts 0.30 s; at least 0.5 s are needed: give"),
    "sound silent": ({"audio": "quiet.wav"}, AudioError, "quiet.wav is silent; give a recording of speech"),
    "sound unreadable": ({"audio": "text.mp4"}, AudioError, "text.mp4 cannot be decoded"),
    "output not mp4": ({"output": "out/result.avi"}, InputFileError, "must end in .mp4"),
    "output a folder": ({"output": "folder.mp4"}, InputFileError, "is a folder"),
    "output over the driving video": ({"output": "driving.mp4", "driving": "driving.mp4"}, InputFileError, "is an input"),
    "contact sheet over the portrait": ({"output": "portrait.mp4"}, InputFileError, "portrait.png.* is an input"),
    "output under a file": ({"output": "text.png/result.mp4"}, InputFileError, "cannot create the folder"),
    "somebody's folder in the way": ({"output": "mine.mp4"}, InputFileError, "mine.parts exists and is not"),
    "rotation unknown": ({"rotation": "absolut"}, PortraitError, "did you mean 'absolute'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_its_message_and_leaves_nothing_behind(folder, monkeypatch, mistake):
    changes, kind, message = MISTAKES[mistake]
    spoil(folder)
    scene.install_detector(monkeypatch, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(kind, match=message):
        animate_files(Animator(tiny.make_system(), {}), scene.job(folder, **changes))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (folder / "out/result.parts").exists()


def test_a_video_without_a_face_leaves_nothing_behind(folder, monkeypatch):
    error = NoFaceError("no face found in frames 0–10 of driving.mp4")
    scene.install_detector(monkeypatch, folder, error=error)
    before = names(folder)
    with pytest.raises(NoFaceError, match="frames 0–10"):
        animate_files(Animator(tiny.make_system(), {}), scene.job(folder, driving="driving.mp4"))
    assert set(names(folder)) - set(before) <= {"out"}
