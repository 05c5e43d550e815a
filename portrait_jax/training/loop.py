"""The training loop, read from top to bottom: state, resume, steps, checkpoints.

Why runs resume exactly: step n's random numbers are fold_in(seed, n); the data state is saved with the train state,
before the loader gives the next batch; the compiled step is the same.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from portrait_jax.errors import ConfigError, InputFileError, PortraitError, nearest
from portrait_jax.progress import Bars
from portrait_jax.sharding.mesh import check_batch_size, make_mesh, shard_batch
from portrait_jax.sharding.rules import shardings
from portrait_jax.training.checkpoints import Checkpoints, Meta, latest_step, restore
from portrait_jax.training.journal import METRICS_FILE, Journal, JsonLines, Writer
from portrait_jax.training.optimizers import make_optimizer
from portrait_jax.training.params import overlay, read_sources
from portrait_jax.training.state import TrainState, create_state, partition
from portrait_jax.training.step import Batch, TrainStep, make_train_step
from portrait_jax.training.task import LoopOptions, Stage, Task
from portrait_jax.typing import Params, PRNGKeyArray, PyTree

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
    writers: Callable[[int], Sequence[Writer]] = lambda start: (),
    root: str | Path | None = None,
    quiet: bool = False,
) -> TrainState:
    """Trains one stage to its last step, going on where an earlier run of the same workdir was saved.

    What a run starts from, in this order: its own newest checkpoint in `workdir`; else `task.init`, overridden by the
    stage's `init_from`. Nothing is written before the step is compiled, and until then signals act as everywhere.

    Args:
        task: gives parameters and loss.
        stage_name: a name in `task.stages`.
        loader: gives this host's part of each batch; the caller closes it.
        workdir: the run's directory: `checkpoints/` and `metrics.jsonl` are written there.
        options: seed and intervals; default `LoopOptions()`.
        config: JSON-able; saved with every checkpoint and exported with the parameters.
        mesh: default all devices on the data axis.
        writers: called with the steps done before this run, on the first host only; what it returns gets the same
            numbers as `metrics.jsonl`, and the task's sample images, and is closed at the end.
        root: what `{workdir}` in `init_from` stands for; default the parent of `workdir`.
        quiet: no progress display.

    Returns:
        the state after the last step.

    Raises:
        ConfigError: for an unknown stage, patterns that match nothing, or a batch that does not fit the mesh.
        CheckpointError: for a damaged checkpoint, one with other parameters, or an `init_from` that is not there.
        InputFileError: if the workdir cannot be written.
        PortraitError: if too many steps in a row are skipped, since their loss or gradient is not finite.
        KeyboardInterrupt: after SIGINT or SIGTERM, once the state is saved.
    """
    workdir, options = Path(workdir), options or LoopOptions()
    root = workdir.parent if root is None else root
    if stage_name not in task.stages:
        raise ConfigError(f"{task.name} has no stage '{stage_name}'{nearest(stage_name, list(task.stages))}")
    stage = task.stages[stage_name]
    mesh = make_mesh() if mesh is None else mesh
    check_batch_size(stage.batch_size, stage.optimizer.accumulate, mesh)
    title = f"{task.name}:{stage_name}"
    progress = Bars("steps", quiet=quiet or jax.process_index() > 0)

    with jax.set_mesh(mesh):
        progress.note(f"{title}: starting")
        state = starting_state(task, stage_name, loader, workdir, options.seed, mesh, root)
        start = int(state.step)
        if start >= stage.steps:
            progress.note(f"{workdir} is at step {start} already; nothing to do")
            return state
        if start:
            progress.note(f"going on in {workdir} at step {start}")
        batch = shard_batch(next(loader), mesh)
        train_step = compiled_step(task, stage_name, mesh, state, batch)
        meta: Meta = {"config": dict(config or {}), "stage": stage_name}
        with stop_signal() as stop, opened(workdir, options, start, writers) as (checkpoints, journal), progress:
            report = Report(journal, progress, title, start, stage.steps, options.skip_limit)
            for step in range(start + 1, stage.steps + 1):
                state, metrics = train_step(state, batch)
                report.read_previous(step, metrics)
                stopping = stop.asked or checkpoints.preempted(step)
                if step % options.checkpoint_every == 0 or step == stage.steps or stopping:
                    report.flush()
                    checkpoints.save(state, {**meta, "data": loader.get_state()}, report.mean_loss())
                if options.sample_every and (step % options.sample_every == 0 or step == stage.steps):
                    draw(task, state, batch, stage_name, step, journal)
                if stopping:
                    checkpoints.wait()
                    raise KeyboardInterrupt(f"step {step} is saved; the same command goes on from there")
                if step < stage.steps:
                    batch = shard_batch(next(loader), mesh)
            checkpoints.wait()
    return state


def starting_state(
    task: Task, stage_name: str, loader: Loader, workdir: Path, seed: int, mesh: Mesh, root: str | Path
) -> TrainState:
    """What `train` says a run starts from; the loader is set to it. Writes nothing."""
    if latest_step(workdir) is None:
        return initial_state(task, stage_name, seed, mesh, root)
    state, meta = restore(workdir, state_shapes(task, stage_name, mesh))
    loader.set_state(meta["data"])
    return state


def initial_state(task: Task, stage_name: str, seed: int, mesh: Mesh, root: str | Path) -> TrainState:
    """The state before the first step, sharded by the rules from the start (no device ever holds a whole large leaf).

    What can be wrong with the stage's patterns and sources shows before anything is computed.
    """
    stage: Stage = task.stages[stage_name]
    init_key, run_key = jax.random.split(jax.random.key(seed))
    create = functools.partial(create_state, stage=stage, optimizer=make_optimizer(stage), rng=run_key)
    init, shapes = init_shapes(task, stage_name)
    found = read_sources(
        shapes, stage.init_from, stage.allow_missing,
        root=root, allow_unused=stage.allow_unused, fit_inputs=stage.fit_inputs, rename=stage.rename,
        restore=stage.restore, restore_from=stage.restore_from,
    )  # fmt: skip
    params = overlay(run_once(init, init_key, shardings(shapes, mesh)), found)
    placed = shardings(jax.eval_shape(create, params), mesh)
    return jax.jit(create, out_shardings=placed, donate_argnums=0)(params)


def run_once(init: Callable[[PRNGKeyArray], Params], key: PRNGKeyArray, placed: PyTree = None) -> Params:
    """`init(key)` as one program that is compiled quickly; operation by operation it would be hundreds of programs.

    Args:
        placed: shardings of the result; None leaves it on one device.
    """
    options = COMPILE_ONCE if jax.default_backend() == "cpu" else None
    return jax.jit(init, out_shardings=placed, compiler_options=options)(key)


def state_shapes(task: Task, stage_name: str, mesh: Mesh | AbstractMesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, with nothing computed: what a checkpoint is restored into."""
    stage: Stage = task.stages[stage_name]
    create = functools.partial(create_state, stage=stage, optimizer=make_optimizer(stage), rng=jax.random.key(0))
    state = jax.eval_shape(create, init_shapes(task, stage_name)[1])
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings(state, mesh),
    )


