"""Checkpoints of a run: the train state, the data state and the config, saved together, restored on any mesh.

Layout of a run's workdir: `checkpoints/<step>/{params,optimizer,meta}`, and `seals/` with their checksums. The only module that
knows orbax. A step that was not written to its end carries no commit mark and is ignored; one that is damaged gives way to the
one before, with a warning.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from portrait_jax.errors import CheckpointError, ShapeError, listed
from portrait_jax.training import seals
from portrait_jax.training.state import TrainState
from portrait_jax.typing import PyTree

FOLDER = "checkpoints"
Found = TypeVar("Found")
Meta = dict[str, Any]
"""`{"data": loader state, "config": config, "stage": name}`: JSON-able."""


class DamagedError(CheckpointError):
    """A checkpoint's files are not what was written."""


def manager(workdir: Path, keep: int | None = None, best: int = 0, *, create: bool = False) -> ocp.CheckpointManager:
    """Orbax's manager of a workdir's checkpoints; of all that are made the newest `keep` stay, and the `best` of least loss."""
    policies = [LatestN(keep)] if keep else []
    if best:
        # The policy keeps those of the greatest number.
        policies.append(
            BestN(get_metric_fn=lambda metrics: -metrics["loss"], n=best, keep_checkpoints_without_metrics=False)
        )
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(policies) if policies else None,
        # Without it orbax would not write down what the best are known by, and forget them with the process.
        best_fn=(lambda metrics: -metrics["loss"]) if create else None,
        create=create,
        enable_async_checkpointing=create,
        cleanup_tmp_directories=create,
    )
    return ocp.CheckpointManager(Path(workdir).absolute() / FOLDER, options=options, item_handlers=handlers)


def split_state(state: TrainState) -> tuple[PyTree, PyTree]:
    """(parameters, the rest): two items, so that parameters can be read alone."""
    params = {"trainable": state.trainable, "frozen": state.frozen, "ema": state.ema or {}}
    return params, {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}


class Checkpoints:
    """Saves the state of one run; `restore` reads it.

    Args:
        workdir: the run's directory; it is made.
        keep: the newest checkpoints that stay on disk.
        best: how many of least loss stay beside them.
        start: where the run goes on; what is newer was found damaged, and is removed.
    """

    def __init__(self, workdir: Path, keep: int = 2, best: int = 0, start: int | None = None) -> None:
        self.workdir = Path(workdir)
        self._manager = manager(self.workdir, keep, best, create=True)
        self._sealing = ThreadPoolExecutor(1)
        for step in self._manager.all_steps():
            if start is not None and step > start:
                self._manager.delete(step)
        if jax.process_index() == 0:
            seals.forget(self.workdir / FOLDER, self._manager.all_steps())

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._seal()
        self._sealing.shutdown(cancel_futures=kind is not None)
        self._manager.close()

    def save(self, state: TrainState, meta: Meta, loss: float = float("nan")) -> None:
        """Starts saving at `state.step`; returns once the state is copied, so that its buffers may be donated.

        `meta` must be the loader's state *before* it gives the next batch, or resuming skips one. `loss` is what `best` goes by. A
        step that is there already is left as it is.

        Raises:
            CheckpointError: if this step, or the one before, cannot be written: the disk is full, say.
        """
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        self.wait()
        self._seal()
        params, optimizer = split_state(state)
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            optimizer=ocp.args.StandardSave(optimizer),
            meta=ocp.args.JsonSave(meta),
        )
        metrics = {"loss": loss} if loss == loss else None
        with unwritten(self.workdir):
            self._manager.save(step, args=items, metrics=metrics)

    def preempted(self, step: int) -> bool:
        """Whether the machine is about to be taken away (all hosts agree on the step)."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Blocks until everything is on disk.

        Raises:
            CheckpointError: if it could not be written.
        """
        with unwritten(self.workdir):
            self._manager.wait_until_finished()

    def _seal(self) -> None:
        """Seals what is complete, in the background: a run that is being stopped has no time for it."""
        if jax.process_index() > 0:
            return
        steps = list(self._manager.all_steps())
        for step in steps:
            self._sealing.submit(seals.seal, self.workdir / FOLDER / str(step))
        self._sealing.submit(seals.forget, self.workdir / FOLDER, steps)


