"""Wall-clock times of several ways to do the same, taken in turns, so that what slows the machine slows all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

SHORTEST = 0.05
"""Seconds that a sample lasts at least: quicker runs are repeated inside it."""

Run = Callable[[], object]
"""Does the work and returns when it is done."""


def seconds(run: Run, times: int = 1) -> tuple[float, float]:
    """Mean duration of one of `times` runs in a row, and the processor time it took on all cores together."""
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times, (time.process_time() - busy) / times


def interleaved(
    runs: Mapping[str, Run], repeats: int, shortest: float = SHORTEST
) -> dict[str, list[tuple[float, float]]]:
    """`repeats` samples (`seconds`) of every run, in turns, the first of each turn changing. Runs must be warm."""
    inner = {name: max(1, math.ceil(shortest / max(seconds(run)[0], 1e-7))) for name, run in runs.items()}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(seconds(runs[name], inner[name]))
    return samples


def summary(samples: Sequence[tuple[float, float]]) -> dict[str, float | list[float]]:
    """Median, quartiles and best duration, the median processor time, and the durations themselves, in seconds."""
    durations = [duration for duration, _ in samples]
    low, median, high = (float(x) for x in np.percentile(durations, (25, 50, 75)))
    return {
        "median_s": median,
        "low_s": low,
        "high_s": high,
        "best_s": min(durations),
        "processor_s": float(np.median([busy for _, busy in samples])),
        "samples_s": durations,
    }
