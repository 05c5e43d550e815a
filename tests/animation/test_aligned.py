"""Protects: a driving video becomes crops and levels as in HunyuanPortrait's release; a streamed ring is the one sampled whole."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.animation import Animator, Portrait, aligned, animate_clip, files
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.portrait import load_portrait
from portrait_jax.animation.signals import Clip, Request
from portrait_jax.autoencoders.pixels import to_u8
from portrait_jax.errors import ConfigError, InputFileError, NoFaceError
from portrait_jax.face.crops import face_box
from portrait_jax.face.five_points import five_points, template_face
from portrait_jax.face.squares import driving_crops, driving_levels, paste
from portrait_jax.long_video.overlap import noise_of
from portrait_jax.media.image import read_image, write_image
from portrait_jax.media.video import probe, read_video
from portrait_jax.systems.hunyuan_portrait import HunyuanPortrait
from tests import tiny, tiny_hunyuan
from tests.animation import scene
from tests.animation.test_files import Stop, names, resumed


def make_animator(**sampling) -> Animator:
    config = tiny_hunyuan.get_config()
    with config.unlocked():
        config.sampling.update({"framing": "face", **sampling})
    system = HunyuanPortrait.from_config(config)
    return Animator(system, tiny.make_params(system))


@pytest.fixture(scope="module")
def animator() -> Animator:
    return make_animator()


@pytest.fixture(scope="module")
def clip() -> dict[str, np.ndarray]:
    return scene.make_clip()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Inputs, and a detector that knows the driver."""
    scene.install_detector(monkeypatch, tmp_path, scene.fill(tmp_path))
    return tmp_path


def small_portrait(clip) -> Portrait:
    """The clip's first frame at the system's size."""
    image = np.ascontiguousarray(clip["frames"][0][::4, ::4])
    return Portrait(image, clip["landmarks"][0] / 4)


# Signals


def test_crops_and_levels_of_a_video_are_those_of_the_release(animator, folder, clip):
    cache = folder / "cache"
    cache.mkdir()
    known = scene.fake_detector(clip)
    request = Request(
        folder / "driving.mp4", animator.system, animator.params, small_portrait(clip), cache, None, "absolute", known,
        lambda: folder / "face.task",
    )  # fmt: skip
    drive = aligned.load(request)
    assert drive.count == scene.FRAMES and drive.fps == pytest.approx(scene.NTSC)
    points, box = five_points(clip["landmarks"]), face_box(clip["landmarks"][0])
    order, frames = np.array([10, 0, 3, 3]), read_video(folder / "driving.mp4")
    found = drive.signals.at(order)
    for name in ("faces", "heads"):
        expected = [driving_crops(frames[i], points[i], box, tiny_hunyuan.FACE)[name] for i in order]
        np.testing.assert_array_equal(found[name], np.stack(expected))
    for name, level in driving_levels(points, animator.system.intensity).items():
        np.testing.assert_array_equal(found[name], level[order])
    assert not any(path.name.endswith("tmp") for path in cache.iterdir())


def test_the_portraits_face_is_told_on_the_recognisers_template(animator, clip):
    portrait = small_portrait(clip)
    signals = aligned.clip_signals(animator.system, portrait, Clip(clip["landmarks"], clip["frames"]), "none")
    expected = template_face(portrait.image, five_points(portrait.landmarks), tiny_hunyuan.ALIGNED)
    assert set(signals.portrait) == {"aligned_u8"}
    np.testing.assert_array_equal(signals.portrait["aligned_u8"], expected)


def test_landmarks_alone_are_refused(animator, folder, clip):
    with pytest.raises(ConfigError, match="driven by pictures of faces; give the driver's frames"):
        animate_clip(animator.system, animator.params, *small_portrait(clip)[:2], clip["landmarks"], animator=animator)
    with pytest.raises(InputFileError, match="driven by pictures of faces; give a driving video"):
        animate_files(animator, scene.job(folder))
    assert not (folder / "out/result.parts").exists()


# The ring


