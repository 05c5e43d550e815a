"""Oracles are made with torch's own initialisers: from the same seed in every test and fixture, whatever ran before."""

import sys

import pytest


def _seed() -> None:
    if "torch" in sys.modules:  # otherwise the oracles' module skips every test here
        sys.modules["torch"].manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """Before every fixture: one that several tests share is made in the middle of a test's set-up."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Before every test."""
    _seed()
