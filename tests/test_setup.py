"""The way in: the Makefile refuses what cannot work, and the installer says what it does."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installer():
    spec = importlib.util.spec_from_file_location("installer", ROOT / "requirements" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path):
    """A folder with the files that a set-up reads and no `.venv`."""
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    command = ["make", "--no-print-directory", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


def test_make_refuses_an_old_python_with_a_message(clone):
    old = clone / "old_python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = make(clone, f"PYTHON={old}", "test")
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr and "Python 3.9.2" in done.stderr
    assert not (clone / ".venv").exists()


def test_make_refuses_a_missing_python_with_a_message(clone):
    done = make(clone, "PYTHON=/nowhere/python3", "demo")
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr and "not there" in done.stderr


def planned(folder: Path, python: Path | str, *targets: str) -> str:
    """What make would run for `targets` with this Python."""
    return make(folder, f"PYTHON={python}", "-n", *targets).stdout


@pytest.fixture
def installed(clone):
    """A clone in which everything was installed by the Python of this test."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for name in ("run", "dev", "parity"):
        (clone / ".venv" / ".installed-{}.{}-{}".format(*sys.version_info[:2], name)).touch()
    return clone


def test_make_does_not_install_again_when_nothing_changed(installed):
    plan = partial(planned, installed, sys.executable)
    assert "install.py" not in plan("demo", "test", "parity")
    (installed / "requirements" / "run.txt").write_text("# changed\n")
    assert "install.py run" in plan("demo")
    assert "install.py" not in plan("parity")
    (installed / "requirements" / "torch.txt").write_text("# changed\n")
    assert "install.py parity" in plan("parity")
    assert "install.py" not in plan("test")


def test_make_installs_again_for_another_python(installed):
    other = installed / "python"
    other.write_text("#!/bin/sh\necho 3.99\n")
    other.chmod(0o755)
    assert f"{other} requirements/install.py run" in planned(installed, other, "demo")


def test_make_installs_again_where_the_python_of_the_environment_is_gone(installed):
    python = installed / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert "install.py run" in planned(installed, sys.executable, "demo")


def test_make_alone_lists_the_targets(clone):
    lines = [line.split(maxsplit=1) for line in make(clone).stdout.splitlines()]
    assert {name for name, _ in lines} >= {"demo", "test", "parity", "lint", "types", "notebook"}
    assert all(meaning for _, meaning in lines)


def test_ci_runs_the_suite_and_then_compares_with_the_originals():
    targets = re.findall(r"make --no-print-directory (\w+)", (ROOT / ".ci" / "run").read_text())
    assert targets == ["lint", "types", "notebook", "test", "parity"]


def test_progress_follows_what_pip_says(installer, capsys):
    progress = installer.Progress(2)
    progress.read("Collecting jax==0.10.2 (from -r run.txt (line 4))\n")
    progress.read("  Downloading jax-0.10.2-py3-none-any.whl (3.1 MB)\n")
    assert (progress.done, progress.doing) == (1, "jax 0.10.2 (3.1 MB)")
    progress.read("Requirement already satisfied: av==18.1.0 in somewhere (18.1.0)\n")
    progress.show(last=True)
    assert "[  2/2]" in capsys.readouterr().out


def test_installer_counts_only_packages_for_this_python(installer, monkeypatch, tmp_path):
    monkeypatch.setattr(installer, "PYTHON", Path(sys.executable))
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "# a lock\nalways==1 \\\n    --hash=sha256:00\n"
        "never==1 ; python_full_version < '3' \\\n    --hash=sha256:00\n"
        "now==1 ; python_full_version >= '3.11' \\\n    --hash=sha256:00\n"
    )
    assert installer.applicable(lock) == 2


def test_torch_is_pinned_to_a_build_without_cuda():
    lines = (ROOT / "requirements" / "torch.txt").read_text().splitlines()
    pins = [line.split(";") for line in lines if line and line[0] != "#"]
    assert pins
    for requirement, marker in pins:
        name, version = requirement.strip().split("==")
        # Only macOS has builds without CUDA under the plain version.
        assert name == "torch" and (version.endswith("+cpu") or marker.strip() == 'sys_platform == "darwin"')


def test_parity_takes_the_lock_then_torch_alone_from_its_own_index_and_says_what_to_do_without(
    installer, monkeypatch, tmp_path
):
    calls = []
    monkeypatch.setattr(installer, "VENV", tmp_path)
    monkeypatch.setattr(installer, "LOG", tmp_path / "install.log")
    monkeypatch.setattr(installer, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(installer, "make_venv", lambda: None)
    monkeypatch.setattr(installer, "pip", lambda *call: calls.append(call))
    installer.main("parity")
    asked = {call[0][-1]: call for call in calls}
    assert "--require-hashes" in asked["requirements/parity.txt"][0]
    apart = asked["requirements/torch.txt"]
    assert apart[0][apart[0].index("--index-url") + 1] == installer.TORCH_INDEX and "--no-deps" in apart[0]
    assert "PIP_FIND_LINKS" in apart[2]
    calls.clear()
    installer.main("dev")
    assert "requirements/torch.txt" not in {call[0][-1] for call in calls}


def test_failing_pip_ends_with_its_last_words_and_status_2(installer, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(installer, "ROOT", tmp_path)
    monkeypatch.setattr(installer, "LOG", tmp_path / "install.log")
    monkeypatch.setattr(installer, "PYTHON", Path(sys.executable))
    with pytest.raises(SystemExit) as end:
        installer.pip(["--no-index", "-r", "missing.txt"], 1, "Do something.")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "missing.txt" in said and said.endswith("Do something.\n")
    assert "missing.txt" in (tmp_path / "install.log").read_text()
