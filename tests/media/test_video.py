"""Frames keep their order, number, colours and times through files; damaged files are named."""

from fractions import Fraction

import av
import numpy as np
import pytest

from portrait_jax.errors import InputFileError, ShapeError, VideoError
from portrait_jax.media.mux import concat_segments
from portrait_jax.media.video import VideoWriter, mp4_bytes, probe, read_frames, read_video


def counted(count, height=32, width=48, first=0):
    """Frames whose brightness tells their number."""
    return np.stack([np.full((height, width, 3), 20 + 4 * (first + number), np.uint8) for number in range(count)])


def numbers(frames):
    return [round((float(frame.mean()) - 20) / 4) for frame in frames]


def write(path, frames, fps=25, **options):
    with VideoWriter(path, fps, **options) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def noise_video(path):
    return write(path, np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8))


def test_frames_come_back_in_order_with_their_colours(tmp_path):
    frames = counted(12)
    frames[..., 2] = 90
    read = read_video(write(tmp_path / "a.mp4", frames, crf=10))
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).max() <= 4
    assert np.abs((read.astype(int) - frames).mean()) < 0.6


def test_probe_states_what_was_written(tmp_path):
    info = probe(write(tmp_path / "a.mp4", counted(30), fps=30000 / 1001))
    assert (info.width, info.height, info.frames, info.has_audio) == (48, 32, 30, False)
    assert info.fps == pytest.approx(29.97, abs=0.01) and info.duration == pytest.approx(1.001, abs=0.01)


@pytest.mark.parametrize("source_fps, fps, expected", [
    (30, 25, 25),
    (25, 30, 30),
    (25, 25, 25),
    (50, 25, 25),
    (10, 25, 25),
])  # fmt: skip
def test_resampling_keeps_the_duration_and_takes_the_nearest_frame(tmp_path, source_fps, fps, expected):
    path = write(tmp_path / "a.mp4", counted(source_fps), fps=source_fps)
    read = numbers(read_frames(path, fps))
    assert len(read) == expected
    wished = np.arange(expected) * source_fps / fps
    assert np.abs(np.minimum(wished, source_fps - 1) - read).max() <= 0.5 + 1e-6


def test_a_variable_frame_rate_becomes_constant_by_time_stamps(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, milliseconds in zip(counted(4), (0, 40, 240, 280), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = milliseconds, Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    assert numbers(read_frames(path, 25)) == [0, 1, 1, 1, 2, 2, 2, 3]


def test_only_the_asked_number_of_frames_is_read(tmp_path):
    assert numbers(read_video(write(tmp_path / "a.mp4", counted(20)), max_frames=3)) == [0, 1, 2]


def test_rotation_metadata_is_honoured(tmp_path):
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, :32] = 255  # White on the left; shown turned, it must lie above or below.
    plain = write(tmp_path / "plain.mp4", [frame] * 3)
    with av.open(str(plain)) as source, av.open(str(tmp_path / "turned.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.pts is not None:
                packet.stream = stream
                target.mux(packet)
    turned = read_video(tmp_path / "turned.mp4")[0]
    assert turned.shape == (64, 32, 3)
    np.testing.assert_array_equal(turned, np.rot90(read_video(plain)[0], 1))
    info = probe(tmp_path / "turned.mp4")
    assert (info.height, info.width) == (64, 32)


def test_odd_sizes_are_padded_to_even_by_edge_pixels(tmp_path):
    read = read_video(write(tmp_path / "a.mp4", counted(2, 33, 47)))
    assert read.shape == (2, 34, 48, 3) and np.ptp(read[0].astype(int)) <= 4


def test_a_record_in_memory_is_a_video_file(tmp_path):
    (tmp_path / "a.mp4").write_bytes(mp4_bytes(counted(30), 25, gop=12))
    assert numbers(read_video(tmp_path / "a.mp4")) == list(range(30))


def test_an_error_while_writing_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(counted(1)[0])
        raise RuntimeError
    with pytest.raises(VideoError, match="no frame was written"), VideoWriter(tmp_path / "a.mp4", 25):
        pass
    assert not list(tmp_path.iterdir())


def test_a_frame_of_another_size_is_refused_with_both_sizes(tmp_path):
    with pytest.raises(ShapeError, match=r"\(16, 48\).*\(32, 48\)"):
        write(tmp_path / "a.mp4", [*counted(1), *counted(1, height=16)])


def test_unusable_names_and_rates_are_refused(tmp_path):
    with pytest.raises(InputFileError, match=r"\.mp4"):
        VideoWriter(tmp_path / "a.gif", 25)
    with pytest.raises(VideoError, match="rate from 1 to 240"):
        write(tmp_path / "a.mp4", counted(1), fps=0)
    with pytest.raises(VideoError, match="rate from 1 to 240"):
        read_video(tmp_path / "a.mp4", fps=1000)


@pytest.mark.parametrize("kind, words", [("text", "not a video"), ("cut", "truncated"), ("sound", "no video stream")])
def test_files_that_are_no_whole_video_are_named(tmp_path, kind, words):
    path = tmp_path / "clip.mp4"
    if kind == "text":
        path.write_text("hello" * 100)
    elif kind == "cut":
        path.write_bytes(noise_video(tmp_path / "whole.mp4").read_bytes()[:-3000])
    else:
        with av.open(str(path), "w") as file:
            stream = file.add_stream("aac", rate=16000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    with pytest.raises(VideoError, match=words) as caught:
        read_video(path)
    assert "clip.mp4" in str(caught.value)


def test_a_file_that_ends_in_the_middle_is_an_error_with_the_frame(tmp_path):
    concat_segments([noise_video(tmp_path / "whole.mp4")], tmp_path / "streamable.mp4")
    data = (tmp_path / "streamable.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(VideoError, match=r"clip\.mp4.* frame \d+ of 40.*truncated"):
        read_video(tmp_path / "clip.mp4")


def test_real_driving_videos_are_read_at_their_rate(samples_dir):
    for path in sorted((samples_dir / "driving").glob("*.mp4"))[:3]:
        info = probe(path)
        frames = read_video(path, info.fps, max_frames=5)
        assert frames.shape == (5, info.height, info.width, 3) and frames.std() > 10
