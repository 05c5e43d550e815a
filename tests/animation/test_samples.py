"""Every sample portrait is animated by every sample driver, from file to file: as the release does, and by the demo's model.

The release's pipeline is whole (framing, metric alignment, drawing, wrapped windows); its networks are narrow and random.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from configs import follow_your_emoji
from portrait_jax.animation import Animator
from portrait_jax.animation.files import animate_files
from portrait_jax.animation.job import Job
from portrait_jax.errors import NoFaceError
from portrait_jax.face.detector import FaceDetector
from portrait_jax.media.image import read_image
from portrait_jax.media.video import VideoWriter, probe, read_frames, read_video
from portrait_jax.metrics.bench import detector_judge
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.loading import load_system_params
from tests import tiny
from tests.systems.follow_your_emoji import small_release

FPS, FIRST, FRAMES = 12.5, 12, 5
"""Of the drivers' excerpts; they begin after a second."""
SIDE = 256
"""At which MediaPipe still sees the faces of whole portraits."""


def released() -> Animator:
    config = small_release.config(2, 1)
    config.model.image_size = config.data.size = SIDE
    system = FollowYourEmoji.from_config(config)
    return Animator(system, tiny.make_params(system))


def demo() -> Animator:
    system = FollowYourEmoji.from_config(follow_your_emoji.get_config("demo"))
    return Animator(system, load_system_params(system), steps=4, windows_per_chunk=1)


@pytest.fixture(scope="module", params=[released, demo], ids=["released", "demo"])
def animator(request) -> Animator:
    return request.param()


@pytest.fixture(scope="module")
def drivers(samples_dir, tmp_path_factory) -> list[Path]:
    """A few frames of each driver."""
    folder, found = tmp_path_factory.mktemp("drivers"), sorted((samples_dir / "driving").glob("*.mp4"))
    for path in found:
        with VideoWriter(folder / path.name, FPS) as writer:
            for frame in islice(read_frames(path, FPS), FIRST, FIRST + FRAMES):
                writer.write(frame)
    assert found, "no sample drives"
    return [folder / path.name for path in found]


@pytest.fixture(scope="module")
def faceless(drivers, face_landmarker_path) -> set[str]:
    """Drivers in none of whose frames MediaPipe sees a face."""
    found = set()
    with FaceDetector(face_landmarker_path) as detector:
        for path in drivers:
            seen = detector_judge(detector)(read_video(path))
            found |= {path.name} if np.isnan(seen).all() else set()
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("portrait", ["frontal.png", "girl_campfire.jpg", "older_man_beach.jpg"])
def test_every_driver_with_a_face_animates_a_portrait(
    animator, samples_dir, face_landmarker_path, drivers, faceless, portrait, tmp_path
):
    side, results = animator.system.image_size, []
    for driving in drivers:
        output = tmp_path / driving.name
        job = Job(samples_dir / "portraits" / portrait, driving, output, landmarker=face_landmarker_path)
        if driving.name in faceless:
            with pytest.raises(NoFaceError, match=f"no face found.*{driving.name}; give a video of a face"):
                animate_files(animator, job)
            assert not job.parts.exists() and not output.exists()
            print(f"{portrait} by {driving.name}: no face in the driver")
            continue
        record = animate_files(animator, job)
        info, video = probe(output), read_video(output)
        assert (info.width, info.height, info.frames, info.fps) == (side, side, FRAMES, FPS)
        assert record["sampling"]["alignment"] == animator.system.sampling.alignment
        assert read_image(job.sheet).std() > 10 and not job.parts.exists()
        assert video.std() > 1 and (video[1:] != video[0]).any(), f"{driving.name}: a still picture"
        results.append(video)
        print(f"{portrait} by {driving.name}: {FRAMES} frames, {animator.system.sampling.alignment} alignment")
    assert len(results) > 1
    # Random networks cannot follow anybody, but what they make depends on the driver.
    for i, one in enumerate(results):
        assert all(np.abs(one.astype(int) - other).max() > 0 for other in results[:i]), "two drivers, one result"
