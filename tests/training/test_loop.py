"""Whole runs of a toy task: resuming, killing, watching."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from portrait_jax.errors import ConfigError, InputFileError, PortraitError
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.training import loop
from portrait_jax.training.journal import read_lines
from portrait_jax.training.loop import stop_signal, train
from portrait_jax.training.state import flatten
from portrait_jax.training.task import LoopOptions, OptimizerConfig, Stage
from tests.training.toy import ToyLoader, ToyTask, toy_stage


def run(workdir, loader=None, mesh=None, task=None, **options):
    """A quiet run of 12 steps on one device."""
    options = LoopOptions(**{"checkpoint_every": 4, "log_every": 1, **options})
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    return train(task or ToyTask(), "only", loader or ToyLoader(), workdir, options=options, mesh=mesh, quiet=True)


def losses(workdir):
    return {line["step"]: line["loss"] for line in read_lines(Path(workdir) / "metrics.jsonl")}


def wait_for_step(workdir, step, process, seconds=300):
    for _ in range(seconds * 20):
        if max(losses(workdir), default=0) >= step:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("the run did not get there")


def test_resume_after_kill_gives_identical_losses(tmp_path, root):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = run(whole)
    # The victim is slow enough to be hit between two saves.
    program = [sys.executable, "-m", "tests.training.toy", str(killed), "0.1"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(program, cwd=root, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for_step(killed, 6, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    before = losses(killed)
    assert 6 <= max(before) < 12
    resumed = run(killed)
    assert losses(killed) == losses(whole), "every step's loss, bit for bit"
    assert before.items() <= losses(whole).items()
    first, second = flatten(resumed.averaged_params), flatten(expected.averaged_params)
    assert all(np.array_equal(first[name], second[name]) for name in second)


def test_a_run_in_two_parts_equals_one_run_and_ends_where_it_should(tmp_path):
    whole = run(tmp_path / "whole")

    class Interrupted(ToyLoader):
        def __next__(self):
            if self.position == 7:
                raise RuntimeError("power cut")
            return super().__next__()

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "parts", loader=Interrupted())
    parts = run(tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert int(parts.step) == int(whole.step) == 12
    again = run(tmp_path / "parts")
    assert int(again.step) == 12 and len(losses(tmp_path / "parts")) == 12


def test_sigterm_saves_and_the_run_goes_on_exactly(tmp_path):
    run(tmp_path / "whole")

    class Terminated(ToyLoader):
        def __next__(self):
            if self.position == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    with pytest.raises(KeyboardInterrupt, match="step 6 is saved; the same command goes on from there"):
        run(tmp_path / "parts", loader=Terminated())
    assert (tmp_path / "parts" / "checkpoints" / "6").is_dir()
    run(tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_signal_acts_at_once():
    with pytest.raises(KeyboardInterrupt), stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        os.kill(os.getpid(), signal.SIGTERM)


def test_until_a_run_has_started_signals_act_at_once_and_nothing_is_written(tmp_path):
    reached = []

    class Slow(ToyTask):
        def init(self, rng, stage):
            reached.append(signal.getsignal(signal.SIGTERM))
            os.kill(os.getpid(), signal.SIGINT)
            reached.append("the end")

    # Parallel test workers ignore the interrupt of a terminal; a program of its own does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(Slow(), "only", ToyLoader(), tmp_path / "run", quiet=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == [signal.SIG_DFL], "SIGTERM ends the process even inside a compilation"
    assert not (tmp_path / "run").exists()


def test_a_step_that_cannot_be_compiled_leaves_nothing(tmp_path):
    class Other(ToyLoader):
        def __next__(self):
            return {"x": super().__next__()["x"][:, :3]}

    with pytest.raises(TypeError):
        train(ToyTask(), "only", Other(), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file_is_an_input_error(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputFileError, match="cannot write the run to .*choose another workdir"):
        run(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("host", [0, 1])
def test_only_the_first_host_makes_writers(tmp_path, monkeypatch, host):
    started = []
    monkeypatch.setattr(loop, "Checkpoints", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(jax, "process_index", lambda: host)
    with loop.opened(tmp_path, LoopOptions(), 4, lambda start: started.append(start) or []):
        pass
    assert started == ([4] if host == 0 else [])
    assert (tmp_path / "metrics.jsonl").exists() == (host == 0)


def test_a_run_resumes_on_another_mesh(tmp_path):
    class Short(ToyLoader):
        def __next__(self):
            if self.position == 8:
                raise EOFError
            return super().__next__()

    with pytest.raises(EOFError):
        run(tmp_path / "run", Short(), make_mesh(data=2, fsdp=4))
    run(tmp_path / "run")
    run(tmp_path / "whole")
    resumed, whole = losses(tmp_path / "run"), losses(tmp_path / "whole")
    np.testing.assert_allclose([resumed[n] for n in range(1, 13)], [whole[n] for n in range(1, 13)], rtol=1e-5)


def test_only_the_newest_checkpoints_stay(tmp_path):
    run(tmp_path, checkpoint_every=2, keep=2)
    assert sorted(int(folder.name) for folder in (tmp_path / "checkpoints").iterdir() if folder.is_dir()) == [10, 12]


def test_metrics_are_means_over_the_interval(tmp_path):
    run(tmp_path / "each")
    run(tmp_path / "means", log_every=5)
    each, means = losses(tmp_path / "each"), losses(tmp_path / "means")
    assert list(means) == [5, 10, 12]
    assert means[10] == pytest.approx(np.mean([each[n] for n in range(6, 11)]))
    assert means[12] == pytest.approx(np.mean([each[11], each[12]]))


def test_samples_and_scalars_reach_the_writers(tmp_path):
    class Recorder:
        def __init__(self):
            self.numbers, self.pictures, self.closed = [], [], False

        def scalars(self, step, values):
            self.numbers.append((step, values["loss"]))

        def images(self, step, values):
            self.pictures.append((step, values["strip"].shape))

        def close(self):
            self.closed = True

    recorder, options = Recorder(), LoopOptions(log_every=4, sample_every=5)
    train(ToyTask(), "only", ToyLoader(), tmp_path, options=options, writers=lambda start: [recorder], quiet=True)
    assert [step for step, _ in recorder.numbers] == [4, 8, 12]
    assert recorder.pictures == [(step, (4, 8, 3)) for step in (5, 10, 12)]
    assert recorder.closed


def test_a_loss_that_stays_not_finite_ends_the_run(tmp_path):
    class Broken(ToyTask):
        def loss(self, params, batch, rng, stage):
            loss, metrics = super().loss(params, batch, rng, stage)
            return loss * np.nan, metrics

    with pytest.raises(PortraitError, match="not finite in 20 steps in a row, up to step 20"):
        train(Broken(toy_stage(steps=100)), "only", ToyLoader(), tmp_path, quiet=True)
    with pytest.raises(PortraitError, match="not finite in 3 steps in a row, up to step 3"):
        run_task = Broken(toy_stage(steps=100))
        train(run_task, "only", ToyLoader(), tmp_path / "few", options=LoopOptions(skip_limit=3), quiet=True)


class Planted(ToyLoader):
    """Not a number in one example of some batches."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        self.bad = bad

    def __next__(self):
        number, batch = self.position, super().__next__()
        if number in self.bad:
            batch["x"][3, 2] = np.nan
        return batch


