"""Oracles are made with torch's own initialisers: from the same seed in every test and module, whatever ran before."""

import sys

import pytest


def _seed() -> None:
    if "torch" in sys.modules:  # otherwise the oracles' module skips every test here
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _seed_of_shared_oracles():
    _seed()


@pytest.fixture(autouse=True)
def _seed_of_own_oracles():
    _seed()
