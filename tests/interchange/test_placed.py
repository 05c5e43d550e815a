"""Protects: a release read straight to devices is the release imported, lies where the rules say, and never whole on the host."""

import gc
import tracemalloc

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
from tests.interchange.made import place, random_tensors, release, save, shrunk, targets

LAYOUT = "t5_v1_1_xxl_encoder"
"""Has scanned layers, each of whose leaves is published as one tensor per layer."""
FUSED = "hallo3"
"""Its layers' queries, keys and values are one tensor, and so are the twelve parts of a modulation."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small release: its file and the trees of its sub-network."""
    (part,) = layout_named(LAYOUT).parts
    tree = shrunk(part)
    path = save(tmp_path_factory.mktemp("t5") / "model.safetensors", random_tensors(part.stored(tree)))
    return path, {part.subnet: tree}


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """The same of a release of several files."""
    layout, folder = layout_named(FUSED), tmp_path_factory.mktemp("fused")
    return [str(place(folder, name)) for name in release(layout, folder)], targets(layout)


@pytest.fixture
def mesh(monkeypatch):
    """Four devices among which even small leaves are spread."""
    monkeypatch.setattr(rules, "SMALL", 1)
    return make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:4])


@pytest.mark.parametrize("name", [LAYOUT, pytest.param(FUSED, marks=pytest.mark.slow)])
def test_what_is_placed_is_what_is_imported_and_lies_where_the_rules_say(
    name, published, fused, mesh, tmp_path, monkeypatch
):
    paths, trees = ([str(published[0])], published[1]) if name == LAYOUT else fused
    read, whole = Match.read, []

    def counted(match, link):
        whole.append(link.layers)
        return read(match, link)

    monkeypatch.setattr(Match, "read", counted)
    placed = flatten(place_checkpoint([name], paths, mesh, dtype="float32", targets=trees))
    assert set(whole) == {0}, "a stack was read at once"
    monkeypatch.setattr(Match, "read", read)
    import_checkpoint([name], paths, tmp_path / "ours", dtype="float32", targets=trees)
    imported = flatten(load_params(tmp_path / "ours")[0])
    assert placed.keys() == imported.keys()
    spread = 0
    for path, leaf in placed.items():
        np.testing.assert_array_equal(leaf, imported[path], err_msg=path)
        shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        assert leaf.sharding.is_equivalent_to(rules.shardings({path: shape}, mesh)[path], leaf.ndim), path
        spread += not leaf.sharding.is_fully_replicated
    assert spread > 3


def test_the_host_holds_far_less_than_the_checkpoint(tmp_path, mesh):
    """24 layers of 1.2 MB: what numpy has at once is a few layers, read, turned and cast."""
    (part,) = layout_named(LAYOUT).parts
    tree = shrunk(part, 256)
    path = save(tmp_path / "large.safetensors", random_tensors(part.stored(tree), dtypes=(np.dtype(np.float16),)))
    gc.collect()
    tracemalloc.start()
    place_checkpoint([LAYOUT], [str(path)], mesh, dtype="float32", targets={part.subnet: tree})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 2e7 and peak < path.stat().st_size / 4


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
