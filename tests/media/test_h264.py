"""The encoder behind files and records: exact rates, and every size of picture."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portrait_jax.errors import VideoError
from portrait_jax.media.h264 import Encoder, exact_rate
from portrait_jax.media.video import read_video


@given(st.sampled_from([24, 25, 30, 50, 60]), st.booleans())
def test_ntsc_rates_become_exact_fractions(rate, ntsc):
    expected = Fraction(rate * 1000, 1001) if ntsc else Fraction(rate)
    assert exact_rate(float(expected)) == expected


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 241])
def test_rates_that_no_video_has_are_refused(fps):
    with pytest.raises(VideoError, match="1 to 240"):
        exact_rate(fps)


def test_odd_sizes_are_padded_to_even_by_the_edge(tmp_path):
    image = np.full((17, 31, 3), 200, np.uint8)
    encoder = Encoder(str(tmp_path / "a.mp4"), "mp4", (17, 31), 25, crf=10, gop=None)
    encoder.encode(image)
    encoder.close()
    (frame,) = read_video(tmp_path / "a.mp4")
    assert frame.shape == (18, 32, 3)
    assert np.abs(frame.astype(int) - 200).max() <= 3
