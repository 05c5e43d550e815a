"""Templates for machines that are not here: what they would run is printed, parsed, and held against the flags that exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

PODS = "launch/pods"
CONFIG = "configs/xnemo.py:stage1"


def printed(root, script, *more, **environment):
    """What a script would do."""
    ended = subprocess.run(
        ["bash", f"{PODS}/{script}", CONFIG, *more],
        cwd=root, env={**os.environ, "DRY_RUN": "1", **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture(scope="module")
def known(root):
    """What --help says of `launch.train`."""
    told = subprocess.run(
        [sys.executable, "-m", "launch.train", "--help"], cwd=root, capture_output=True, text=True, check=True
    )
    return set(re.findall(r"--\[?(?:no\]?)?(\w+)", told.stdout))


def check_flags(command, known):
    """Raises unless `launch.train` has every flag of a command."""
    words = shlex.split(command)
    at = words.index("launch.train")
    named = [word.lstrip("-").split("=")[0].split(".")[0] for word in words[at + 1 :] if word.startswith("--")]
    assert {"config", "workdir", "coordinator"} <= set(named)
    assert set(named) <= known, set(named) - known


@pytest.mark.parametrize("script", ["tpu_vm.sh", "ssh.sh", "slurm.sbatch"])
def test_scripts_are_sound_and_say_what_is_missing(root, script):
    subprocess.run(["bash", "-n", f"{PODS}/{script}"], cwd=root, check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", f"{PODS}/{script}"], cwd=root, check=True)
    bare = {"PATH": os.environ["PATH"]}
    ended = subprocess.run(["bash", f"{PODS}/{script}"], cwd=root, env=bare, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0 and ("the " in ended.stderr or "a config" in ended.stderr)


def test_every_host_of_a_slice_runs_the_same_training(root, known):
    lines = printed(root, "tpu_vm.sh", "--config.mesh.fsdp=8", TPU="slice", ZONE="zone", BUCKET="/mnt/runs")
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)
        assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice"] and "--worker=all" in words
    command = next(word for word in shlex.split(lines[1]) if word.startswith("--command="))
    check_flags(command.removeprefix("--command="), known)
    assert f"--config={CONFIG}" in command and "--coordinator=auto" in command and "--config.mesh.fsdp=8" in command


def test_every_machine_has_its_number_and_one_address(root, known):
    lines = printed(root, "ssh.sh", HOSTS="first second third", FOLDER="/shared")
    found = []
    for line in lines:
        ssh, host, command = shlex.split(line)
        assert ssh == "ssh"
        check_flags(command, known)
        found.append((host, command.split("--process=")[1].split()[0]))
        assert "--coordinator=first:8476" in command and "--processes=3" in command
    assert found == [("first", "0"), ("second", "1"), ("third", "2")]


def test_a_slurm_job_starts_a_process_per_gpu_and_goes_on_after_its_time(root, known):
    text = (root / PODS / "slurm.sbatch").read_text()
    asked = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in text.splitlines()
        if "#SBATCH --" in line and "=" in line
    )
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] and asked["signal"].startswith("TERM@")
    joined = text.replace("\\\n", " ")
    command = next(line for line in joined.splitlines() if line.startswith("srun"))
    check_flags(command.split("||")[0], known)
    assert "scontrol requeue" in text and "-eq 130" in text


def test_a_gke_job_has_a_pod_per_host_of_its_slice(root, known):
    service, job = yaml.safe_load_all((root / PODS / "gke.yaml").read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    assert service["kind"] == "Service" and pod["subdomain"] == service["metadata"]["name"]
    x, y = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    container = pod["containers"][0]
    assert (
        spec["parallelism"] == spec["completions"] == x * y // int(container["resources"]["limits"]["google.com/tpu"])
    )
    check_flags(shlex.join([*container["command"], *container["args"]]), known)
    assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
