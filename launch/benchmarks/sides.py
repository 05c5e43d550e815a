"""The sides that are compared, made ready to run: JAX compiled ahead of time, and torch where it can use the device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.networks import Network
from launch.benchmarks.uses import FORWARD, Use, runner, traced

TORCH_DEVICES = {"cpu": "cpu", "gpu": "cuda"}
"""JAX's platform → torch's name of the same device."""


@dataclass
class Side:
    """`run()` is one forward, over when it returns; `facts` go into the results beside the times."""

    run: Callable[[], Any]
    facts: dict[str, Any] = field(default_factory=dict)


def jax_side(network: Network, size: str, dtype: str, use: Use = FORWARD) -> Side:
    """Traces and compiles once, apart from the run; parameters (unless they are trained), inputs and computation in `dtype`."""
    module = network.module(size, jnp.dtype(dtype))
    variables = network.variables(size, jnp.dtype("float32" if use.trained else dtype))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
    inputs = {name: on_device(entry.draw(), dtype) for name, entry in network.size(size).inputs.items()}
    traces = []

    def forward(variables, inputs):
        traces.append(None)
        return network.call(partial(module.apply, variables), **inputs)

    state = use.state(variables)
    del variables
    start = time.perf_counter()
    program, operations = traced(use, forward, state, inputs)
    lowered = program.lower()
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()

    run = runner(use, compiled, state, inputs)
    del state
    first = run()
    facts = {
        "trace_s": middle - start,
        "compile_s": end - middle,
        "first_run_s": time.perf_counter() - end,
        "traces": len(traces),
        "parameters": parameters,
        "outputs": sum(leaf.size for leaf in jax.tree.leaves(first)),
        "flops": operations,
        "xla_flops": float((compiled.cost_analysis() or {}).get("flops", 0)),
        "bytes": device_bytes(compiled),
    }
    return Side(run, facts)


def on_device(array: np.ndarray, dtype: str) -> jax.Array:
    """Integers as they are, the rest as `dtype`."""
    return jax.device_put(array if array.dtype == np.int32 else array.astype(jnp.dtype(dtype)))


def device_bytes(compiled: Any) -> dict[str, int]:
    """What the compiled program needs of the device's memory, by purpose, as far as the backend tells."""
    analysis = compiled.memory_analysis()
    purposes = ("argument", "output", "temp", "alias")
    return {name: int(getattr(analysis, f"{name}_size_in_bytes", 0)) for name in purposes}


def torch_absence(platform: str) -> str | None:
    """Why there is nothing to compare with, or None."""
    if platform not in TORCH_DEVICES:
        return f"torch has no device '{platform}'"
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return "this torch sees no GPU" if platform == "gpu" and not torch.cuda.is_available() else None


def torch_sides(
    name: str, network: Network, size: str, dtype: str, platform: str, use: Use = FORWARD
) -> tuple[dict[str, Side], dict[str, str]]:
    """Eager torch and, on a GPU, `torch.compile`, on the inputs of the JAX side in torch's layout; and what of it failed, and why.

    Raises ImportError where the library that holds the original is missing.
    """
    import torch

    from launch.benchmarks.torch_backbones import ORIGINALS

    # Like JAX: all processors that this process may use; TensorFloat-32 products on a GPU.
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high" if platform == "gpu" else "highest")
    device, kind = torch.device(TORCH_DEVICES[platform]), getattr(torch, dtype)
    chosen = network.size(size)
    inputs = {}
    for key, entry in chosen.inputs.items():
        array = entry.draw()
        array = array if entry.torch is None else einops.rearrange(array, entry.torch)
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        inputs[key] = tensor.to(kind) if tensor.is_floating_point() else tensor.long()
    with torch.device(device):
        model, call = ORIGINALS[name](chosen.config, inputs)
    model = model.to(device).eval().requires_grad_(False)
    if kind != torch.float32 and not use.trained:  # diffusers warns of every cast
        model = model.to(kind)
    forward = use.torch(torch, model, call, kind)
    ways = {"torch": forward} | ({"torch.compile": torch.compile(forward)} if platform == "gpu" else {})
    made, failed = {}, {}
    for way, function in ways.items():
        try:
            made[way] = torch_side(torch, function, inputs, model, platform)
        except RuntimeError as error:  # no memory, or no compiler
            failed[way] = str(error).strip().partition("\n")[0]
    return made, failed


def torch_side(torch: Any, function: Callable, inputs: dict[str, Any], model: Any, platform: str) -> Side:
    """Runs once, which compiles where there is something to compile."""

    def run():
        out = function(**inputs)
        if platform == "gpu":
            torch.cuda.synchronize()
        return out

    start = time.perf_counter()
    first = run()
    facts = {
        "first_run_s": time.perf_counter() - start,
        "parameters": sum(value.numel() for value in model.parameters()),
        "outputs": sum(x.numel() for x in ([first] if hasattr(first, "numel") else first)),
    }
    return Side(run, facts)
