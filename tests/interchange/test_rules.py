"""The mechanical rule, and each kind of exception in both directions."""

import numpy as np
import pytest

from portrait_jax.interchange.rules import (
    KERNEL,
    LEADING_ONE,
    POINTWISE,
    SAME,
    WEIGHT_NORM,
    Filler,
    Fused,
    KeyMap,
    fillers,
    flattened,
    mechanical,
)


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("down_blocks_0/attentions_1/norm/scale", "down_blocks.0.attentions.1.norm.weight"),
        ("time_embedding/linear_1/kernel", "time_embedding.linear_1.weight"),
        ("layers_0_1/bias", "layers.0.1.bias"),
        ("embeddings/position_embedding/embedding", "embeddings.position_embedding.weight"),
        ("embeddings/class_embedding", "embeddings.class_embedding"),
        ("layer1_0/bn1/var", "layer1.0.bn1.running_var"),
        ("kernel", "weight"),
    ],
)
def test_names_follow_the_path(path, name):
    assert mechanical(path, KeyMap().keep) == name


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_kernels_keep_the_output_axis_last_here_and_first_there(rank):
    kernel = numbers(*range(2, 2 + rank))
    (weight,) = KERNEL.to_torch(kernel)
    assert weight.shape[:2] == (kernel.shape[-1], kernel.shape[-2]) and weight.shape[2:] == kernel.shape[:-2]
    assert weight[1, 0].ravel()[-1] == kernel[(-1,) * (rank - 2) + (0, 1)]
    np.testing.assert_array_equal(KERNEL.to_flax(weight), kernel)


@pytest.mark.parametrize(
    ("kind", "leaf", "shape"),
    [
        (SAME, numbers(3, 4), (3, 4)),
        (POINTWISE, numbers(3, 4), (4, 3, 1, 1)),
        (LEADING_ONE, numbers(3, 4), (1, 3, 4)),
        (flattened(2, 3), numbers(24, 5), (5, 24)),
    ],
)
def test_a_kind_there_and_back_changes_nothing(kind, leaf, shape):
    (published,) = kind.to_torch(leaf)
    assert published.shape == shape
    np.testing.assert_array_equal(kind.to_flax(published), leaf)


def test_a_layer_on_a_flattened_picture_gives_the_same_numbers_from_either_order():
    weight, picture = numbers(5, 4 * 2 * 3), numbers(4, 2, 3)  # (out, c·h·w) and (c, h, w)
    kernel = flattened(2, 3).to_flax(weight)
    ours = picture.transpose(1, 2, 0).ravel() @ kernel
    np.testing.assert_allclose(ours, weight @ picture.ravel(), rtol=1e-5)


def test_weight_norm_is_folded_over_both_channel_axes():
    v, g = numbers(6, 4, 3), np.abs(numbers(1, 1, 3)) + 1
    kernel = WEIGHT_NORM.to_flax(g, v)
    assert kernel.shape == (3, 4, 6)
    np.testing.assert_allclose(np.sqrt(np.square(kernel).sum((1, 2))), g[0, 0], rtol=1e-5)
    np.testing.assert_allclose(kernel[1, 2, 3] / v[3, 2, 1], g[0, 0, 1] / np.linalg.norm(v[:, :, 1]), rtol=1e-5)
    np.testing.assert_allclose(WEIGHT_NORM.to_flax(*WEIGHT_NORM.to_torch(kernel)), kernel, rtol=1e-5)


def test_leaves_of_a_fused_tensor_take_and_give_back_their_parts():
    table = KeyMap(
        fused=tuple(Fused(rf"\.to_{x}\.weight$", ".to_kv.weight", part, 2) for part, x in enumerate("kv")),
    )
    k, v = (table.link(f"a/to_{x}/kernel", (3, 4)) for x in "kv")
    assert k.published() == v.published() == {"a.to_kv.weight": (8, 3)}
    whole = numbers(8, 3)
    np.testing.assert_array_equal(v.to_flax(whole), whole[4:].T)
    parts = [link.to_torch(link.to_flax(whole))["a.to_kv.weight"] for link in (k, v)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_leaf_can_be_several_parts_of_a_tensor_in_an_order_of_its_own():
    table = KeyMap(fused=(Fused(r"\.one\.", ".both.", (0, 3), 4), Fused(r"\.other\.", ".both.", (2, 1), 4)))
    one, other = (table.link(f"a/{name}/kernel", (3, 4)) for name in ("one", "other"))
    assert one.published() == other.published() == {"a.both.weight": (8, 3)}
    whole = numbers(8, 3)
    np.testing.assert_array_equal(one.to_flax(whole), whole[[0, 1, 6, 7]].T)
    np.testing.assert_array_equal(other.to_flax(whole), whole[[4, 5, 2, 3]].T)


def test_scanned_layers_are_published_one_by_one():
    table = KeyMap(
        "net.", modules={"blocks.1.a": "blocks.1.b"}, stacked=("blocks",), kinds=((r"conv/kernel", WEIGHT_NORM),),
        split=((".conv.weight", (".g", ".v")),),
    )  # fmt: skip
    link = table.link("blocks/a/kernel", (2, 3, 4))
    assert link.published() == {"net.blocks.0.a.weight": (4, 3), "net.blocks.1.b.weight": (4, 3)}
    weights = numbers(2, 4, 3)
    leaf = link.to_flax(*weights)
    np.testing.assert_array_equal(leaf, np.swapaxes(weights, 1, 2))
    np.testing.assert_array_equal(np.stack(list(link.to_torch(leaf).values())), weights)
    assert (link.row("net.blocks.1.b.weight"), link.layer(1).to_torch(leaf[1]).keys()) == (1, {"net.blocks.1.b.weight"})
    folded = table.link("blocks/conv/kernel", (2, 3, 4, 6))
    assert folded.names == ("net.blocks.0.g", "net.blocks.0.v", "net.blocks.1.g", "net.blocks.1.v")
    kernel = np.abs(numbers(2, 3, 4, 6)) + 1
    np.testing.assert_allclose(folded.to_flax(*folded.to_torch(kernel).values()), kernel, rtol=1e-5)


def test_modules_are_renamed_by_their_longest_beginning_on_whole_segments():
    table = KeyMap("net.", modules={"a": "x", "a.b": "y.0"}, renames=((r"\.norms\.(\d)\.", r".norm\1."),))
    names = {path: table.link(path, (2,)).names[0] for path in ("a/c/bias", "a/b/bias", "ab/bias", "q/norms_1/scale")}
    assert list(names.values()) == ["net.x.c.bias", "net.y.0.bias", "net.ab.bias", "net.q.norm1.weight"]


def test_one_leaf_can_be_published_as_several_tensors():
    table = KeyMap(split=((".weight", (".weight_g", ".weight_v")),), kinds=((r"kernel", WEIGHT_NORM),))
    link = table.link("conv/kernel", (3, 4, 6))
    assert link.published() == {"conv.weight_g": (1, 1, 3), "conv.weight_v": (6, 4, 3)}


def test_fillers_stand_beside_the_tensor_they_are_made_from():
    table = KeyMap(fillers=(Filler(r"(.*)\.to_q\.weight", r"\1.pe", lambda shape: np.zeros((1, 5, shape[0]))),))
    found = fillers(table, {"a.to_q.weight": (7, 7), "b.bias": (2,)})
    assert {name: filler.make(shape).shape for name, (filler, shape) in found.items()} == {"a.pe": (1, 5, 7)}
