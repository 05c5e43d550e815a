"""Protects: a release read straight to devices is the release imported, lies where the rules say, and never whole on the host."""

import jax
import numpy as np
import pytest

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange import import_checkpoint, layout_named
from portrait_jax.interchange.matching import Match
from portrait_jax.interchange.placed import place_checkpoint
from portrait_jax.sharding import rules
from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.training.params import load_params
from portrait_jax.training.state import flatten
from tests.interchange.made import random_tensors, save, shrunk

LAYOUT = "t5_v1_1_xxl_encoder"
"""Has scanned layers, each of whose leaves is published as one tensor per layer."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small release: its file and the trees of its sub-network."""
    (part,) = layout_named(LAYOUT).parts
    tree = shrunk(part)
    path = save(tmp_path_factory.mktemp("t5") / "model.safetensors", random_tensors(part.stored(tree)))
    return path, {part.subnet: tree}


@pytest.fixture
def mesh(monkeypatch):
    """Four devices among which even small leaves are spread."""
    monkeypatch.setattr(rules, "SMALL", 1)
    return make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:4])


def test_what_is_placed_is_what_is_imported_and_lies_where_the_rules_say(published, mesh, tmp_path, monkeypatch):
    path, trees = published
    read, whole = Match.read, []

    def counted(match, link):
        whole.append(link.layers)
        return read(match, link)

    monkeypatch.setattr(Match, "read", counted)
    placed = flatten(place_checkpoint([LAYOUT], [str(path)], mesh, dtype="float32", targets=trees))
    assert set(whole) == {0}, "a stack was read at once"
    monkeypatch.setattr(Match, "read", read)
    import_checkpoint([LAYOUT], [str(path)], tmp_path / "ours", dtype="float32", targets=trees)
    imported = flatten(load_params(tmp_path / "ours")[0])
    assert placed.keys() == imported.keys()
    spread = 0
    for name, leaf in placed.items():
        np.testing.assert_array_equal(leaf, imported[name], err_msg=name)
        shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        assert leaf.sharding.is_equivalent_to(rules.shardings({name: shape}, mesh)[name], leaf.ndim), name
        spread += not leaf.sharding.is_fully_replicated
    assert spread > 3


def test_half_precision_stays_and_an_incomplete_file_is_named(published, mesh, tmp_path):
    path, trees = published
    kinds = {leaf.dtype.name for leaf in flatten(place_checkpoint([LAYOUT], [str(path)], mesh, targets=trees)).values()}
    assert "bfloat16" in kinds and "float16" in kinds
    (part,) = layout_named(LAYOUT).parts
    tensors = random_tensors(part.stored(shrunk(part)))
    tensors.pop(next(name for name in tensors if name.endswith("layer.0.SelfAttention.k.weight")))
    broken = save(tmp_path / "broken.safetensors", tensors)
    with pytest.raises(CheckpointError, match="lacks 1 of the"):
        place_checkpoint([LAYOUT], [str(broken)], mesh, targets=trees)
