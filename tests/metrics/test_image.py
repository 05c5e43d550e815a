"""Image metrics against formulas written out pixel by pixel."""

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.metrics.image import l1, psnr, ssim


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (2, 14, 13, 3), dtype=np.uint8)
    result = np.clip(truth + rng.normal(0, 25, truth.shape), 0, 255).astype(np.uint8)
    return result, truth


def ssim_by_windows(result, truth):
    """Wang et al. 2004, one window and one channel at a time."""
    y, x = np.mgrid[-5:6, -5:6]
    weight = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for a, b in zip(result / 255, truth / 255, strict=True):
        for i in range(5, a.shape[0] - 5):
            for j in range(5, a.shape[1] - 5):
                for c in range(3):
                    p, q = a[i - 5 : i + 6, j - 5 : j + 6, c], b[i - 5 : i + 6, j - 5 : j + 6, c]
                    mp, mq = (weight * p).sum(), (weight * q).sum()
                    vp, vq = (weight * (p - mp) ** 2).sum(), (weight * (q - mq) ** 2).sum()
                    cov = (weight * (p - mp) * (q - mq)).sum()
                    top = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
                    values.append(top / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(values)


def test_l1_is_the_mean_difference_in_unit_range(pair):
    result, truth = pair
    total = sum(abs(int(a) - int(b)) for a, b in zip(result.ravel(), truth.ravel(), strict=True))
    assert l1(result, truth) == pytest.approx(total / truth.size / 255)


def test_psnr_averages_decibels_over_frames(pair):
    result, truth = pair
    error = [np.sqrt(np.mean((a.astype(float) - b) ** 2)) for a, b in zip(result, truth, strict=True)]
    per_frame = [20 * np.log10(255 / one) for one in error]
    assert psnr(result, truth) == pytest.approx(np.mean(per_frame))


def test_ssim_agrees_with_a_loop_over_windows(pair):
    assert ssim(*pair) == pytest.approx(ssim_by_windows(*pair), abs=1e-9)


def test_equal_images_are_perfect(pair):
    _, truth = pair
    assert (l1(truth, truth), psnr(truth, truth)) == (0.0, 100.0)
    assert ssim(truth, truth) == pytest.approx(1.0)


def test_bytes_and_unit_floats_give_the_same_numbers(pair):
    result, truth = pair
    for metric in (l1, psnr, ssim):
        assert metric(result, truth) == pytest.approx(metric(result / 255, truth / 255))


def test_images_of_different_size_are_refused_with_both_shapes(pair):
    _, truth = pair
    with pytest.raises(ShapeError, match=r"\(2, 14, 13, 3\).*\(2, 13, 13, 3\)"):
        l1(truth, truth[:, 1:])
