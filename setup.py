"""Package metadata. Versions are bounded here; `requirements/*.txt` pin them with hashes for `make`."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
VERSION = (ROOT / "portrait_jax" / "__init__.py").read_text().split('__version__ = "')[1].split('"')[0]
JAX = "0.10,<0.13"

# What model code, training and the entry points need on a CPU.
BASE = [
    "absl-py>=2.1",
    "einops>=0.8",
    "flax>=0.12",
    f"jax>={JAX}",
    "jaxtyping>=0.3",
    "ml_collections>=1.0",
    "numpy>=2.0",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12",
    "rich>=13",
    "safetensors>=0.5",
    "tensorboardX>=2.6",
]

EXTRAS = {
    # The accelerator: choose one. Plain jax runs on the CPU.
    "cpu": [f"jax>={JAX}"],
    "cuda": [f"jax[cuda12]>={JAX}"],
    "tpu": [f"jax[tpu]>={JAX}"],
    # Files and records: videos, images, faces, tokenizers, shards. mediapipe asks for opencv-contrib-python, so that
    # is the name here; the lock swaps in its headless build, which needs no libGL.
    "data": [
        "array_record>=0.8",
        "av>=15,<19",
        "grain>=0.2.15",
        "mediapipe>=1.2",
        "opencv-contrib-python>=4.10",
        "pillow>=11",
        "tensorflow-datasets>=4.9.9",
        "transformers>=5.0",
    ],
    # Legacy PyTorch pickles; `.safetensors` needs nothing beyond the base.
    "interchange": ["torch>=2.6", "transformers>=5.0"],
    "test": [
        "beartype>=0.20",
        "hypothesis>=6.100",
        "ipykernel>=6.29",
        "nbmake>=1.5",
        "pytest>=8",
        "pytest-xdist>=3.7",
    ],
    # The originals' classes as oracles, on the CPU.
    "parity": ["diffusers>=0.40", "torch>=2.6", "transformers>=5.0"],
    "dev": ["mypy>=1.15", "pre-commit>=4", "ruff>=0.12"],
}

setup(
    name="portrait-jax",
    version=VERSION,
    description="Five portrait-animation systems in JAX: trained, sampled and compared in one place",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author="The portrait-jax authors",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_namespace_packages(
        include=["portrait_jax*", "configs*", "data*", "launch*"], exclude=["portrait_jax.assets*"]
    ),
    package_data={"portrait_jax": ["assets/*", "assets/**/*"]},
    install_requires=BASE,
    extras_require=EXTRAS,
)