def test_a_bad_batch_is_skipped_and_counted_and_changes_nothing(tmp_path):
    """A run whose fifth batch is broken ends as one whose fifth step does nothing."""
    state = run(tmp_path / "planted", loader=Planted(4))
    lines = read_lines(tmp_path / "planted" / "metrics.jsonl")
    assert [line["step"] for line in lines if line["skipped"]] == [5] and "loss" not in lines[4]
    assert int(state.step) == 12 and all(np.isfinite(leaf).all() for leaf in flatten(state.averaged_params).values())
    run(tmp_path / "whole")
    whole = losses(tmp_path / "whole")
    assert [line["loss"] for line in lines[:4]] == [whole[step] for step in (1, 2, 3, 4)]
    assert lines[5]["loss"] != whole[6], "what comes after goes on without it"


def test_a_skipped_step_leaves_parameters_optimizer_and_average_as_they_were(tmp_path):
    """Four steps, and four with a fifth whose batch is broken; the rate is constant, so that nothing knows how many come."""
    constant = OptimizerConfig(lr=1e-2, clip_norm=1.0)
    clean, skipped = (
        run(tmp_path / str(steps), task=ToyTask(toy_stage(steps=steps, optimizer=constant)), loader=Planted(4))
        for steps in (4, 5)
    )
    assert int(skipped.step) == int(clean.step) + 1
    for name in ("trainable", "opt_state", "ema"):
        ours, theirs = (jax.tree.leaves(getattr(state, name)) for state in (skipped, clean))
        for leaf, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(leaf, expected)


