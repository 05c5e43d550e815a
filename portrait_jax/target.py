"""For which kind of device programs are made: this process's own, or one that they are only compiled for.

What is traced differs between a processor and an accelerator, in the dtype of activations and in the implementations of attention
and convolution. `launch.compile` compiles for machines that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)


def platform() -> str:
    """`cpu`, `gpu` or `tpu`."""
    return _TARGET.get() or jax.default_backend()


@contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """Lets `platform` say `name`. Functions that were jitted and traced before keep what they are."""
    token = _TARGET.set(name)
    try:
        yield
    finally:
        _TARGET.reset(token)
