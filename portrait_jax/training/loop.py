"""The training loop, read from top to bottom: state, resume, steps, checkpoints.

Why runs resume exactly: step n's random numbers are fold_in(seed, n); the data state is saved with the train state,
before the loader gives the next batch; the compiled step is the same.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from portrait_jax.errors import ConfigError, PortraitError, nearest
from portrait_jax.sharding.mesh import check_batch_size, make_mesh, shard_batch
from portrait_jax.sharding.rules import shardings
from portrait_jax.training.checkpoints import Checkpoints, Meta
from portrait_jax.training.journal import METRICS_FILE, Journal, JsonLines, Writer
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.params import initialise
from portrait_jax.training.progress import TrainProgress
from portrait_jax.training.state import TrainState, create_state, partition
from portrait_jax.training.step import make_train_step
from portrait_jax.training.task import LoopOptions, Stage, Task
from portrait_jax.typing import Params, PRNGKeyArray, PyTree

NOT_FINITE_LIMIT = 20
"""Steps in a row with a loss that is not finite before training gives up."""
COMPILE_ONCE = {"xla_backend_optimization_level": 0}
"""For a program that runs once: on a CPU, LLVM takes ten times longer to optimise hundreds of random initialisers."""


@runtime_checkable
class Loader(Protocol):
    """Batches without end, with a state that says which comes next."""

    def __next__(self) -> Mapping[str, np.ndarray]: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


def train(
    task: Task,
    stage_name: str,
    loader: Loader,
    workdir: str | Path,
    *,
    options: LoopOptions | None = None,
    config: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    writers: Sequence[Writer] = (),
    root: str | Path | None = None,
    quiet: bool = False,
) -> TrainState:
    """Trains one stage to its last step, going on where an earlier run of the same workdir was saved.

    What a run starts from, in this order: its own newest checkpoint in `workdir`; else `task.init`, overridden by the
    stage's `init_from`.

    Args:
        task: gives parameters and loss.
        stage_name: a name in `task.stages`.
        loader: gives this host's part of each batch; the caller closes it.
        workdir: the run's directory: `checkpoints/` and `metrics.jsonl` are written there.
        options: seed and intervals; default `LoopOptions()`.
        config: JSON-able; saved with every checkpoint and exported with the parameters.
        mesh: default all devices on the data axis.
        writers: get the same numbers as `metrics.jsonl`, and the task's sample images; they are closed at the end.
        root: what `{workdir}` in `init_from` stands for; default the parent of `workdir`.
        quiet: no progress display.

    Returns:
        the state after the last step.

    Raises:
        ConfigError: for an unknown stage, patterns that match nothing, or a batch that does not fit the mesh.
        CheckpointError: for a damaged checkpoint or one with other parameters.
        PortraitError: if the loss stays infinite or not a number.
        KeyboardInterrupt: after SIGINT or SIGTERM, once the state is saved.
    """
    workdir, options = Path(workdir), options or LoopOptions()
    root = workdir.parent if root is None else root
    if stage_name not in task.stages:
        raise ConfigError(f"{task.name} has no stage '{stage_name}'{nearest(stage_name, list(task.stages))}")
    stage = task.stages[stage_name]
    mesh = make_mesh() if mesh is None else mesh
    optimizer = make_optimizer(stage)
    check_batch_size(stage.batch_size, stage.optimizer.accumulate, mesh)
    first_host = jax.process_index() == 0
    meta: Meta = {"data": loader.get_state(), "config": dict(config or {}), "stage": stage_name}

    with jax.set_mesh(mesh), Checkpoints(workdir, options.keep) as checkpoints, stop_signal() as stop:
        resume = checkpoints.latest_step() is not None
        state = initial_state(task, stage_name, options.seed, mesh, root, load=not resume)
        if resume:
            state, meta = checkpoints.restore(state)
            loader.set_state(meta["data"])
            meta["config"] = dict(config or {})
        placed = jax.tree.map(lambda leaf: leaf.sharding, state)
        train_step = make_train_step(task, stage_name, optimizer, mesh, placed)
        start = int(state.step)
        own = [JsonLines(workdir / METRICS_FILE, start)] if first_host else []
        journal = Journal([*own, *writers] if first_host else [], options.log_every)
        title = f"{task.name}:{stage_name}"
        quiet = quiet or not first_host
        with contextlib.closing(journal), TrainProgress(title, start, stage.steps, quiet=quiet) as progress:
            if start:
                progress.note(f"resuming {workdir} at step {start}")
            report = Report(journal, progress, stage.steps)
            for step in range(start + 1, stage.steps + 1):
                batch = shard_batch(next(loader), mesh)
                state, metrics = train_step(state, batch)
                report.read_previous(step, metrics)
                stopping = stop.asked or checkpoints.preempted(step)
                if step % options.checkpoint_every == 0 or step == stage.steps or stopping:
                    report.flush()
                    checkpoints.save(state, {**meta, "data": loader.get_state()})
                if options.sample_every and (step % options.sample_every == 0 or step == stage.steps):
                    draw(task, state, batch, stage_name, step, journal)
                if stopping:
                    checkpoints.wait()
                    progress.note(f"stopped at step {step}; the same command goes on from there")
                    raise KeyboardInterrupt
        checkpoints.wait()
    return state


def initial_state(
    task: Task, stage_name: str, seed: int, mesh: Mesh, root: str | Path, *, load: bool = True
) -> TrainState:
    """The state before the first step, sharded by the rules from the start (no device ever holds a whole large leaf).

    Args:
        load: read the stage's `init_from`; a run that is about to be restored needs not.
    """
    stage: Stage = task.stages[stage_name]
    init_key, run_key = jax.random.split(jax.random.key(seed))

    def init(key: PRNGKeyArray) -> Params:
        return task.init(key, stage_name)

    # One function, so that jax traces it once for its shapes and its program.
    shapes = jax.eval_shape(init, init_key)
    partition(shapes, stage.trainable)  # complains about patterns before anything is computed
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    options = COMPILE_ONCE if on_cpu else None
    params = jax.jit(init, out_shardings=shardings(shapes, mesh), compiler_options=options)(init_key)
    if load:
        params = initialise(params, stage.init_from, stage.allow_missing, root=root)

    def create(params: Params) -> TrainState:
        return create_state(params, stage, make_optimizer(stage), run_key)

    placed = shardings(jax.eval_shape(create, params), mesh)
    return jax.jit(create, out_shardings=placed, donate_argnums=0)(params)


class Report:
    """Reads metrics one step late: step N is dispatched before the numbers of N−1 are waited for."""

    def __init__(self, journal: Journal, progress: TrainProgress, total: int) -> None:
        self._journal, self._progress, self._total = journal, progress, total
        self._pending: tuple[int, PyTree] | None = None
        self._broken = 0

    def read_previous(self, step: int, metrics: PyTree) -> None:
        """Keeps this step's metrics and records those of the step before."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Records what is pending.

        Raises:
            PortraitError: if the loss was not finite for many steps in a row.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._journal.record(step, values, last=step == self._total)
        self._progress.update(step, values)
        self._broken = 0 if math.isfinite(values["loss"]) else self._broken + 1
        if self._broken >= NOT_FINITE_LIMIT:
            raise PortraitError(
                f"the loss was not finite for {NOT_FINITE_LIMIT} steps up to step {step}; "
                "lower train.lr or set train.clip_norm, then go on from an earlier checkpoint"
            )


def draw(task: Task, state: TrainState, batch: PyTree, stage: str, step: int, journal: Journal) -> None:
    """Lets the task draw its progress with the averaged parameters; the same random numbers each time."""
    samples = getattr(task, "samples", None)
    if samples is not None:
        rng = jax.random.wrap_key_data(jnp.asarray(state.rng))
        journal.images(step, samples(state.averaged_params, batch, rng, stage))


class Stop:
    """Whether a signal asked the run to end."""

    asked = False


@contextlib.contextmanager
def stop_signal() -> Iterator[Stop]:
    """Turns the first SIGINT or SIGTERM into a request to stop after the current step; a second one acts at once."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    before: dict[int, Any] = {}
    # Only the main thread may set handlers; elsewhere (notebook servers) signals keep their meaning.
    with contextlib.suppress(ValueError):
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
