"""Settings of the whole test session: CPU JAX with eight devices, a compile cache, and folders of real files.

The environment is set before anything imports jax, and programs that tests start inherit it.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _cpu_name() -> str:
    """Names this kind of processor: compiled code in the cache must not move to another kind."""
    info = Path("/proc/cpuinfo")
    flags = [line for line in info.read_text().splitlines() if line.startswith("flags")] if info.exists() else []
    return platform.machine() + "-" + hashlib.sha256("".join(flags[:1]).encode()).hexdigest()[:8]


def _prepare_environment() -> None:
    devices = "--xla_force_host_platform_device_count"
    if devices not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}=8".strip()
    if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
        # Nearly all time goes into compiling programs that run once or twice. `optimised` is for the others.
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla" / _cpu_name()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")


_prepare_environment()

import flax.struct  # noqa: E402
import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# Compilation makes the first example slow, and a busy machine makes any example slow: time is no failure here.
hypothesis.settings.register_profile(
    "house",
    deadline=None,
    max_examples=30,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("house")


def _leave_struct_constructors_unchecked() -> None:
    """Keeps run-time type checks out of the constructors of `flax.struct` classes.

    jax rebuilds these trees with shapes, shardings or placeholders as leaves, which no annotation of arrays admits.
    Functions that take or return arrays are checked as everywhere.
    """
    plain = flax.struct.dataclass

    def dataclass(clz=None, **kwargs):
        if clz is None:
            return lambda cls: dataclass(cls, **kwargs)
        made = plain(clz, **kwargs)
        made.__no_type_check__ = True  # jaxtyping's import hook asks for this name
        return made

    flax.struct.dataclass = dataclass


_leave_struct_constructors_unchecked()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where jax sees none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and jax.default_backend() != "gpu":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no GPU: install the extra `cuda` and set JAX_PLATFORMS=cuda"))


def _existing(path: Path, variable: str) -> Path:
    if not path.exists():
        pytest.skip(f"{path} does not exist; set {variable} to run this test")
    return path


@pytest.fixture(scope="module")
def optimised() -> Iterator[None]:
    """Programs of this module are compiled to be quick, not compiled quickly: for those that run for long."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the clone."""
    return ROOT


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """Real videos and portraits beside the clone, or named by PORTRAIT_SAMPLES; the test is skipped without them."""
    default = ROOT.parent / "shared" / "samples"
    return _existing(Path(os.environ.get("PORTRAIT_SAMPLES", default)), "PORTRAIT_SAMPLES")


@pytest.fixture(scope="session")
def face_landmarker_path() -> Path:
    """MediaPipe's face_landmarker.task; the test is skipped without it (tests never download)."""
    default = ROOT.parent / "shared" / "models" / "face_landmarker.task"
    return _existing(Path(os.environ.get("PORTRAIT_FACE_LANDMARKER", default)), "PORTRAIT_FACE_LANDMARKER")
