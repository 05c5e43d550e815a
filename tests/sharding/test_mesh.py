"""Mesh sizes, and the message for each that cannot be."""

import jax
import numpy as np
import pytest

from portrait_jax.errors import ConfigError, DeviceError
from portrait_jax.sharding.mesh import batch_share, check_batch_size, make_mesh, shard_batch, share_of


def test_the_free_axis_takes_all_devices_left():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1, "sequence": 1}
    assert dict(make_mesh(fsdp=2, tensor=2).shape)["data"] == 2
    assert dict(make_mesh(data=1, fsdp=-1).shape)["fsdp"] == 8
    assert make_mesh(data=2).devices.size == 2


@pytest.mark.parametrize(
    ("sizes", "error", "words"),
    [
        ({"data": 16}, DeviceError, "needs 16 devices, 8 are there"),
        ({"fsdp": 3}, DeviceError, "8 devices do not split"),
        ({"data": -1, "fsdp": -1}, ConfigError, "data and fsdp"),
        ({"data": 0}, ConfigError, "must be positive"),
    ],
)
def test_a_mesh_that_cannot_be_says_why(sizes, error, words):
    with pytest.raises(error, match=words):
        make_mesh(**sizes)


def test_a_batch_is_split_over_data_and_fsdp():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    batch = shard_batch({"x": np.arange(16).reshape(8, 2)}, mesh)
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(2, 2)}
    assert len({str(shard.index) for shard in batch["x"].addressable_shards}) == 4
    np.testing.assert_array_equal(batch["x"], np.arange(16).reshape(8, 2))
    assert len(jax.devices()) == 8


def test_batches_that_do_not_split_name_the_multiple():
    check_batch_size(16, 2, make_mesh())
    with pytest.raises(ConfigError, match="multiple of 16"):
        check_batch_size(24, 2, make_mesh())


def test_every_process_loads_the_rows_that_its_devices_hold():
    halves = [{0}, {0}, {0}, {0}, {1}, {1}, {1}, {1}]
    assert [share_of(halves, process) for process in (0, 1)] == [(0, 2), (1, 2)]
    # Both hold every row, each other channels of it.
    assert [share_of([{0, 1}], process) for process in (0, 1)] == [(0, 1), (0, 1)]
    pairs = [{0, 1}, {2, 3}]
    assert [share_of(pairs, process) for process in range(4)] == [(0, 2), (0, 2), (1, 2), (1, 2)]


def test_rows_that_are_no_block_have_no_share():
    assert share_of([{0}, {1}, {0}, {1}], 0) is None
    assert share_of([{0}, {0}, {1}], 0) is None and share_of([{0}], 1) is None


def test_a_process_alone_loads_everything():
    assert batch_share(make_mesh(data=2, fsdp=2, tensor=2)) == (0, 1)
