"""Protects: a driving video becomes face crops that are found and cut once, stored motion drives too, landmarks do not."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.animation import Animator, Portrait, animate_clip, faces, files, pieces
from portrait_jax.animation.faces import positions, read_motion, reference_face
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.pieces import stored_pieces
from portrait_jax.animation.signals import Clip, Request
from portrait_jax.errors import ConfigError, InputFileError, NoFaceError
from portrait_jax.face.boxes import detector_box, motion_crop, motion_track, scaled_square
from portrait_jax.face.crops import face_box
from portrait_jax.media.image import read_image
from portrait_jax.media.video import probe, read_video
from portrait_jax.training.faces import face_boxes
from tests import tiny, tiny_xnemo
from tests.animation import scene
from tests.animation.test_files import interrupted, names, resumed


@pytest.fixture(scope="module")
def animator() -> Animator:
    system = tiny_xnemo.make_system()
    return Animator(system, tiny.make_params(system))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Inputs, and a detector that knows the driver."""
    scene.install_detector(monkeypatch, tmp_path, scene.fill(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def clip() -> dict[str, np.ndarray]:
    return scene.make_clip()


def portrait_of(clip) -> Portrait:
    return Portrait(clip["frames"][0], clip["landmarks"][0])


# Where faces are


def test_the_detectors_box_lies_around_the_middle_of_the_face(clip):
    box, oval = detector_box(clip["landmarks"]), face_box(clip["landmarks"])
    side = box[:, 2] - box[:, 0]
    assert (np.abs(side - (box[:, 3] - box[:, 1])) <= 1).all() and (box == np.trunc(box)).all()
    longer = (oval[:, 2:] - oval[:, :2]).max(axis=1)
    assert (np.abs(side / longer - 0.92) < 2 / longer).all()
    assert detector_box(clip["landmarks"] - 100).min() == 0


def test_what_is_cut_out_is_what_is_cut_out_in_training(clip):
    points = clip["landmarks"]
    found = detector_box(points)
    np.testing.assert_array_less(np.abs(found - face_boxes(jnp.asarray(points))), 1 + 1e-4)  # Whole pixels.


def test_positions_are_the_drivers_own_its_movement_or_none(clip):
    portrait, boxes, size = portrait_of(clip), detector_box(clip["landmarks"]), (scene.SIZE, scene.SIZE)
    assert positions("in_place")(boxes, size, portrait) is None
    for kind in ("proportional", "none"):
        # The driver's first frame is the portrait.
        np.testing.assert_allclose(positions(kind)(boxes, size, portrait)[0], (0, 0, 1))
    moved = np.concatenate([boxes[:1], boxes[:1] + np.array([3, 6, 3, 6])])
    side = boxes[0, 2] - boxes[0, 0]
    for kind in ("proportional", "none"):
        np.testing.assert_allclose(positions(kind)(moved, size, portrait)[1], (6 / side, 3 / side, 1), atol=0.05)
    # Of frames twice as large everything is twice as large.
    np.testing.assert_allclose(
        positions("none")(2 * boxes, (2 * scene.SIZE,) * 2, portrait), positions("none")(boxes, size, portrait)
    )
    with pytest.raises(ConfigError, match="alignment 'metric' is not known for a system that is driven by faces"):
        positions("metric")(boxes, size, portrait)


def test_the_portraits_own_face_is_cut_from_the_whole_picture(clip):
    picture, points = clip["frames"][0], clip["landmarks"][0]
    small = Portrait(picture[::4, ::4].copy(), points / 4, picture, points)
    expected = motion_crop(picture, scaled_square(detector_box(points), picture.shape[:2]), 16)
    np.testing.assert_array_equal(reference_face(small, 16), expected)
    np.testing.assert_array_equal(reference_face(portrait_of(clip), 16), expected)


# The cache


def request(animator, folder, cache, detector, path="driving.mp4", **changes) -> Request:
    cache.mkdir(exist_ok=True)
    given = {"fps": None, "rotation": "absolute", "detector": detector, "bundle": lambda: None, **changes}
    return Request(folder / path, animator.system, animator.params, portrait_of(scene.make_clip()), cache, **given)


def test_crops_are_those_of_the_release_and_are_made_once(animator, folder, tmp_path, clip, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 4)
    known, silent = scene.fake_detector(clip), scene.fake_detector(clip, AssertionError("searched again"))
    drive = faces.load(request(animator, folder, tmp_path / "cache", known))
    frames, track = read_video(folder / "driving.mp4"), motion_track(detector_box(clip["landmarks"]), (64, 64))
    expected = np.stack([motion_crop(image, box, 16) for image, box in zip(frames, track, strict=True)])
    order = np.array([10, 0, 3, 4, 4])
    np.testing.assert_array_equal(drive.signals.at(order)["faces"], expected[order])
    assert drive.count == scene.FRAMES and drive.fps == pytest.approx(scene.NTSC)
    found = sorted((tmp_path / "cache").glob("faces_*"))
    assert [path.name for path in found] == [f"faces_{start:08d}.npz" for start in (0, 4, 8)]
    before = found[0].stat().st_mtime_ns
    found[1].unlink(), found[2].write_bytes(b"of a run that was killed while nothing of the second was there")
    again = faces.load(request(animator, folder, tmp_path / "cache", silent))
    np.testing.assert_array_equal(again.signals.at(order)["faces"], expected[order])
    assert found[0].stat().st_mtime_ns == before


def test_few_pieces_are_held_in_memory(tmp_path, monkeypatch):
    opened = []
    load = np.load
    monkeypatch.setattr(pieces.np, "load", lambda path, **options: opened.append(path) or load(path, **options))
    for number in range(6):
        np.savez(pieces.piece(tmp_path, number * pieces.PIECE), x=np.full((pieces.PIECE, 2), number, np.uint8))
    read = stored_pieces(tmp_path)
    found = read(np.arange(6 * pieces.PIECE))["x"]
    assert found[:, 0].tolist() == [i // pieces.PIECE for i in range(len(found))] and len(opened) == 6
    read(np.array([5 * pieces.PIECE])), read(np.array([0]))
    assert len(opened) == 7, "the first piece was let go, the last was not"


# Stored motion


def test_stored_motion_is_read_at_any_rate_and_landmarks_are_refused(animator, folder, tmp_path, clip):
    motion = np.random.default_rng(0).normal(size=(6, tiny_xnemo.WIDTH)).astype(np.float32)
    np.savez(folder / "motion.npz", motion=motion, fps=10.0)
    load = lambda path, **changes: faces.load(request(animator, folder, tmp_path / "c", None, path, **changes))  # noqa: E731
    drive = load("motion.npz")
    assert (drive.count, drive.fps, dict(drive.rows)) == (6, 10.0, {})
    np.testing.assert_array_equal(drive.signals.at(np.array([5, 0]))["motion"], motion[[5, 0]])
    assert drive.signals.still["reference_face"].shape == (16, 16, 3)
    faster = load("motion.npz", fps=20.0)
    assert faster.count == 12
    np.testing.assert_allclose(faster.signals.at(np.array([1]))["motion"][0], motion[:2].mean(axis=0), atol=1e-6)
    np.savez(folder / "unnamed.npz", motion=motion.astype(np.float16))
    assert load("unnamed.npz").fps == 25.0
    with pytest.raises(
        InputFileError, match="holds landmarks, but this system is driven by pictures of faces; give the driving video"
    ):
        load("driving.npz")
    np.savez(folder / "wide.npz", motion=np.ones((3, 5), np.float32))
    with pytest.raises(InputFileError, match="latents of 5 numbers, the system's have 8"):
        load("wide.npz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"motion": np.full((2, 8), np.nan, np.float32)}, "or not finite"),
        ({"motion": np.ones(8, np.float32)}, r"float32\(8,\)"),
        ({"other": np.ones(3)}, "no sequence of motion latents"),
        ({"motion": np.ones((2, 8), np.float32), "fps": 0.0}, "rate 0.0 is out of range"),
        (b"hello", "no sequence of motion latents"),
    ],
)
def test_broken_motion_is_named(tmp_path, content, message):
    path = tmp_path / "x.npz"
    path.write_bytes(content) if isinstance(content, bytes) else np.savez(path, **content)
    with pytest.raises(InputFileError, match=message):
        read_motion(path)


# From file to file


@pytest.fixture(scope="module")
def done(animator, tmp_path_factory):
    """An animation that nothing disturbed, and what its sheet was made of."""
    folder, seen = tmp_path_factory.mktemp("done"), {}
    make = files.contact_sheet

    def sheet(rows, row_labels, column_labels):
        seen.update(rows=rows, labels=row_labels)
        return make(rows, row_labels, column_labels)

    with pytest.MonkeyPatch.context() as patch:
        scene.install_detector(patch, folder, scene.fill(folder))
        patch.setattr(files, "contact_sheet", sheet)
        job = scene.job(folder, driving="driving.mp4")
        record = animate_files(animator, job, about={"checkpoint": "x"})
    return SimpleNamespace(folder=folder, job=job, record=record, seen=seen)


def test_a_driving_video_gives_a_video_with_its_rate_and_sound_and_a_sheet(done):
    info = probe(done.job.output)
    assert (info.width, info.frames, info.has_audio) == (tiny_xnemo.SIZE, scene.FRAMES, True)
    assert info.fps == pytest.approx(scene.NTSC)
    assert names(done.folder / "out") == ["result.json", "result.mp4", "result.png"]
    assert done.seen["labels"] == ("driving", "face", "result") and {len(row) for row in done.seen["rows"]} == {9}
    assert done.seen["rows"][1][1].shape == (16, 16, 3) and done.seen["rows"][1][1].std() > 10
    assert read_image(done.job.sheet).std() > 10
    assert done.record["system"] == "xnemo" and "face_landmarker" in done.record["inputs"]


@pytest.mark.parametrize("after", [0, 4])
def test_an_interrupted_run_goes_on_without_looking_for_faces_again(animator, done, folder, monkeypatch, after):
    interrupted(animator, scene.job(folder, driving="driving.mp4"), after)
    scene.install_detector(monkeypatch, folder, error=NoFaceError("asked again"))
    resumed(animator, folder, driving="driving.mp4")
    for name in ("result.mp4", "result.png"):
        assert (folder / "out" / name).read_bytes() == (done.folder / "out" / name).read_bytes(), name


def test_a_stored_landmark_sequence_is_refused_before_anything_is_sampled(animator, folder):
    with pytest.raises(InputFileError, match="driving.npz holds landmarks, but this system is driven by pictures"):
        animate_files(animator, scene.job(folder))
    assert not (folder / "out/result.parts").exists()


def test_motion_of_the_driver_gives_the_video_of_its_faces(animator, folder, clip):
    """What is encoded once and stored drives as the pictures do."""
    decoded = Clip(clip["landmarks"], read_video(folder / "driving.mp4"))
    signals = faces.clip_signals(animator.system, portrait_of(clip), decoded, "in_place")
    pictures = jnp.asarray(signals.at(np.arange(scene.FRAMES))["faces"])
    latents = jax.jit(animator.system.encode_motion)(animator.params, pictures)
    np.savez(folder / "motion.npz", motion=np.asarray(latents), fps=scene.NTSC)
    stored = animate_files(animator, scene.job(folder, "a.mp4", driving="motion.npz"))
    assert stored["frames"] == scene.FRAMES and stored["audio"] is None
    animate_files(animator, scene.job(folder, "b.mp4", driving="silent.mp4"))
    one, other = (read_video(folder / name).astype(int) for name in ("a.mp4", "b.mp4"))
    assert np.abs(one - other).mean() < 1


@pytest.mark.slow
def test_jointly_denoised_windows_are_driven_by_faces_too(animator, folder):
    joint = Animator(tiny_xnemo.make_system(strategy="shifted"), animator.params)
    animate_files(joint, scene.job(folder, driving="driving.mp4"))
    assert probe(folder / "out/result.mp4").frames == scene.FRAMES


# In memory


def test_a_clip_needs_its_pictures_and_follows_them(animator, clip):
    image, points = clip["frames"][0][::4, ::4].copy(), clip["landmarks"][0] / 4
    with pytest.raises(ConfigError, match="xnemo is driven by pictures of faces; give the driver's frames"):
        animate_clip(animator.system, animator.params, image, points, clip["landmarks"], animator=animator)

    def run(frames, **options):
        return animate_clip(
            animator.system, animator.params, image, points, clip["landmarks"], frames, animator=animator, **options
        )

    first, other = run(clip["frames"]), run(clip["frames"][::-1])
    assert first.shape == (scene.FRAMES, 16, 16, 3) and (first != other).any()
    np.testing.assert_array_equal(run(clip["frames"]), first)
    assert (run(clip["frames"], align=False) != first).any(), "positions have no effect"
