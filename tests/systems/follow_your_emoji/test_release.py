"""A release goes in, animates a portrait to the end of its driver with the driver's rate and sound, and comes out the same."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from portrait_jax.animation import Animator
from portrait_jax.animation.files import animate_files
from portrait_jax.face.alignment import LandmarkSequence, load_landmarks, save_landmarks
from portrait_jax.interchange import export_checkpoint, import_checkpoint, layout_named
from portrait_jax.media.image import read_image, write_image
from portrait_jax.media.video import probe, read_video
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.loading import load_system_params
from tests.animation import scene
from tests.face.faces import canonical, write_bundle
from tests.interchange.made import read_all, same_tensors
from tests.systems.follow_your_emoji import small_release as release


@pytest.fixture(
    scope="module", params=[(2, 1), pytest.param((4, 2), marks=pytest.mark.slow)], ids=["shallow", "published depth"]
)
def done(request, tmp_path_factory):
    """A release, its import, and an animation by a driver with sound."""
    folder = tmp_path_factory.mktemp("release")
    scene.fill(folder)
    write_bundle(folder / "canonical.task", canonical())
    picture, points = read_image(folder / "portrait.png"), load_landmarks(folder / "portrait.npz").landmarks
    write_image(folder / "wide.png", np.pad(picture, ((0, 0), (16, 8), (0, 0)), mode="edge"))
    height, width = scene.SIZE, scene.SIZE + 24
    save_landmarks(folder / "wide.npz", LandmarkSequence(1.0, width, height, points + np.float32([16, 0, 0])))
    system = FollowYourEmoji.from_config(release.config(*request.param))
    shapes = release.shapes_of(system)
    files = release.write(folder / "ckpts", shapes)
    imported = import_checkpoint([release.LAYOUT], [str(folder / "ckpts")], folder / "ours", targets=shapes)
    animator = Animator(system, load_system_params(system, folder / "ours"))
    job = scene.job(
        folder, portrait="wide.png", portrait_landmarks="wide.npz", audio="voice.wav", landmarker="canonical.task"
    )
    record = animate_files(animator, job)
    return SimpleNamespace(folder=folder, files=files, imported=imported, job=job, record=record, animator=animator)


def test_every_network_of_the_release_is_read_from_its_own_folder(done):
    assert set(done.imported.subnets) == {part.subnet for part in layout_named(release.LAYOUT).parts}
    assert done.imported.notes == ()


def test_the_animation_lasts_as_long_as_its_driver_with_its_rate_and_sound(done):
    info = probe(done.job.output)
    driving = load_landmarks(done.job.driving)
    assert (info.frames, info.fps) == (len(driving.landmarks), driving.fps) and info.has_audio
    assert (info.width, info.height) == (release.SIZE, release.SIZE)
    assert done.record["sampling"]["strategy"] == "wrapped" and done.record["sampling"]["framing"] == "whole"
    assert done.record["inputs"]["face_landmarker"]["path"].endswith("canonical.task")
    video = read_video(done.job.output)
    assert video.std() > 1, "one grey"


def test_exporting_gives_the_files_of_the_release_bit_for_bit(done):
    written = export_checkpoint([release.LAYOUT], done.folder / "ours", done.folder / "back").files
    assert [path.relative_to(done.folder / "back").as_posix() for path in written] == [
        "follow-your-emoji/unet.safetensors",
        "follow-your-emoji/referencenet.safetensors",
        "follow-your-emoji/lmk_guider.safetensors",
        "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        "sd-image-variations-diffusers/image_encoder/model.safetensors",
    ]
    for path, tensors in zip(written, done.files.values(), strict=True):
        same_tensors(read_all(path), tensors)


def test_files_side_by_side_are_found_too(done, tmp_path):
    for path in (done.folder / "ckpts").rglob("*.safetensors"):
        name = path.name if path.parent.name == "follow-your-emoji" else f"{path.parent.name}/{path.name}"
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(path)
    again = import_checkpoint(
        [release.LAYOUT], [str(tmp_path)], tmp_path / "ours", targets=release.shapes_of(done.animator.system)
    )
    assert again.subnets == done.imported.subnets