@contextlib.contextmanager
def unwritten(workdir: Path) -> Iterator[None]:
    """Turns orbax's and TensorStore's ways to say that something cannot be written into one."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        raise  # A device or another process, not the disk.
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise CheckpointError(
            f"cannot save to {workdir}: {reason}; free some space, then the same command goes on from the checkpoint before"
        ) from error


def restore(workdir: Path, template: TrainState) -> tuple[TrainState, Meta]:
    """Reads the newest whole checkpoint into `template`'s structure, shapes, dtypes and shardings.

    Args:
        template: a train state of arrays or of `ShapeDtypeStruct`s with shardings; the mesh may be another.

    Raises:
        CheckpointError: if there is none, if all are damaged, or if it holds other parameters.
        ShapeError: if a parameter has another shape.
    """
    params, optimizer = split_state(jax.tree.map(abstract, template))

    def read(opened: ocp.CheckpointManager, step: int) -> Mapping[str, Any]:
        compare(stored_shapes(opened, step, workdir), params, f"checkpoint {step} of {workdir}")
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(params),
            optimizer=ocp.args.StandardRestore(optimizer),
            meta=ocp.args.JsonRestore(),
        )
        return restore_items(opened, step, items, workdir)

    _, found = newest(workdir, read)
    state = template.replace(
        **{name: found["params"][name] for name in ("trainable", "frozen")},
        **found["optimizer"],
        ema=None if template.ema is None else found["params"]["ema"],
    )
    return state, found["meta"]


def read_params(workdir: Path) -> tuple[dict[str, PyTree], Meta, int]:
    """Reads `{"trainable", "frozen", "ema"}` of the newest whole checkpoint to one device, without a template.

    Returns:
        the parameters, the meta data, the step.

    Raises:
        CheckpointError: if there is none, or all are damaged.
    """
    here = SingleDeviceSharding(jax.local_devices()[0])

    def read(opened: ocp.CheckpointManager, step: int) -> Mapping[str, Any]:
        stored = stored_shapes(opened, step, workdir)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), stored)
        items = ocp.args.Composite(params=ocp.args.StandardRestore(shapes), meta=ocp.args.JsonRestore())
        return restore_items(opened, step, items, workdir)

    step, found = newest(workdir, read)
    return found["params"], found["meta"], step


def check_seal(workdir: Path, step: int) -> bool:
    """Whether a checkpoint is sealed and whole; process 0 looks, and all agree.

    Raises:
        DamagedError: if files are not what they were.
    """
    folder = Path(workdir) / FOLDER / str(step)
    lost = seals.broken(folder) if jax.process_index() == 0 else []
    state = np.array([seals.path_of(folder).exists(), bool(lost)])
    if jax.process_count() > 1:
        state = multihost_utils.broadcast_one_to_all(state)
    if state[1]:
        raise damaged(step, workdir, f"changed since it was saved: {listed(lost)}")
    return bool(state[0])


def newest(workdir: Path, read: Callable[[ocp.CheckpointManager, int], Found]) -> tuple[int, Found]:
    """What `read` makes of the newest checkpoint that is whole, and its step; a warning names each that is not.

    Raises:
        CheckpointError: if there is none, or all are damaged.
    """
    with reader(workdir) as opened:
        steps = sorted(opened.all_steps(), reverse=True)
        if not steps:
            raise CheckpointError(f"{workdir} holds no complete checkpoint; let its training reach one")
        for step in steps:
            sealed = False
            try:
                sealed = check_seal(workdir, step)
                return step, read(opened, step)
            except DamagedError as error:
                if sealed:
                    # What was written is there, so that something else is wrong: another optimizer, or a disk for now.
                    reason = str(error.__cause__ or error).strip().split("\n", 1)[0][:200]
                    raise CheckpointError(
                        f"checkpoint {step} of {workdir} is as it was written, but cannot be read ({reason}); {_ADVICE}, or try "
                        "again if the disk was not to be reached"
                    ) from error
                if step == steps[-1]:
                    raise CheckpointError(
                        f"{error}, and none before it is whole; remove that folder to begin anew"
                    ) from error
                warnings.warn(f"{error}; trying the checkpoint before", stacklevel=2)
    raise AssertionError("unreachable")


def reader(workdir: Path) -> ocp.CheckpointManager:
    """A manager that writes nothing; raises CheckpointError for a folder that is no workdir."""
    if not (Path(workdir) / FOLDER).is_dir():
        raise CheckpointError(f"{workdir} holds no checkpoints; give a training's workdir or a .safetensors file")
    return manager(workdir)


def restore_items(
    opened: ocp.CheckpointManager, step: int, items: ocp.args.Composite, workdir: Path
) -> Mapping[str, Any]:
    """Restores, with orbax's many ways to say "damaged" turned into one."""
    try:
        return opened.restore(step, args=items)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(step, workdir, error) from error


def stored_shapes(opened: ocp.CheckpointManager, step: int, workdir: Path) -> PyTree:
    """Shape and dtype of every stored parameter."""
    try:
        return opened.item_metadata(step)["params"].tree
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(step, workdir, error) from error


def damaged(step: int, workdir: Path, error: Exception | str) -> DamagedError:
    """The message for a checkpoint whose files are broken."""
    folder = Path(workdir) / FOLDER / str(step)
    reason = str(error).strip().split("\n", 1)[0][:200]
    return DamagedError(f"{folder} is damaged ({reason})")


def abstract(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of an array."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


_ADVICE = "give the config that it was trained with, or another checkpoint"


def compare(stored: PyTree, expected: PyTree, where: str) -> None:
    """Checks that two trees have the same leaves with the same shapes.

    Raises:
        CheckpointError: listing at most ten missing and ten unknown leaves.
        ShapeError: listing at most ten leaves with both shapes.
    """
    have, want = leaf_shapes(stored), leaf_shapes(expected)
    missing, unknown = want.keys() - have.keys(), have.keys() - want.keys()
    if missing or unknown:
        parts = [f"{len(missing)} missing ({listed(missing)})"] if missing else []
        parts += [f"{len(unknown)} unknown ({listed(unknown)})"] if unknown else []
        raise CheckpointError(f"{where} holds other parameters than the model: {'; '.join(parts)}; {_ADVICE}")
    if wrong := [f"{name}: stored {have[name]}, model {want[name]}" for name in want if have[name] != want[name]]:
        raise ShapeError(f"{where} holds other shapes than the model: {listed(wrong)}; {_ADVICE}")


def leaf_shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """`{"subnet/path/to/leaf": shape}`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def latest_step(workdir: Path) -> int | None:
    """The step of a workdir's newest complete checkpoint; None if there is none."""
    if not (Path(workdir) / FOLDER).is_dir():
        return None
    with manager(workdir) as opened:
        return opened.latest_step()
