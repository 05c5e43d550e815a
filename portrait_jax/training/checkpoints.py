"""Checkpoints of a run: the train state, the data state and the config, saved together, restored on any mesh.

Layout of a run's workdir: `checkpoints/<step>/{params,optimizer,meta}`. The only module that knows orbax. A step that
was not written to its end carries no commit mark and is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from portrait_jax.errors import CheckpointError, ShapeError, listed
from portrait_jax.training.state import TrainState
from portrait_jax.typing import PyTree

FOLDER = "checkpoints"
Meta = dict[str, Any]
"""`{"data": loader state, "config": config, "stage": name}`: JSON-able."""


def manager(workdir: Path, keep: int | None = None, *, create: bool = False) -> ocp.CheckpointManager:
    """Orbax's manager of a workdir's checkpoints."""
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "optimizer": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=create, enable_async_checkpointing=create, cleanup_tmp_directories=create
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
    """

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        self.workdir = Path(workdir)
        self._manager = manager(self.workdir, keep, create=True)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._manager.close()

    def save(self, state: TrainState, meta: Meta) -> None:
        """Starts saving at `state.step`; returns once the state is copied, so that its buffers may be donated.

        `meta` must be the loader's state *before* it gives the next batch, or resuming skips one. A step that is there
        already is left as it is.
        """
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        params, optimizer = split_state(state)
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            optimizer=ocp.args.StandardSave(optimizer),
            meta=ocp.args.JsonSave(meta),
        )
        try:
            self._manager.save(step, args=items)
        except OSError as error:
            raise CheckpointError(f"cannot save step {step} to {self.workdir}: {error}; free some space") from error

    def preempted(self, step: int) -> bool:
        """Whether the machine is about to be taken away (all hosts agree on the step)."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Blocks until everything is on disk."""
        self._manager.wait_until_finished()


def restore(workdir: Path, template: TrainState) -> tuple[TrainState, Meta]:
    """Reads the newest checkpoint into `template`'s structure, shapes, dtypes and shardings.

    Args:
        template: a train state of arrays or of `ShapeDtypeStruct`s with shardings; the mesh may be another.

    Raises:
        CheckpointError: if there is none, if it is damaged, or if it holds other parameters.
        ShapeError: if a parameter has another shape.
    """
    params, optimizer = split_state(jax.tree.map(abstract, template))
    with reader(workdir) as opened:
        step = complete_step(opened, workdir)
        compare(stored_shapes(opened, step, workdir), params, f"checkpoint {step} of {workdir}")
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(params),
            optimizer=ocp.args.StandardRestore(optimizer),
            meta=ocp.args.JsonRestore(),
        )
        found = restore_items(opened, step, items, workdir)
    state = template.replace(
        **{name: found["params"][name] for name in ("trainable", "frozen")},
        **found["optimizer"],
        ema=None if template.ema is None else found["params"]["ema"],
    )
    return state, found["meta"]


def read_params(workdir: Path) -> tuple[dict[str, PyTree], Meta, int]:
    """Reads `{"trainable", "frozen", "ema"}` of the newest checkpoint to one device, without a template.

    Returns:
        the parameters, the meta data, the step.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    with reader(workdir) as opened:
        step = complete_step(opened, workdir)
        here = SingleDeviceSharding(jax.local_devices()[0])
        stored = stored_shapes(opened, step, workdir)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), stored)
        items = ocp.args.Composite(params=ocp.args.StandardRestore(shapes), meta=ocp.args.JsonRestore())
        found = restore_items(opened, step, items, workdir)
    return found["params"], found["meta"], step


def reader(workdir: Path) -> ocp.CheckpointManager:
    """A manager that writes nothing; raises CheckpointError for a folder that is no workdir."""
    if not (Path(workdir) / FOLDER).is_dir():
        raise CheckpointError(f"{workdir} holds no checkpoints; give a training's workdir or a .safetensors file")
    return manager(workdir)


def complete_step(opened: ocp.CheckpointManager, workdir: Path) -> int:
    """The newest complete checkpoint's step; raises CheckpointError if there is none."""
    step = opened.latest_step()
    if step is None:
        raise CheckpointError(f"{workdir} holds no complete checkpoint; let its training reach one")
    return step


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


def damaged(step: int, workdir: Path, error: Exception) -> CheckpointError:
    """The message for a checkpoint whose files are broken."""
    folder = Path(workdir) / FOLDER / str(step)
    reason = str(error).strip().split("\n", 1)[0][:200]
    return CheckpointError(f"{folder} is damaged ({reason}); remove that folder to go on from the checkpoint before")


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
