"""A small release for all tests of this folder, drawn once and written anew for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from portrait_jax.interchange import layout_named
from tests.interchange.made import SMALL, place, release, save, targets


@pytest.fixture(scope="session")
def small_release(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """A small autoencoder's tensors and targets; not to be changed."""
    layout = layout_named(SMALL)
    (tensors,) = release(layout, tmp_path_factory.mktemp("release")).values()
    return tensors, targets(layout)


@pytest.fixture
def small(tmp_path: Path, small_release: tuple[dict, dict]) -> tuple[Path, dict, dict]:
    """The small autoencoder's file, its tensors and its targets."""
    tensors, trees = small_release
    return save(place(tmp_path, "vae"), tensors), tensors, trees
