"""Runs a suite, one network after the other, and gathers what `report` prints and writes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from launch.benchmarks.backbones import DENOISERS
from launch.benchmarks.networks import NETWORKS, Network
from launch.benchmarks.sides import Side, jax_side, torch_absence, torch_sides
from launch.benchmarks.timing import interleaved, summary
from launch.benchmarks.uses import FORWARD, SAMPLING, TRAINING, Use, peak


class Suite(NamedTuple):
    """Networks by name, what is done with each, and whether that is compared with the device's best product of matrices."""

    networks: Mapping[str, Network]
    use: Use
    utilised: bool


SUITES: dict[str, Suite] = {
    "networks": Suite(NETWORKS, FORWARD, False),
    "training": Suite(DENOISERS, TRAINING, True),
    "sampling": Suite(DENOISERS, SAMPLING, True),
}

Say = Callable[[str], None]


def run_suite(
    suite: Suite, names: Sequence[str], *, size: str, dtype: str, repeats: int, torch: bool, say: Say
) -> list[dict[str, Any]]:
    """One row per network, in the order of `names`. Only one network is in memory at a time, in JAX and in torch.

    `say` hears what is being done. A network that does not fit in memory gives a row with an `error`.
    """
    rows = []
    limit = peak(dtype) if suite.utilised else None
    for name in names:
        network = suite.networks[name]
        try:
            row = run_network(name, network, size, dtype, repeats, torch, say, suite.use)
            rows.append(row if limit is None else row | utilisation(row["sides"], limit))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            rows.append(heading(name, network, size, dtype) | {"error": "it does not fit in memory"})
        free()
    return rows


def run_network(
    name: str, network: Network, size: str, dtype: str, repeats: int, torch: bool, say: Say, use: Use = FORWARD
) -> dict[str, Any]:
    """Times JAX and torch in turns; what of torch is missing is noted with its reason."""
    platform = jax.default_backend()
    say(f"{name}: compiling")
    sides = {"jax": jax_side(network, size, dtype, use)}
    absence = torch_absence(platform) if torch else "not asked for"
    skipped = {} if absence is None else {"torch": absence}
    if absence is None:
        say(f"{name}: preparing torch")
        try:
            originals, skipped = torch_sides(name, network, size, dtype, platform, use)
            sides |= originals
        except (ImportError, AttributeError) as error:
            skipped = {"torch": f"the original is not at hand: {error}"}
    say(f"{name}: timing {', '.join(sides)}")
    samples = interleaved({way: side.run for way, side in sides.items()}, repeats)
    results = {way: result(sides[way], samples[way], sides["jax"].facts["flops"]) for way in sides}
    return heading(name, network, size, dtype) | {
        "sides": results,
        "ratios": {way: results["jax"]["median_s"] / results[way]["median_s"] for way in results if way != "jax"},
        "skipped": skipped,
    }


def heading(name: str, network: Network, size: str, dtype: str) -> dict[str, Any]:
    """What was to be run."""
    inputs = {key: list(entry.shape) for key, entry in network.size(size).inputs.items()}
    return {"name": name, "title": network.title, "size": size, "dtype": dtype, "inputs": inputs}


def result(side: Side, samples: Sequence[tuple[float, float]], flops: float) -> dict[str, Any]:
    """Times of one side, with what was noted when it was made; all sides are credited with the same operations."""
    times = summary(samples)
    return side.facts | times | {"gflop_per_s": flops / times["median_s"] / 1e9}


def utilisation(sides: Mapping[str, Mapping[str, Any]], limit: float) -> dict[str, Any]:
    """The device's best, operations a second, and the share of it that each side reaches."""
    shares = {way: 1e9 * side["gflop_per_s"] / limit for way, side in sides.items()}
    return {"peak_gflop_per_s": limit / 1e9, "utilisation": shares}


def free() -> None:
    """Gives a network's memory back before the next one is made."""
    jax.clear_caches()
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.compiler.reset()
        torch.cuda.empty_cache()