def test_a_streamed_ring_is_the_one_that_is_sampled_whole(animator, clip):
    """Window by window, with motion encoded in each, and decoded without the ends."""
    system, portrait = animator.system, small_portrait(clip)
    count, ends = 4, system.sampling.ends
    signals = aligned.clip_signals(system, portrait, Clip(clip["landmarks"][:count], clip["frames"]), "none")
    streamed = np.concatenate([part for part, _ in animator.frames(portrait.image, signals, count, seed=3)])
    ring = animator.plan(count)
    frames = np.arange(ring.frames)
    batch = signals.batch(ring.shown(frames)) | {"strength": ring.strength(frames)[None]}
    noise = noise_of(jax.random.key(3), jnp.asarray(frames), (1, *system.latent_shape()))

    told = jnp.asarray(portrait.image)[None], jnp.asarray(signals.portrait["aligned_u8"])[None]
    still = jax.jit(system.encode_portrait)(animator.params, *told)
    latents = system.sample_from(
        animator.params, jax.jit(system.encode_driving)(animator.params, still, batch), noise
    )  # fmt: skip
    decoded = to_u8(jax.jit(system.decode)(animator.params, latents)[0])[ends:-ends]
    assert streamed.shape == (count, tiny_hunyuan.SIZE, tiny_hunyuan.SIZE, 3)
    assert np.abs(streamed.astype(int) - decoded).max() <= 1
    assert (streamed[1:] != streamed[:-1]).any(axis=(1, 2, 3)).all(), "two frames are the same"


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
    assert (info.width, info.frames, info.has_audio) == (tiny_hunyuan.SIZE, scene.FRAMES, True)
    assert info.fps == pytest.approx(scene.NTSC)
    assert names(done.folder / "out") == ["result.json", "result.mp4", "result.png"]
    assert done.seen["labels"] == ("driving", "face", "head", "result")
    assert done.record["sampling"]["strategy"] == "ring" and done.record["frames"] == scene.FRAMES


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_run_goes_on_without_looking_for_faces_again(animator, done, folder, monkeypatch, after):
    """Before anything is sampled, and after the first of two solver steps."""
    seen: list[int] = []

    def report(what, count, total):
        seen.extend([count] if what == "animating" else [])
        if len(seen) == after:
            raise Stop

    with pytest.raises(Stop):
        animate_files(
            animator, scene.job(folder, driving="driving.mp4"), about={"checkpoint": "x"}, report=report
        )  # fmt: skip
    scene.install_detector(monkeypatch, folder, error=NoFaceError("asked again"))
    resumed(animator, folder, driving="driving.mp4")
    for name in ("result.mp4", "result.png"):
        assert (folder / "out" / name).read_bytes() == (done.folder / "out" / name).read_bytes(), name


# Back into the picture


@pytest.mark.parametrize("framing", ["wide", "face"])
def test_the_part_of_the_picture_that_is_animated_is_known(folder, framing):
    picture, size = read_image(folder / "portrait.png"), tiny_hunyuan.SIZE
    found = load_portrait(folder / "portrait.png", size, landmarks=folder / "portrait.npz", framing=framing)
    left, top, right, bottom = found.place
    assert right - left == bottom - top <= min(picture.shape[:2]) and found.image.shape == (size, size, 3)
    back = found.landmarks * ((right - left) / size)
    np.testing.assert_allclose(back[:, :2] + (left, top), found.whole[1][:, :2], atol=0.01)


def test_a_result_is_pasted_back_where_the_portrait_was_cut_out(animator, done, folder):
    job = scene.job(folder, driving="driving.mp4", paste_back=True)
    animate_files(animator, job)
    shown, picture = read_video(job.output), read_image(job.portrait)
    assert shown.shape == (scene.FRAMES, *picture.shape)
    portrait = load_portrait(job.portrait, tiny_hunyuan.SIZE, landmarks=job.portrait_landmarks)
    expected = paste(read_video(done.job.output)[4], picture, portrait.place)
    assert np.abs(shown[4].astype(int) - expected).mean() < 12
    assert np.abs(shown[4].astype(int) - picture).mean() > np.abs(shown[4].astype(int) - expected).mean()


def test_a_picture_without_surroundings_is_named(animator, folder):
    write_image(folder / "portrait.png", read_image(folder / "portrait.png")[::4, ::4])
    clip = scene.make_clip()
    scene.save_landmarks(
        folder / "portrait.npz",
        scene.LandmarkSequence(1.0, tiny_hunyuan.SIZE, tiny_hunyuan.SIZE, clip["landmarks"][:1] / 4),
    )
    with pytest.raises(InputFileError, match="nothing to paste back into; leave --paste_back out"):
        animate_files(animator, scene.job(folder, driving="driving.mp4", paste_back=True))
