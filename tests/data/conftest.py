"""A tiny procedural data set, prepared once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.prepare_synthetic import SyntheticConfig, prepare_synthetic


@pytest.fixture(scope="session")
def tiny() -> SyntheticConfig:
    """Settings of the data set: clips longer than one group of pictures."""
    return SyntheticConfig(train=5, test=2, frames=14, size=64)


@pytest.fixture(scope="session")
def portraits(tiny: SyntheticConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the prepared data set."""
    folder = tmp_path_factory.mktemp("data") / "portraits"
    prepare_synthetic(tiny, folder)
    return folder
