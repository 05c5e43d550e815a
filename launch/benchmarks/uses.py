"""What a suite does with a network: one forward, one step of training, or a whole sampling; in JAX, and the same in torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from launch.benchmarks.flops import flops
from portrait_jax.diffusion.guidance import classifier_free
from portrait_jax.diffusion.schedule import make_schedule
from portrait_jax.diffusion.solvers import make_solver
from portrait_jax.typing import Array, PyTree

Inputs = Mapping[str, Array]
Forward = Callable[[PyTree, Inputs], Any]
"""(parameters, inputs) → what the network gives."""
LEARNING_RATE = 1e-5
STEPS, SCALE = 10, 2.0
"""Of a sampling: solver steps, and the guidance's scale, for which the network runs on two branches."""


@dataclass(frozen=True)
class Use:
    """One way to use a network.

    Attributes:
        state: parameters → what the program carries from run to run.
        program: forward → (state, inputs) → (next state, result); or, if nothing `carries`, → the result.
        carries: whether the state is given away and comes back.
        trained: whether parameters are float32 whatever is computed in.
        flops: (the program's jaxpr, forward's) → operations that count; what is computed anew does not.
        torch: the same of (torch, model, call, kind of number) → a function of the inputs by name.
    """

    state: Callable[[PyTree], PyTree]
    program: Callable[[Forward], Callable[[PyTree, Inputs], Any]]
    carries: bool
    trained: bool
    flops: Callable[[Any, Callable[[], Any]], float]
    torch: Callable[[Any, Any, Callable[..., Any], Any], Callable[..., Any]]


def forward_torch(torch: Any, model: Any, call: Callable[..., Any], kind: Any) -> Callable[..., Any]:
    """One forward without gradients."""

    def run(**inputs: Any) -> Any:
        with torch.inference_mode():
            return call(model, **inputs)

    return run


def optimizer() -> optax.GradientTransformation:
    return optax.adamw(LEARNING_RATE)


def training_state(params: PyTree) -> PyTree:
    """Parameters, and what AdamW knows of them."""
    return params, optimizer().init(params)


def training_program(forward: Forward) -> Callable[[PyTree, Inputs], tuple[PyTree, Array]]:
    """Forward, backward and update; the loss is the mean square of the result, which costs what any other would."""

    def step(state: PyTree, inputs: Inputs) -> tuple[PyTree, Array]:
        params, moments = state
        loss, gradient = jax.value_and_grad(lambda p: jnp.square(forward(p, inputs).astype(jnp.float32)).mean())(params)
        change, moments = optimizer().update(gradient, moments, params)
        return (optax.apply_updates(params, change), moments), loss

    return step


def training_torch(torch: Any, model: Any, call: Callable[..., Any], kind: Any) -> Callable[..., Any]:
    """The same with autocast."""
    model.train().requires_grad_(True)
    device = next(model.parameters()).device.type
    update = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=1e-4, fused=device == "cuda")

    def run(**inputs: Any) -> Any:
        update.zero_grad(set_to_none=True)
        with torch.autocast(device, kind, enabled=kind != torch.float32):
            loss = call(model, **inputs).float().square().mean()
        loss.backward()
        update.step()
        return loss.detach()

    return run


def sampling_program(forward: Forward) -> Callable[[PyTree, Inputs], Array]:
    """All solver steps with guidance, from the noise `x`; both branches in one batch."""
    solver = make_solver("ddim", make_schedule("scaled_linear"), STEPS, "epsilon")
    guide = classifier_free(SCALE)

    def sample(params: PyTree, inputs: Inputs) -> Array:
        noise, kind = inputs["x"], inputs["timestep"].dtype
        doubled = {name: jnp.concatenate([x, x]) for name, x in inputs.items()}
        timesteps = jnp.asarray(solver.timesteps)

        def step(state: PyTree, index: Array) -> tuple[PyTree, None]:
            x, time = solver.result(state).astype(noise.dtype), timesteps[index].astype(kind)
            given = {**doubled, "x": jnp.concatenate([x, x]), "timestep": jnp.full_like(doubled["timestep"], time)}
            first, second = jnp.split(forward(params, given), 2)
            predicted = guide.combine(dict(zip(guide.branches, (first, second))))
            return solver.step(state, predicted.astype(jnp.float32), index, None), None

        state = solver.init(noise.astype(jnp.float32), None)
        state, _ = jax.lax.scan(step, state, jnp.arange(solver.steps))
        return solver.result(state)

    return sample


def sampling_torch(torch: Any, model: Any, call: Callable[..., Any], kind: Any) -> Callable[..., Any]:
    """As many forwards on as many examples; between them the noise is only taken off, which costs nothing beside."""

    def run(**inputs: Any) -> Any:
        with torch.inference_mode():
            doubled = {name: torch.cat([x, x]) for name, x in inputs.items()}
            for _ in range(STEPS):
                first, second = call(model, **doubled).chunk(2)
                x = doubled["x"].chunk(2)[0] - (second + SCALE * (first - second)) / STEPS
                doubled["x"] = torch.cat([x, x])
            return doubled["x"]

    return run


FORWARD = Use(lambda params: params, lambda forward: forward, False, False, lambda own, _: flops(own), forward_torch)
TRAINING = Use(training_state, training_program, True, True, lambda _, forward: 3 * flops(forward()), training_torch)
"""A backward pass is credited with twice the forward's operations."""
SAMPLING = Use(lambda params: params, sampling_program, False, False, lambda own, _: flops(own), sampling_torch)


def traced(use: Use, forward: Forward, state: PyTree, inputs: Inputs) -> tuple[Any, float]:
    """The traced program (`jax.stages.Traced`), and its operations."""
    program = jax.jit(use.program(forward), donate_argnums=(0,) if use.carries else ())
    made = program.trace(state, inputs)
    params = state[0] if use.carries else state
    return made, use.flops(made.jaxpr, lambda: jax.make_jaxpr(forward)(params, inputs))


def runner(use: Use, compiled: Callable[[PyTree, Inputs], Any], state: PyTree, inputs: Inputs) -> Callable[[], Any]:
    """Runs a compiled program once a call, from where the call before left the state."""
    if not use.carries:
        return lambda: jax.block_until_ready(compiled(state, inputs))
    held = [state]

    def run() -> Any:
        held[0], result = compiled(held[0], inputs)
        return jax.block_until_ready(result)

    return run


def peak(dtype: str) -> float:
    """Operations a second of a large product of matrices on the default device: what utilisation is measured against."""
    side, times = (8192, 20) if jax.default_backend() != "cpu" else (2048, 2)
    x = jnp.ones((side, side), jnp.dtype(dtype)) / side

    @jax.jit
    def products(x: Array) -> Array:
        return jax.lax.fori_loop(0, times, lambda _, y: y @ x, x)

    best = float("inf")
    jax.block_until_ready(products(x))
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(products(x))
        best = min(best, time.perf_counter() - start)
    return 2.0 * side**3 * times / best
