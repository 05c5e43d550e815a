"""Several processes on this machine train as one: the losses of one process, one checkpoint, and an end in sight."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from portrait_jax.training.journal import read_lines

DEVICES = 8
PATIENCE = 10

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(root: Path, workdir: Path, count: int, *more: str) -> list[subprocess.Popen]:
    """All processes of a run on eight devices in all."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        sys.executable,
        "-m",
        "launch.train",
        "--config=tests/tiny_prior.py:vqvae_demo",
        f"--workdir={workdir}",
        *more,
    ]
    devices = f"--xla_force_host_platform_device_count={DEVICES // count}"
    environment = {**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices}

    def one(index: int) -> subprocess.Popen:
        told = [f"--coordinator={address}", f"--processes={count}", f"--process={index}", f"--patience={PATIENCE}"]
        return subprocess.Popen(
            [*command, *(told if count > 1 else [])],
            cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return [one(index) for index in range(count)]


def finish(processes: list[subprocess.Popen], seconds: float = 300) -> list[tuple[int, str]]:
    """Status and output of each."""
    ended = []
    for process in processes:
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[0] + "\n(did not end)"
        ended.append((process.returncode, said))
    return ended


def losses(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_lines(workdir / "vqvae" / "metrics.jsonl")}


def run(root: Path, workdir: Path, count: int, *more: str) -> dict[int, float]:
    ended = finish(start(root, workdir, count, *more))
    assert all(status == 0 for status, _ in ended), ended
    return losses(workdir)


@pytest.fixture(scope="module")
def alone(root, tmp_path_factory) -> dict[int, float]:
    """Losses of one process with eight devices."""
    return run(root, tmp_path_factory.mktemp("alone"), 1)


def same(found: dict[int, float], expected: dict[int, float]) -> None:
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[step] for step in expected], list(expected.values()), rtol=1e-5)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_have_the_losses_of_one(root, tmp_path, alone, count):
    same(run(root, tmp_path, count), alone)


def test_processes_that_share_examples_load_the_same(root, tmp_path, alone):
    """Two parts of the batch, each held by two processes."""
    same(run(root, tmp_path, 4, "--config.mesh.data=2", "--config.mesh.tensor=4"), alone)


def test_a_run_goes_on_with_another_number_of_processes_and_another_mesh(root, tmp_path, alone):
    assert run(root, tmp_path, 2, "--config.train.steps=4", "--config.train.schedule=constant").keys() == {1, 2, 3, 4}
    first = losses(tmp_path)
    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=4")
    after = run(root, tmp_path, 4, "--config.train.schedule=constant", *mesh)
    whole = run(root, tmp_path / "whole", 1, "--config.train.schedule=constant")
    assert first.items() <= after.items()
    same(after, whole)


def test_sigterm_to_one_saves_for_all_at_one_step(root, tmp_path):
    processes = start(root, tmp_path, 2, "--config.train.steps=100000", "--config.train.checkpoint_every=100000")
    wait_for(tmp_path, 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    ended = finish(processes)
    assert all(status == 130 and "is saved; the same command goes on" in said for status, said in ended), ended
    assert len(list((tmp_path / "vqvae" / "checkpoints").iterdir())) == 1


def test_a_process_that_dies_ends_the_others_in_bounded_time(root, tmp_path):
    processes = start(root, tmp_path, 2, "--config.train.steps=100000")
    wait_for(tmp_path, 5, processes)
    processes[1].kill()
    begin = time.monotonic()
    (status, said), _ = finish(processes, 12 * PATIENCE)
    assert status != 0 and "did not end" not in said
    assert time.monotonic() - begin < 6 * PATIENCE
    assert any(word in said for word in ("heartbeat", "coordination", "distributed service", "Connection")), said[
        -2000:
    ]
    assert max(losses(tmp_path)) >= 5


def wait_for(workdir: Path, step: int, processes: list[subprocess.Popen], seconds: float = 240) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        if (workdir / "vqvae" / "metrics.jsonl").exists() and max(losses(workdir), default=0) >= step:
            return
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.1)
    raise AssertionError(f"step {step} was not reached: {finish(processes, 1)}")
