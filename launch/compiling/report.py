"""What compiling a program tells, as data and as lines for people."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import jax

from launch import executables
from launch.benchmarks.flops import flops
from launch.compiling import hlo
from launch.compiling.machines import GIB, Machine
from launch.compiling.programs import Program
from portrait_jax.media.files import atomic_output
from portrait_jax.typing import PyTree

SCHEMA = 1
SHOWN = 5
"""Largest arrays that the terminal shows."""


def compiled(program: Program, machine: Machine, quick: bool = True) -> dict[str, Any]:
    """Compiles a program and says what it takes; a program that the compiler refuses for its memory is one that does not fit.

    Args:
        quick: compile with less effort: convolutional networks take minutes otherwise.
    """
    counted = flops(program.traced.jaxpr)
    begin, failure, executable, before = perf_counter(), "", None, Counter(executables.counts)
    lowered = program.traced.lower()
    try:
        executable = lowered.compile(compiler_options=effort(machine) if quick else None)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        failure = str(error)
    seconds = perf_counter() - begin
    found: dict[str, Any] = {
        "fits": False,
        "compile_seconds": round(seconds, 1),
        "flops": counted * program.steps,
        "flops_per_chip": counted * program.steps / len(machine.devices),
        "parameters_per_chip_gib": {name: held(tree) for name, tree in program.parameters.items()},
        "memory_of_chip_gib": machine.chip.memory_gib,
    }
    if executable is None:
        return {**found, "refused": failure.splitlines()[:20]}
    memory, text = executable.memory_analysis(), executable.as_text()
    peak = peak_bytes(memory)
    return {
        **found,
        "cache": executables.fate(before),
        "fits": peak <= machine.chip.memory_gib * GIB,
        "peak_gib": peak / GIB,
        "arguments_gib": memory.argument_size_in_bytes / GIB,
        "temporaries_gib": memory.temp_size_in_bytes / GIB,
        "collectives": hlo.collectives(text),
        "largest": hlo.largest(text),
        "ideal_seconds": counted * program.steps / (len(machine.devices) * machine.chip.tflops * 1e12),
    }


def effort(machine: Machine) -> dict[str, Any] | None:
    """Compiler options for less effort."""
    return {"exec_time_optimization_effort": -1.0} if machine.chip.platform == "tpu" else None


def peak_bytes(memory: Any) -> int:
    """Of one device; where a compiler does not say it, all that is held at once at the most."""
    if peak := getattr(memory, "peak_memory_in_bytes", 0):
        return peak
    parts = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return parts - memory.alias_size_in_bytes


def held(tree: PyTree) -> float:
    """GiB of a placed tree on each device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        part = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(part) * leaf.dtype.itemsize
    return total / GIB


def document(found: dict[str, Any], **told: Any) -> dict[str, Any]:
    """`found` and what it is of: config, program, topology, mesh, versions, date."""
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: installed(name) for name in ("jax", "jaxlib", "libtpu", "flax")},
        **told,
        **found,
    }


def installed(name: str) -> str | None:
    """A package's version, if it is there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write(path: Path, made: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n")


def lines(made: dict[str, Any]) -> list[str]:
    """What a person wants to know first."""
    mesh = " ".join(f"{axis}={size}" for axis, size in made["mesh"].items())
    title = f"{made['config']} {made['program']} on {made['topology']} ({made['chip']}), {mesh}, batch {made['batch']}"
    held_by = made["parameters_per_chip_gib"]
    parameters = ", ".join(f"{name} {amount(size * GIB)}" for name, size in held_by.items())
    rows = [title]
    if "peak_gib" in made:
        word = "fits" if made["fits"] else "does NOT fit"
        rows.append(f"  {word}: peak {amount(made['peak_gib'] * GIB)} of {made['memory_of_chip_gib']} GiB per chip")
    else:
        rows.append(f"  does NOT fit: the compiler refuses it. {made['refused'][0]}")
    rows += [
        f"  parameters per chip: {parameters}",
        f"  {made['flops'] / 1e12:.4g} TFLOP, {made['flops_per_chip'] / 1e12:.4g} per chip; "
        f"compiled in {made['compile_seconds']} s",
    ]
    if made.get("cache"):
        rows.append(f"  compilation cache: {made['cache']}")
    for kind, total in made.get("collectives", {}).items():
        rows.append(f"  {kind}: {total['count']}, {amount(total['bytes'])} together")
    for array in made.get("largest", [])[:SHOWN]:
        rows.append(f"  {amount(array['bytes'])}  {array['shape']}  {array['name']}")
    return rows


def estimate_lines(made: dict[str, Any]) -> list[str]:
    """What `estimates.estimated` found, for a person."""
    mesh = " ".join(f"{axis}={size}" for axis, size in made["mesh"].items())
    word = "may fit" if made["about_gib"] <= made["memory_of_chip_gib"] else "will hardly fit"
    word = word if made["fits"] else "does NOT fit, its state alone"
    return [
        f"{made['config']} train on {made['topology']} ({made['chip']}), {mesh}, batch {made['batch']}: nothing was compiled",
        f"  {word}: about {amount(made['about_gib'] * GIB)} of {made['memory_of_chip_gib']} GiB per chip",
        *(f"  {amount(size * GIB)}  {name}" for name, size in made["memory_gib"].items()),
        f"  {made['flops'] / 1e12:.4g} TFLOP, {made['flops_per_chip'] / 1e12:.4g} per chip",
    ]


def sampling_lines(made: dict[str, Any]) -> list[str]:
    """What `estimates.sampled` found, for a person."""
    mesh = " ".join(f"{axis}={size}" for axis, size in made["mesh"].items())
    word = "may fit" if made["fits"] else "does NOT fit, its parameters alone"
    return [
        f"{made['config']} sample on {made['topology']} ({made['chip']}), {mesh}: nothing was compiled",
        f"  {word}: {amount(made['parameters_gib'] * GIB)} of parameters, of {made['memory_of_chip_gib']} GiB per chip",
        *(f"  {count / 1e12:.4g} TFLOP  {name}" for name, count in made["flops"].items()),
    ]


def amount(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
