"""Joined videos keep every frame and its time, sound stays with the pictures, and neither needs memory for its length."""

import tracemalloc
import wave

import av
import numpy as np
import pytest

from portrait_jax.errors import AudioError, InputFileError, VideoError
from portrait_jax.media.audio import AudioClip, read_clip
from portrait_jax.media.mux import concat_segments
from portrait_jax.media.video import VideoWriter, probe, read_frames, read_video


def counted(count, side=32, first=0):
    """Frames whose brightness tells their number."""
    return np.stack([np.full((side, side, 3), 20 + 4 * (first + number), np.uint8) for number in range(count)])


def numbers(frames):
    return [round((float(frame.mean()) - 20) / 4) for frame in frames]


def write(path, frames, fps=25):
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_joined_segments_hold_every_frame_once_and_are_not_encoded_again(tmp_path):
    parts = [write(tmp_path / f"{n}.mp4", counted(count, first=first)) for n, first, count in ((0, 0, 7), (1, 7, 12))]
    concat_segments(parts, tmp_path / "all.mp4", fps=25)
    joined = read_video(tmp_path / "all.mp4")
    assert numbers(joined) == list(range(19))
    np.testing.assert_array_equal(joined, np.concatenate([read_video(part) for part in parts]))
    info = probe(tmp_path / "all.mp4")
    assert info.duration == pytest.approx(19 / 25, abs=0.002) and not info.has_audio


def flash_and_click(tmp_path, fps, seconds, second=1.2):
    """Segments with one white frame at `second`, and a sound with a click at the same moment."""
    count, flash = round(seconds * fps), round(second * fps)
    frames = np.full((count, 32, 32, 3), 20, np.uint8)
    frames[flash] = 250
    cuts = (0, count // 3, count // 3 + 5, count)
    parts = [write(tmp_path / f"{a}_{fps}.mp4", frames[a:b], fps) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    samples = np.zeros((round(seconds * 48000), 2), np.float32)
    samples[round(second * 48000) :][:480] = 0.9
    return parts, AudioClip(samples, 48000)


def moments(path):
    """Seconds of the flash and of the click by the file's own time stamps."""
    with av.open(str(path)) as file:
        flash = next(f.time for f in file.decode(video=0) if f.to_ndarray(format="gray8").mean() > 128)
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            loud = np.abs(frame.to_ndarray()[0]) > 0.3
            if loud.any():
                return flash, frame.time + int(np.argmax(loud)) / frame.sample_rate
    raise AssertionError("no click")


@pytest.mark.parametrize("fps", [25, 30, 30000 / 1001])
def test_flash_and_click_stay_together_through_segments_and_a_second_pass(tmp_path, fps):
    parts, sound = flash_and_click(tmp_path, fps, seconds=2.5)
    driver = tmp_path / "driver.mp4"
    concat_segments(parts, driver, sound, fps)
    flash, click = moments(driver)
    assert abs(flash - click) < 0.010 and abs(flash - 1.2) < 0.02
    # Used as a driver: frames read, written in segments at 25 fps, its own sound muxed again.
    frames = list(read_frames(driver, 25))
    again = [write(tmp_path / f"again{a}.mp4", frames[a : a + 20], 25) for a in range(0, len(frames), 20)]
    concat_segments(again, tmp_path / "result.mp4", driver, 25)
    flash, click = moments(tmp_path / "result.mp4")
    assert abs(flash - click) < (0.010 if fps == 25 else 0.5 / 25 + 0.010)  # Resampling moves a flash by half a frame.
    assert abs(click - 1.2) < 0.010


def test_a_file_sounds_as_the_samples_in_it(tmp_path):
    parts, sound = flash_and_click(tmp_path, 25, seconds=2.0)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, 2, 48000, 0, "NONE", ""))
        file.writeframes((sound.samples * 32767).astype("<i2").tobytes())
    for name, given in (("file", tmp_path / "a.wav"), ("samples", sound)):
        concat_segments(parts, tmp_path / f"{name}.mp4", given, 25)
    heard = [read_clip(tmp_path / f"{name}.mp4").samples for name in ("file", "samples")]
    assert len(heard[0]) == len(heard[1])
    np.testing.assert_allclose(heard[0], heard[1], atol=0.01)


def test_sound_ends_with_the_pictures(tmp_path):
    parts, sound = flash_and_click(tmp_path, 25, seconds=2.0)
    long = AudioClip(np.tile(sound.samples, (5, 1)), sound.rate)
    concat_segments(parts, tmp_path / "a.mp4", long, 25)
    assert read_clip(tmp_path / "a.mp4").duration == pytest.approx(2.0, abs=0.03)


def test_sound_that_is_shorter_ends_alone(tmp_path):
    parts, sound = flash_and_click(tmp_path, 25, seconds=2.0)
    concat_segments(parts, tmp_path / "a.mp4", AudioClip(sound.samples[:48000], sound.rate), 25)
    assert probe(tmp_path / "a.mp4").frames == 50
    assert read_clip(tmp_path / "a.mp4").duration == pytest.approx(1.0, abs=0.05)


def test_sound_is_decoded_while_it_is_written(tmp_path):
    """Two minutes of stereo at 48 kHz are 46 MB; what is in memory is a block."""
    seconds = 120
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        for _ in range(seconds):
            file.writeframes(np.full(16000, 3000, "<i2").tobytes())
    video = write(tmp_path / "v.mp4", np.zeros((seconds, 32, 32, 3), np.uint8), 1)
    tracemalloc.start()
    concat_segments([video], tmp_path / "all.mp4", tmp_path / "a.wav", 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6
    assert probe(tmp_path / "all.mp4").has_audio


def test_joining_the_impossible_is_refused_and_leaves_nothing(tmp_path):
    small, large = write(tmp_path / "s.mp4", counted(2)), write(tmp_path / "l.mp4", counted(2, 64))
    (tmp_path / "text.mp4").write_text("hello" * 100)
    output = tmp_path / "out" / "a.mp4"
    for arguments, error, words in [
        (([],), InputFileError, "no segments"),
        (([small, large],), VideoError, "64×64.*32×32"),
        (([small, tmp_path / "none.mp4"],), InputFileError, "does not exist"),
        (([small, tmp_path / "text.mp4"],), VideoError, "text.mp4 cannot be read.*make it again"),
        (([small], small), AudioError, "no audio stream"),
    ]:
        with pytest.raises(error, match=words):
            concat_segments(arguments[0], output, *arguments[1:])
    assert not output.parent.exists() or not list(output.parent.iterdir())
