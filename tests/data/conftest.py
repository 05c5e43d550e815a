"""A tiny procedural data set and one clip, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from data import records, synthetic
from data.prepare_synthetic import SyntheticConfig, prepare_synthetic

NAMES = {"clip_id": "a", "source": "nowhere", "identity": "nobody", "caption": "räksmörgås"}


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


@pytest.fixture(scope="session")
def clip() -> dict:
    """A raw clip of 14 frames at 64 pixels; not to be changed."""
    performance = synthetic.sample_performance(3, 14)
    return {**synthetic.render_clip(synthetic.sample_identity(2), performance, 64), **NAMES}


@pytest.fixture(scope="session")
def record(clip: dict) -> dict:
    """The clip as it is stored; not to be changed."""
    return records.encode_clip(clip)
