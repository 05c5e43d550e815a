"""Results as a table for people and as JSON for programs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from portrait_jax.errors import InputFileError, listed
from portrait_jax.media.files import atomic_output

SCHEMA = 1
"""Of the JSON document; grows when a key changes its meaning or goes."""
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "diffusers", "transformers")
COLUMNS = ("network", "parameters", "GFLOP", "compile", "JAX", "GFLOP/s", "torch", "JAX/torch")
UTILISED = ("MFU", "torch's", "memory")
"""Columns of suites whose programs are compared with the device's best product of matrices."""
COMPILED = ("torch.compile", "JAX/compile")
"""Columns that only a GPU has."""


def document(suite: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Everything needed to judge the numbers later: machine, versions, date, settings, all timings."""
    return {
        "schema": SCHEMA,
        "suite": suite,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "environment": {name: os.environ[name] for name in ("XLA_FLAGS", "JAX_PLATFORMS") if name in os.environ},
        "networks": list(rows),
    }


def machine() -> dict[str, Any]:
    """The processor and the devices that JAX sees."""
    devices = jax.devices()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": usable,
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
    }


def processor() -> str:
    """Its name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that matter; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def write(path: Path, made: dict[str, Any]) -> None:
    """Writes the document whole or not at all; raises InputFileError where it cannot."""
    try:
        with atomic_output(path) as partial:
            partial.write_text(json.dumps(made, indent=1) + "\n")
    except OSError as error:
        raise InputFileError(f"cannot write the results to {path}: {error}") from error


def heading(made: dict[str, Any]) -> str:
    """The line above the table: machine, versions, day."""
    machine, found = made["machine"], made["versions"]
    device = f"{machine['processor']}, {machine['cores']} cores"
    if machine["platform"] != "cpu":
        device = f"{machine['device']}, {device}"
    packages = ", ".join(f"{name} {found[name]}" for name in ("jax", "torch") if found[name])
    return f"{device}; {packages}; {made['networks'][0]['dtype']}; {made['date'][:10]}"


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What is missing, once per reason."""
    missing: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for way, reason in row.get("skipped", {}).items():
            missing.setdefault((way, reason), []).append(row["name"])
    return [
        f"no {way} {'' if len(names) == len(rows) else f'for {listed(names)} '}({reason})"
        for (way, reason), names in missing.items()
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Medians with the half distance of the quartiles; a ratio under one means that JAX is faster."""
    compiled = any("torch.compile" in row.get("sides", {}) for row in rows)
    utilised = any("utilisation" in row for row in rows)
    header = [*COLUMNS, *UTILISED * utilised, *COMPILED * compiled]
    return aligned([header, *(cells(row, utilised, compiled) for row in rows)])


def cells(row: dict[str, Any], utilised: bool, compiled: bool) -> list[str]:
    """One line of the table."""
    if "error" in row:
        return [row["name"], row["error"]]
    sides, ratios = row["sides"], row["ratios"]
    mine = sides["jax"]
    line = [
        row["name"],
        f"{mine['parameters'] / 1e6:.1f} M",
        f"{mine['flops'] / 1e9:.1f}",
        duration(mine["compile_s"]),
        spread(mine),
        f"{mine['gflop_per_s']:.0f}",
    ]

    def beside(way: str) -> list[str]:
        return [spread(sides[way]), f"{ratios[way]:.2f}"] if way in sides else ["–", "–"]

    line += beside("torch")
    if utilised:
        shares = row["utilisation"]
        best = max((share for way, share in shares.items() if way != "jax"), default=None)
        line += [
            f"{100 * shares['jax']:.0f} %",
            "–" if best is None else f"{100 * best:.0f} %",
            f"{memory(mine) / 2**30:.1f} GiB",
        ]
    return line + beside("torch.compile") if compiled else line


def memory(side: dict[str, Any]) -> int:
    """Bytes of the device that the compiled program needs; a state that comes back in its own place counts once."""
    needs = side["bytes"]
    return needs["argument"] + needs["output"] + needs["temp"] - needs["alias"]


def spread(times: dict[str, Any]) -> str:
    """The median, and how far the quartiles are from it in per cent."""
    half = (times["high_s"] - times["low_s"]) / 2 / times["median_s"]
    return f"{duration(times['median_s'])} ±{100 * half:.0f} %"


def duration(seconds: float) -> str:
    """Seconds or milliseconds, three digits."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first to the left."""
    full = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(map(len, column)) for column in zip(*full)]
    return "\n".join(
        "  ".join(text.rjust(width) if i else text.ljust(width) for i, (text, width) in enumerate(zip(line, widths)))
        for line in lines
    )
