"""What `launch.benchmark` times, and how: networks in JAX beside their PyTorch originals.

Imports jax, flax, optax, einops and numpy only, so that it runs on a bare accelerator machine; torch, diffusers and
transformers are used where they are installed.
"""

from __future__ import annotations

import importlib
import sys
import types


class _AnyShape:
    """Stands in for jaxtyping's `Float`, `Int` …: an annotation without its shape."""

    def __class_getitem__(cls, item: tuple[type, str]) -> type:
        return item[0]


class _AnyShapes(types.ModuleType):
    """Stands in for jaxtyping, whatever is imported from it."""

    def __getattr__(self, name: str) -> type[_AnyShape]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyShape


def stand_in_for_jaxtyping() -> None:
    """Lets the networks be imported where jaxtyping, which only says shapes to people and tests, is not installed."""
    try:
        importlib.import_module("jaxtyping")
    except ImportError:
        sys.modules["jaxtyping"] = _AnyShapes("jaxtyping")


stand_in_for_jaxtyping()
