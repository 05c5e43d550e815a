"""Config mappings to frozen dataclasses, with errors that name the key."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax.numpy as jnp

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.target import platform

T = TypeVar("T")

FLOATING = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def from_mapping(cls: type[T], values: Any, **extra: Any) -> T:
    """Builds the dataclass `cls` from a config section; sequences become tuples so that the result is hashable.

    Args:
        cls: a dataclass.
        values: its fields by name, a mapping or `ConfigDict`; fields left out take the dataclass's defaults.
        extra: fields given by the caller, e.g. nested dataclasses; they win over `values`.

    Raises:
        ConfigError: for a key that `cls` does not have (naming the nearest one), or a required one left out.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ConfigError(f"{cls.__name__} has no setting '{name}'{nearest(name, list(fields))}")
    chosen = {name: tuple(value) if isinstance(value, (list, tuple)) else value for name, value in dict(values).items()}
    chosen.update(extra)
    missing = [
        name
        for name, field in fields.items()
        if name not in chosen and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{cls.__name__} needs the settings: {', '.join(missing)}")
    return cls(**chosen)


def compute_dtype(name: str) -> jnp.dtype:
    """The dtype of activations: a name, or `auto` for bfloat16 on accelerators and float32 on a CPU.

    CPUs emulate bfloat16, several times slower than float32.

    Raises:
        ConfigError: for an unknown name.
    """
    if name == "auto":
        name = "float32" if platform() == "cpu" else "bfloat16"
    return floating(name, "compute_dtype", "auto")


def floating(name: str, key: str, *others: str) -> jnp.dtype:
    """The dtype that a setting names; raises ConfigError for an unknown name. `others`: what else `key` may be."""
    if name not in FLOATING:
        raise ConfigError(f"{key} '{name}' is not known{nearest(name, [*others, *FLOATING])}")
    return jnp.dtype(FLOATING[name])
