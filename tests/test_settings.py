"""Protects: settings become dataclasses, or an error names the key."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from portrait_jax.errors import ConfigError
from portrait_jax.settings import compute_dtype, from_mapping


@dataclass(frozen=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True)
class Outer:
    widths: tuple[int, ...]
    rate: float = 0.5
    inner: Inner = Inner()
    names: dict[str, str] = field(default_factory=dict)


def test_sequences_become_tuples_so_that_the_result_is_hashable():
    made = from_mapping(Outer, ConfigDict({"widths": [1, 2]}), names=())
    assert made.widths == (1, 2) and made.rate == 0.5 and isinstance(hash(made), int)


def test_what_the_caller_gives_wins():
    made = from_mapping(Outer, {"widths": (1,), "inner": {"depth": 3}}, inner=Inner(7))
    assert made.inner == Inner(7)


def test_a_wrong_key_names_class_key_and_nearest():
    with pytest.raises(ConfigError, match="Outer has no setting 'widhts'; did you mean 'widths'"):
        from_mapping(Outer, {"widhts": (1,)})


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="Outer needs the settings: widths$"):
        from_mapping(Outer, {"rate": 1.0})


def test_compute_dtypes_have_names_and_automatic_means_float32_on_a_cpu():
    assert compute_dtype("bfloat16") == jnp.bfloat16 and compute_dtype("auto") == jnp.float32
    with pytest.raises(ConfigError, match="did you mean 'float32'"):
        compute_dtype("float23")
