"""Protects LPIPS: what is equal has no distance, the published names are read, and small pictures are refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from portrait_jax.errors import CheckpointError, ShapeError
from portrait_jax.interchange import import_checkpoint
from portrait_jax.interchange.layouts import layout_named
from portrait_jax.metrics.lpips import PerceptualDistance, fresh
from portrait_jax.training.params import save_params


@pytest.fixture(scope="module")
def distance(tmp_path_factory):
    """From files with the published names, as people have them."""
    folder, rng = tmp_path_factory.mktemp("lpips"), np.random.default_rng(0)
    for part in layout_named("lpips_alex").parts:
        tensors = {name: rng.uniform(-0.05, 0.1, shape).astype(np.float32) for name, shape in part.expected().items()}
        if part.file == "alexnet.pth":
            tensors["classifier.1.weight"] = np.ones((4, 4), np.float32)
        save_file(tensors, folder / f"{part.file}.safetensors")
    files = [str(folder / f"{name}.pth.safetensors") for name in ("alexnet", "alex")]
    import_checkpoint(["lpips_alex"], files, folder / "imported")
    return PerceptualDistance.load(folder / "imported")


def test_equal_pictures_have_no_distance_and_more_noise_has_more(distance):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 256, (2, 64, 72, 3), dtype=np.uint8)
    noise = rng.normal(size=truth.shape)
    far, near = (np.clip(truth + scale * noise, 0, 255).astype(np.uint8) for scale in (60, 10))
    assert distance(truth, truth) == 0
    assert abs(distance(far, truth)) > abs(distance(near, truth)) > 0
    assert distance(far, truth) == pytest.approx(distance(truth, far), rel=1e-4)
    halves = [distance(far[i : i + 1], truth[i : i + 1]) for i in range(2)]
    assert distance(far, truth) == pytest.approx(np.mean(halves), rel=1e-5)


def test_small_pictures_and_other_shapes_are_refused(distance):
    small = np.zeros((1, 32, 64, 3), np.uint8)
    with pytest.raises(ShapeError, match="from 64 pixels on"):
        distance(small, small)
    with pytest.raises(ShapeError, match="one size"):
        distance(np.zeros((1, 64, 64, 3), np.uint8), np.zeros((2, 64, 64, 3), np.uint8))


def test_parameters_of_something_else_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_params(path, {"denoiser": {"kernel": np.ones(2, np.float32)}}, {})
    with pytest.raises(CheckpointError, match="--layout lpips_alex"):
        PerceptualDistance.load(path)


def test_the_published_files_have_alexnets_shapes():
    features, linear = layout_named("lpips_alex").parts
    assert features.expected()["features.3.weight"] == (192, 64, 5, 5)
    assert linear.expected() == {f"lin{i}.model.1.weight": (1, c, 1, 1) for i, c in enumerate((64, 192, 384, 256, 256))}
    assert sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(fresh))) == 2_469_696 + 1152
