"""Compiled programs that outlive their process: a folder from which the next start reads what this one compiled.

It is jax's persistent compilation cache, under settings that let `launch.compile` fill it ahead of time and other hosts read it.
Each entry is compressed machine code behind a key of all that decides it; nothing of it is a pickle. Whoever may write to
the folder says what runs: docs/scale.md.
"""

from __future__ import annotations

import math
import os
import re
import stat
import sys
import warnings
import zlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jax
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

from launch import cli
from portrait_jax.errors import ConfigError, InputFileError

FOLDER = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder of compiled programs: what it holds is not compiled again, the rest is added. Programs in it are run: let nobody "
    "write to it whom you would not let change this one.",
)

MIN_SECONDS = 0.3
"""Programs that compile in less are not kept: hundreds of single operations, read no faster than they are made."""
ENTRY = re.compile(r"[\w.<>-]+-[0-9a-f]{64}-cache")
"""Name of jax's files: program, key."""
ZSTD = b"\x28\xb5\x2f\xfd"
"""What entries begin with where zstandard is installed; elsewhere jax compresses by zlib."""
CHUNK = 1 << 20
EVENTS = {"/jax/compilation_cache/cache_hits": "read", "/jax/compilation_cache/cache_misses": "written"}

counts: Counter[str] = Counter()
"""How many programs of this process were `read` and `written`."""


def keep() -> Path | None:
    """Lets jax read and keep programs in the folder that the flag names; before anything is compiled, after `hosts.join`.

    Returns:
        the folder; None without the flag, where jax's own settings (`JAX_COMPILATION_CACHE_DIR`) stay as they are.

    Raises:
        ConfigError: for a bucket's address.
        InputFileError: if it is no folder, could not be made, or everybody may write to it.
    """
    if FOLDER.value is None:
        return None
    folder = checked(FOLDER.value)
    writable = os.access(folder, os.W_OK | os.X_OK)
    if writable and jax.process_index() == 0:
        remove_damaged(folder)
    use(folder, writable)
    return folder


def checked(value: str) -> Path:
    """The absolute path of the folder, made if it is not there. See `keep` for what it raises."""
    if not value or "://" in value:
        raise ConfigError(f"--compilation_cache {value}: give a folder; a bucket is mounted, or copied to one, before")
    folder = Path(value).absolute()
    if not os.path.isdir(folder):
        cli.output_folder("compilation_cache", value)
        folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_mode & stat.S_IWOTH:
        raise InputFileError(
            f"--compilation_cache {value}: everybody may write to it, and what is in it is run; take that right away "
            f"(chmod o-w) after a look at who wrote there, or give another folder"
        )
    return folder


def use(folder: Path, writable: bool = True) -> None:
    """Sets jax up for the folder; programs that this process compiled before are not in it."""
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(folder),
        # Where nothing can be written nothing is tried: jax would warn of every program.
        "jax_persistent_cache_min_compile_time_secs": MIN_SECONDS if writable else math.inf,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        # XLA's own caches have their path among the compiler's options, and so in the key: a copied folder would be useless.
        "jax_persistent_cache_enable_xla_caches": "none",
        # What cannot be read is compiled, with a warning.
        "jax_raise_persistent_cache_errors": False,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # jax asks for its folder once in a process
    listen()
    counts.clear()


@cache
def listen() -> None:
    """Counts from now on."""

    def note(event: str, **_: Any) -> None:
        if event in EVENTS:
            counts[EVENTS[event]] += 1

    jax.monitoring.register_event_listener(note)


def tell() -> None:
    """Says on standard error what the folder was good for; nothing without the flag."""
    if FOLDER.value is not None:
        print(f"{FOLDER.value}: {counts['read']} compiled programs read, {counts['written']} added", file=sys.stderr)


def fate(before: Counter[str]) -> str | None:
    """What became of the program that was compiled since `counts` were `before`; None without the flag, also where
    no command line has been read."""
    if not flags.FLAGS.is_parsed() or FOLDER.value is None:
        return None
    if counts["read"] > before["read"]:
        return "was there already"
    return "kept" if counts["written"] > before["written"] else "not kept: see docs/scale.md"


def remove_damaged(folder: Path) -> None:
    """Removes entries that are cut or changed, with a warning: jax would pass over them, but never write them anew.

    jax writes in place, so a killed process, a full disk or half a copy leaves such entries.
    """
    for path in sorted(folder.iterdir()):
        if ENTRY.fullmatch(path.name) and path.is_file() and not intact(path):
            warnings.warn(f"{path} is damaged and was removed; its program is compiled anew", stacklevel=2)
            path.unlink(missing_ok=True)


def intact(path: Path) -> bool:
    """Whether an entry can be decompressed to its end, in flat memory; of zstandard's only whether it begins like one."""
    reader = zlib.decompressobj()
    try:
        with path.open("rb") as file:
            begin = file.read(len(ZSTD))
            if begin == ZSTD:
                return True
            file.seek(0)
            while not reader.eof and (block := file.read(CHUNK)):
                while block and not reader.eof:
                    reader.decompress(block, CHUNK)
                    block = reader.unconsumed_tail
        return reader.eof and not reader.unused_data
    except zlib.error:
        return False
    except OSError:
        return True  # Nothing can be said of it; jax passes over what it cannot read.