def init_shapes(task: Task, stage_name: str) -> tuple[Callable[[PRNGKeyArray], Params], Params]:
    """The stage's `init` as one function, so that jax traces it once for its shapes and its program; and the shapes.

    Raises:
        ConfigError: for patterns of trainable leaves that match nothing.
    """

    def init(key: PRNGKeyArray) -> Params:
        return task.init(key, stage_name)

    shapes = jax.eval_shape(init, jax.random.key(0))
    partition(shapes, task.stages[stage_name].patterns)
    return init, shapes


def compiled_step(task: Task, stage_name: str, mesh: Mesh, state: TrainState, batch: Batch) -> TrainStep:
    """The step's program for this state and such batches: what is wrong with them shows before anything is written."""
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_train_step(task, stage_name, make_optimizer(task.stages[stage_name]), mesh, placed)
    return step.lower(state, batch).compile()


@contextlib.contextmanager
def opened(
    workdir: Path, options: LoopOptions, start: int, writers: Callable[[int], Sequence[Writer]]
) -> Iterator[tuple[Checkpoints, Journal]]:
    """Everything that a run writes to, made and closed together; numbers and pictures on the first host only.

    Raises:
        InputFileError: if the workdir cannot be written.
    """
    first_host = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        try:
            checkpoints = stack.enter_context(Checkpoints(workdir, options.keep, options.keep_best, start))
            own = [JsonLines(workdir / METRICS_FILE, start), *writers(start)] if first_host else []
        except OSError as error:
            raise InputFileError(f"cannot write the run to {workdir}: {error}; choose another workdir") from error
        yield checkpoints, stack.enter_context(contextlib.closing(Journal(own, options.log_every)))


class Report:
    """Reads metrics one step late: step N is dispatched before the numbers of N−1 are waited for."""

    def __init__(self, journal: Journal, progress: Bars, title: str, start: int, total: int, limit: int = 20) -> None:
        self._journal, self._progress, self._title, self._total, self._limit = journal, progress, title, total, limit
        self._pending: tuple[int, PyTree] | None = None
        self._skipped, self._losses = 0, []  # type: tuple[int, list[float]]
        progress.report(title, start, total)

    def mean_loss(self) -> float:
        """Of the steps that were not skipped since this was asked last; not a number if there is none."""
        losses, self._losses = self._losses, []
        return math.fsum(losses) / len(losses) if losses else math.nan

    def read_previous(self, step: int, metrics: PyTree) -> None:
        """Keeps this step's metrics and records those of the step before."""
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Records what is pending.

        Of a skipped step only that it was skipped is recorded.

        Raises:
            PortraitError: if too many steps in a row were skipped.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        skipped = values["skipped"] > 0
        self._journal.record(step, {"skipped": 1.0} if skipped else values, last=step == self._total)
        self._progress.report(self._title, step, self._total, "skipped" if skipped else f"loss {values['loss']:.4f}")
        self._skipped = self._skipped + 1 if skipped else 0
        if not skipped:
            self._losses.append(values["loss"])
        if self._skipped >= self._limit:
            raise PortraitError(
                f"loss or gradient were not finite in {self._limit} steps in a row, up to step {step}; look at the data, lower "
                "train.lr or set train.clip_norm, then go on from an earlier checkpoint"
            )


def draw(task: Task, state: TrainState, batch: PyTree, stage: str, step: int, journal: Journal) -> None:
    """Lets the task draw its progress with the averaged parameters; the same random numbers each time.

    Of several processes none draws: each holds only a part of what is to be seen.
    """
    samples = getattr(task, "samples", None)
    if samples is not None and jax.process_count() == 1:
        rng = jax.random.wrap_key_data(jnp.asarray(state.rng))
        journal.images(step, samples(state.averaged_params, batch, rng, stage))


class Stop:
    """Whether a signal asked the run to end."""

    asked = False


@contextlib.contextmanager
def stop_signal() -> Iterator[Stop]:
    """Turns the first SIGINT or SIGTERM into a request to stop after the current step; a second one acts at once.

    Of several processes one alone must not stop: there jax's own service hears SIGTERM, and all agree on the step
    (`Checkpoints.preempted`).
    """
    stop = Stop()
    if jax.process_count() > 1:
        yield stop
        return

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
