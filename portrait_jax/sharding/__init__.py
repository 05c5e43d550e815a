"""Meshes and sharding rules; the same code runs on one CPU, one GPU, eight fake devices and a pod."""

from portrait_jax.sharding.mesh import make_mesh, shard_batch
from portrait_jax.sharding.rules import shardings

__all__ = ["make_mesh", "shard_batch", "shardings"]
