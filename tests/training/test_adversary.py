"""Leaves that train against the rest: whose loss moves whom, meshes, accumulation, exact resume, and their settings."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from portrait_jax.errors import ConfigError
from portrait_jax.sharding.mesh import make_mesh, shard_batch
from portrait_jax.training.checkpoints import restore
from portrait_jax.training.journal import read_lines
from portrait_jax.training.loop import initial_state, state_shapes, train
from portrait_jax.training.optimizers import make_optimizer, make_schedule
from portrait_jax.training.params import load_params
from portrait_jax.training.state import flatten
from portrait_jax.training.step import make_train_step
from portrait_jax.training.task import Adversary, LoopOptions, OptimizerConfig, Stage
from tests.training.toy import CRITIC, ToyLoader, ToyRivals, ToyTask, toy_stage


def one_device():
    return make_mesh(data=1, devices=jax.devices()[:1])


def begin(task, mesh):
    """The first state, and the step that fits it."""
    state = initial_state(task, "only", 0, mesh, ".")
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    return state, make_train_step(task, "only", make_optimizer(task.stage), mesh, placed)


def steps(task, mesh, count=3):
    """State and metrics after `count` steps on `mesh`."""
    loader, lines = ToyLoader(), []
    with jax.set_mesh(mesh):
        state, step = begin(task, mesh)
        for _ in range(count):
            state, metrics = step(state, shard_batch(next(loader), mesh))
            lines.append({name: float(value) for name, value in metrics.items()})
    return state, lines


def assert_close(first, second, tolerance=1e-5):
    first, second = flatten(first), flatten(second)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=tolerance, rtol=tolerance, err_msg=name)


def by_hand(task, config, patterns, loss, params, batch, rng):
    """What AdamW makes of the leaves of some sub-networks in one step of `loss`, written out."""
    chosen = {name: params[name] for name in patterns}
    slopes = jax.grad(lambda part: loss({**params, **part}, batch, rng, "only")[0])(chosen)
    norm = optax.global_norm(slopes)
    slopes = jax.tree.map(lambda x: x * min(1.0, config.clip_norm / norm), slopes)
    rate = float(make_schedule(config, task.stage.steps)(0))
    # Adam's first step is the sign of the gradient but for eps; decay comes on top.
    return jax.tree.map(
        lambda x, slope: x - rate * (slope / (abs(slope) + 1e-8) + config.weight_decay * x), chosen, slopes
    )


def test_each_side_moves_down_its_own_loss_from_the_same_point_with_its_own_optimizer():
    task, mesh, batch = ToyRivals(), one_device(), next(ToyLoader())
    with jax.set_mesh(mesh):
        state, step = begin(task, mesh)
        params = jax.tree.map(np.array, state.params)
        rng = jax.random.fold_in(jax.random.wrap_key_data(np.array(state.rng)), 0)
        after, metrics = step(state, shard_batch(batch, mesh))
    denoiser = by_hand(task, task.stage.optimizer, ["denoiser"], task.loss, params, batch, rng)
    critic = by_hand(task, CRITIC.optimizer, ["critic"], task.adversary_loss, params, batch, rng)
    assert_close(after.trainable, {**denoiser, **critic}, 1e-4)
    assert_close(after.frozen["encoder"], params["encoder"], 0)
    assert float(metrics["adversary_lr"]) == pytest.approx(float(make_schedule(CRITIC.optimizer, 12)(0)))
    assert {"loss", "error", "grad_norm", "lr", "judged_real", "adversary_loss", "adversary_grad_norm"} < set(metrics)


def test_the_two_sides_are_clipped_apart():
    # A huge gradient of one side must not shrink the other's: both norms are below their own bounds or at them.
    own = OptimizerConfig(lr=1e-2, clip_norm=1e-3)
    task = ToyRivals(toy_stage(optimizer=own, adversary=CRITIC))
    state, _ = steps(task, one_device(), count=1)
    for side, bound, b1 in (("own", 1e-3, 0.9), ("adversary", 0.1, 0.5)):
        moments = state.opt_state[side][1][0].mu
        norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(moments)))
        assert norm == pytest.approx((1 - b1) * bound, rel=1e-3), side


def test_without_its_loss_an_adversary_is_refused():
    task = ToyTask(toy_stage(trainable=("denoiser/.*",), adversary=CRITIC))
    with pytest.raises(ConfigError, match="toy:only has an adversary, but no adversary_loss"):
        make_train_step(task, "only", make_optimizer(toy_stage()), one_device())


def test_one_and_eight_devices_agree(monkeypatch):
    monkeypatch.setattr("portrait_jax.sharding.rules.SMALL", 0)  # so that the toy's leaves really are spread
    reference, lines = steps(ToyRivals(), one_device())
    state, others = steps(ToyRivals(), make_mesh(data=2, fsdp=4))
    for line, other in zip(lines, others):
        assert other == pytest.approx(line, rel=1e-4, abs=1e-6)
    assert_close(state.params, reference.params)
    kernel = state.opt_state["adversary"][1][0].mu["critic"]["dense"]["kernel"]
    assert not kernel.is_fully_replicated, "the adversary's moments are spread like its leaves"


def test_accumulation_equals_the_large_batch():
    # Without noise, and with a critic linear in its pictures, both losses are means over examples.
    adversary = dataclasses.replace(CRITIC, optimizer=OptimizerConfig(lr=1e-3))
    large, _ = steps(ToyRivals(toy_stage(adversary=adversary), noise=0.0), one_device())
    optimizer = dataclasses.replace(toy_stage().optimizer, accumulate=4)
    small, _ = steps(ToyRivals(toy_stage(optimizer=optimizer, adversary=adversary), noise=0.0), one_device())
    assert_close(small.trainable["denoiser"], large.trainable["denoiser"])


def test_a_run_in_two_parts_equals_one_run_bit_for_bit(tmp_path):
    def run(workdir, loader):
        options, mesh = LoopOptions(checkpoint_every=4, log_every=1), one_device()
        return train(ToyRivals(), "only", loader, workdir, options=options, mesh=mesh, quiet=True)

    class Interrupted(ToyLoader):
        def __next__(self):
            if self.position == 7:
                raise RuntimeError("power cut")
            return super().__next__()

    whole = run(tmp_path / "whole", ToyLoader())
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "parts", Interrupted())
    parts = run(tmp_path / "parts", ToyLoader())

    def lines(name):
        return [{**line, "time": 0} for line in read_lines(tmp_path / name / "metrics.jsonl")]

    assert [line["adversary_loss"] for line in lines("parts")] == [line["adversary_loss"] for line in lines("whole")]
    for ours, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with jax.set_mesh(one_device()):
        found, _ = restore(tmp_path / "whole", state_shapes(ToyRivals(), "only", one_device()))
    assert jax.tree.structure(found) == jax.tree.structure(whole), "the adversary's optimizer state is stored"
    assert "critic" in load_params(tmp_path / "whole")[0], "an export can hold the adversary"


def test_the_state_is_donated_and_nothing_is_retraced():
    task, mesh, loader = ToyRivals(), one_device(), ToyLoader()
    with jax.set_mesh(mesh):
        state, step = begin(task, mesh)
        for _ in range(3):
            old = state
            state, _ = step(state, shard_batch(next(loader), mesh))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.trainable, old.opt_state)))
    assert task.traces == 1 and step._cache_size() == 1


SECTION = {"trainable": ("denoiser/.*",), "steps": 3, "batch_size": 2, "lr": 0.5, "b1": 0.8}


def test_an_adversary_takes_the_optimizer_of_its_stage_but_for_what_it_names():
    stage = Stage.from_config({**SECTION, "adversary": {"trainable": ["critic/.*"], "lr": 0.1}})
    assert stage.adversary == Adversary(("critic/.*",), OptimizerConfig(lr=0.1, b1=0.8))
    assert stage.patterns == ("denoiser/.*", "critic/.*")
    assert Stage.from_config({**SECTION, "adversary": {}}).adversary is None, "a config may keep the section empty"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"trainable": ("critic/.*",), "rate": 0.1}, "train.adversary has no setting 'rate'"),
        ({"lr": 0.1}, "Adversary needs the settings: trainable"),
        ({"trainable": ("critic/.*",), "accumulate": 2}, "no accumulate of its own"),
    ],
)
def test_a_mistake_in_the_section_is_named(section, message):
    with pytest.raises(ConfigError, match=message):
        Stage.from_config({**SECTION, "adversary": section})