def test_the_best_checkpoints_stay_beside_the_newest(tmp_path):
    class Rising(ToyTask):
        """Its loss is least at first: a batch says by how much it is larger."""

        def loss(self, params, batch, rng, stage):
            loss, metrics = super().loss(params, batch, rng, stage)
            return 0.0 * loss + batch["more"].mean(), metrics

    class More(ToyLoader):
        def __next__(self):
            number = self.position
            return {**super().__next__(), "more": np.full((16, 1), abs(number - 4), np.float32)}

    class Interrupted(More):
        def __next__(self):
            if self.position == 9:
                raise RuntimeError("power cut")
            return super().__next__()

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, task=Rising(), loader=Interrupted(), checkpoint_every=2, keep=1, keep_best=1)
    # What was best is known in the next process too.
    run(tmp_path, task=Rising(), loader=More(), checkpoint_every=2, keep=1, keep_best=1)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    # Steps 5 and 6 see 0 and 1 more, steps 3 and 4 see 2 and 1.
    assert kept == [6, 12]
    assert sorted(path.name for path in (tmp_path / "seals").iterdir()) == ["12.json", "6.json"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_the_run_ends_the_same(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "hurt", task=ToyTask(toy_stage()), checkpoint_every=4, keep=3)
    shutil.rmtree(tmp_path / "hurt" / "checkpoints" / "12")
    victim = tmp_path / "hurt" / "checkpoints" / "8"
    largest = max((path for path in victim.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.warns(
        UserWarning, match=r"checkpoints/8 is damaged \(changed since it was saved: .*trying the checkpoint before"
    ):
        run(tmp_path / "hurt", keep=3)
    assert losses(tmp_path / "hurt") == losses(tmp_path / "whole")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path / "hurt", keep=3)


def test_a_full_disk_ends_the_run_with_what_to_do_and_leaves_the_checkpoint_before(tmp_path, root):
    """No file may grow beyond what the first checkpoint needs: the second, of a larger state, cannot be written."""
    program = (
        "import resource, sys; from portrait_jax.errors import CheckpointError\n"
        "from tests.training.toy import *\n"
        "class Large(ToyLoader):\n"
        "    def __next__(self):\n"
        "        if self.position == 6: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "        return super().__next__()\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: train(ToyTask(), 'only', Large(), sys.argv[1], options=LoopOptions(checkpoint_every=4), quiet=True,\n"
        "           mesh=make_mesh(devices=jax.devices()[:1]))\n"
        "except CheckpointError as error: print('said:', error); sys.exit(2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2 and "free some space" in ended.stdout, ended.stdout + ended.stderr[-2000:]
    run(tmp_path)
    run(tmp_path.parent / "whole")
    after = losses(tmp_path)
    assert {step: after[step] for step in range(5, 13)} == {
        step: loss for step, loss in losses(tmp_path.parent / "whole").items() if step > 4
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_kill_at_any_moment_changes_nothing(tmp_path, root, number):
    """Saving goes on in the background at every second step; the moment is drawn, and the process has no say in it."""
    run(tmp_path / "whole")
    program = [sys.executable, "-m", "tests.training.toy", str(tmp_path / "killed"), "0.05", "2"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(program, cwd=root, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for_step(tmp_path / "killed", 1, process)
        time.sleep(float(np.random.default_rng(number).uniform(0, 1.0)))
        process.kill()
        process.wait()
    run(tmp_path / "killed", checkpoint_every=2)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_an_unknown_stage_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'only'"):
        train(ToyTask(), "onli", ToyLoader(), tmp_path, quiet=True)


def test_a_batch_that_does_not_fit_the_mesh_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="make it a multiple of 8"):
        train(ToyTask(toy_stage(batch_size=12)), "only", ToyLoader(12), tmp_path, quiet=True)


def test_settings_are_sorted_and_a_mistyped_one_names_the_nearest():
    section = {
        "trainable": ["a/.*"],
        "steps": 3,
        "batch_size": 2,
        "lr": 0.5,
        "accumulate": 2,
        "seed": 7,
        "init_from": {"a": "x"},
    }
    stage = Stage.from_config(section)
    assert (stage.trainable, stage.optimizer.lr, stage.optimizer.accumulate) == (("a/.*",), 0.5, 2)
    assert stage.init_from == {"a": "x"} and LoopOptions.from_config(section).seed == 7
    with pytest.raises(ConfigError, match="'weight_decai'; did you mean 'weight_decay'"):
        Stage.from_config({**section, "weight_decai": 0.1})
