"""Sound comes at the asked rate, in time with the pictures, in bounded memory, or with a message."""

import tracemalloc
import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from portrait_jax.errors import AudioError, InputFileError
from portrait_jax.media.audio import check_audible, read_audio, read_blocks, read_clip
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
        check_audible(np.array_split(samples, 3), 16000, "voice.wav")


def test_speech_is_audible_wherever_it_begins():
    samples = np.concatenate([np.zeros(16000, np.float32), np.sin(np.arange(4000, dtype=np.float32))])
    check_audible(np.array_split(samples, 9), 16000)


def test_blocks_are_the_clip_piece_by_piece(tmp_path):
    write_wav(tmp_path / "a.wav", np.stack([click(0.7), click(1.2)], -1))
    blocks = list(read_blocks(tmp_path / "a.wav"))
    assert len(blocks) > 10 and max(map(len, blocks)) <= 48000
    np.testing.assert_array_equal(np.concatenate(blocks), read_clip(tmp_path / "a.wav").samples)


def two_tones(path, hole: float, rate: int = 16000):
    """A tenth of a second of sound, a hole in the time stamps, and another tenth."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=rate, layout="mono")
        for start in (0.0, 0.1 + hole):
            frame = av.AudioFrame.from_ndarray(np.full((1, rate // 10), 9000, np.int16), "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(start * rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def test_a_hole_is_filled_with_silence_that_needs_no_memory(tmp_path):
    two_tones(tmp_path / "a.mkv", hole=600.0)
    tracemalloc.start()
    count, loud = 0, []
    for block in read_blocks(tmp_path / "a.mkv"):
        loud += [count + i for i in np.flatnonzero(np.abs(block[:, 0]) > 0.1)[[0, -1]]] if block.any() else []
        count += len(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count / 48000 == pytest.approx(600.2, abs=0.01)
    assert loud[0] / 48000 < 0.01 and loud[-1] / 48000 == pytest.approx(600.2, abs=0.01)
    assert peak < 4e6, "ten minutes of stereo are 230 MB"


def test_a_file_that_states_a_hole_of_days_is_refused_at_once(tmp_path):
    two_tones(tmp_path / "a.mkv", hole=1e5)
    with pytest.raises(AudioError, match=r"a\.mkv lasts longer than 4 hours"):
        for _ in read_blocks(tmp_path / "a.mkv"):
            pass
