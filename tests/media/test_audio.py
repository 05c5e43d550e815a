"""Sound comes at the asked rate, in time with the pictures, or with a message."""

import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from portrait_jax.errors import AudioError, InputFileError
from portrait_jax.media.audio import check_audible, read_audio, read_clip
from portrait_jax.media.video import VideoWriter

RATE = 44100


def write_wav(path, samples, rate=RATE):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def click(seconds, length=2.0, rate=RATE):
    samples = np.zeros(round(length * rate), np.float32)
    samples[round(seconds * rate) : round((seconds + 0.005) * rate)] = 0.9
    return samples


def click_time(samples, rate):
    return np.argmax(np.abs(samples) > 0.3) / rate


def test_resampling_keeps_duration_and_moments(tmp_path):
    write_wav(tmp_path / "a.wav", click(0.7))
    samples = read_audio(tmp_path / "a.wav", rate=16000)
    assert samples.dtype == np.float32 and abs(len(samples) - 32000) < 40
    assert abs(click_time(samples, 16000) - 0.7) < 0.002


def test_stereo_becomes_the_mean_in_mono(tmp_path):
    write_wav(tmp_path / "a.wav", np.stack([np.full(RATE, 0.5), np.zeros(RATE)], -1))
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", RATE)[100:-100], 0.25, atol=0.12)
    assert read_clip(tmp_path / "a.wav", RATE).samples.shape == (RATE, 2)


@pytest.mark.parametrize("audio_start, video_start", [(0.0, 0.0), (0.4, 0.0), (0.0, 0.4)])
def test_sample_zero_belongs_to_the_first_frame_whichever_stream_starts_first(tmp_path, audio_start, video_start):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=25, options={"bf": "0"})
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = file.add_stream("pcm_s16le", rate=16000, layout="mono")
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + round(video_start * 25), Fraction(1, 25)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        samples = (click(0.6, 1.0, 16000)[None] * 32767).astype(np.int16)
        for start in range(0, samples.shape[1], 1000):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1000], "s16", "mono")
            frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
            frame.pts = start + round(audio_start * 16000)
            file.mux(audio.encode(frame))
        file.mux(audio.encode(None))
    heard = click_time(read_audio(path), 16000)
    assert abs(heard - (0.6 + audio_start - video_start)) < 0.002


def test_a_video_without_sound_says_so(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(AudioError, match=r"a\.mp4 has no audio stream"):
        read_audio(tmp_path / "a.mp4")


@pytest.mark.parametrize("content, error", [(b"", InputFileError), (b"no sound at all" * 10, AudioError)])
def test_files_that_are_no_audio_are_refused(tmp_path, content, error):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(error, match=r"a\.wav"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("samples, words", [
    (np.ones(100, np.float32), "at least 0.5 s"),
    (np.zeros(16000, np.float32), "silent"),
    (np.full(16000, np.nan, np.float32), "not finite"),
])  # fmt: skip
def test_short_silent_and_broken_sound_is_refused_by_name(samples, words):
    with pytest.raises(AudioError, match=f"voice.wav.*{words}"):
        check_audible(samples, 16000, "voice.wav")


def test_speech_is_audible():
    check_audible(np.sin(np.arange(16000, dtype=np.float32)), 16000)
