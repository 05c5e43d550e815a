"""Times networks, steps of training, or samplings, in JAX and, where it is installed, in torch on the same device, in turns in
one run.

    python -m launch.benchmark --suite networks
    python -m launch.benchmark --suite training --dtype bfloat16
    python -m launch.benchmark --suite sampling --dtype bfloat16 --only svd_unet
    python -m launch.benchmark --only unet vae_decode --dtype bfloat16 --repeats 10 --output results.json

Needs jax, flax, optax, einops and numpy, nothing else; torch, diffusers and transformers, where importable, are the other side
(eager on a CPU, eager and torch.compile on a GPU). Compilation is timed apart. What the columns mean: docs/performance.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax
from absl import flags

from launch import cli
from launch.benchmarks import report
from launch.benchmarks.command import checked_output, chosen, joined
from launch.benchmarks.suite import SUITES, run_suite
from portrait_jax.errors import DeviceError, listed

SUITE = flags.DEFINE_string("suite", "networks", f"What to time: {', '.join(SUITES)}.")
ONLY = flags.DEFINE_list("only", [], "Names of the suite's networks, separated by spaces or commas; default all.")
SIZE = flags.DEFINE_enum("size", "full", ["full", "small"], "Published sizes, or small ones that only show it runs.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of parameters and computation, both sides.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Samples per network and side.", lower_bound=1)
TORCH = flags.DEFINE_enum("torch", "auto", ["auto", "never"], "Compare with torch where it is installed, or never.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file for machine, versions and all timings.")


def main() -> None:
    """Runs the chosen part of the suite; prints the table, writes the results."""
    suite, names = chosen(SUITE.value, ONLY.value)
    output = None if OUTPUT.value is None else checked_output(Path(OUTPUT.value))
    # Before any device is touched: torch needs its share of a GPU's memory, and a cached program compiles in no time.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax.config.update("jax_enable_compilation_cache", False)
    rows = run_suite(
        SUITES[suite],
        names,
        size=SIZE.value,
        dtype=DTYPE.value,
        repeats=REPEATS.value,
        torch=TORCH.value == "auto",
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    made = report.document(suite, rows)
    print(report.heading(made), report.table(rows), *report.remarks(rows), sep="\n")
    if output is not None:
        report.write(output, made)
    if failed := [row["name"] for row in rows if "error" in row]:
        raise DeviceError(f"no room in the device's memory for {listed(failed)}; try --dtype=bfloat16 or --torch=never")


if __name__ == "__main__":
    sys.argv[:] = joined(sys.argv)
    cli.run(main, __doc__)
