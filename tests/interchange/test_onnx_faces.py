"""insightface's ONNX packs: the same network as the `.pth` file, whatever the exporter made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from portrait_jax.encoders import ArcFace, ArcFaceConfig
from portrait_jax.errors import CheckpointError
from portrait_jax.interchange import import_checkpoint, import_tree, inspect, layout_named
from portrait_jax.interchange.sources import open_checkpoint
from portrait_jax.training.params import load_params
from tests.interchange.made_onnx import Graph, iresnet

CONFIG = ArcFaceConfig(layers=(3, 4, 14, 3), channels=(4, 4, 6, 6), embedding=5, image_size=32)
"""iResNet-50's blocks, by which its layout is known."""
LAYOUT = "arcface_iresnet50"
FACES = np.random.default_rng(5).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def tree():
    """The parameters' shapes."""
    return jax.eval_shape(lambda: ArcFace(CONFIG).init(jax.random.key(0), jnp.asarray(FACES))["params"])


@pytest.fixture(scope="module")
def tensors(tree):
    """Random tensors by the names of the `.pth` file; variances are positive."""
    (part,) = layout_named(LAYOUT).parts
    rng = np.random.default_rng(1)
    made = {name: rng.normal(0.3, 0.3, shape).astype(np.float32) for name, shape in sorted(part.expected(tree).items())}
    return {name: np.abs(value) + 0.5 if name.endswith("running_var") else value for name, value in made.items()}


@jax.jit
def embeddings(params):
    return ArcFace(CONFIG).apply({"params": params}, jnp.asarray(FACES), unit=False)


@pytest.mark.parametrize("options", [{"fold": False}, {"fold": True}, {"fold": True, "normalises": True}])
def test_a_graph_gives_the_embeddings_of_the_pth_file(tensors, tree, tmp_path, options):
    path = iresnet(tensors, tmp_path / "face.onnx", **options)
    done = import_checkpoint([LAYOUT], [str(path)], tmp_path / "ours", targets={"face_recogniser": tree})
    assert done.subnets == {"face_recogniser": len(traverse_util.flatten_dict(tree))}
    (part,) = layout_named(LAYOUT).parts
    expected = embeddings(import_tree(part, tensors, tree))
    found = embeddings(load_params(tmp_path / "ours")[0]["face_recogniser"])
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


def test_an_unfolded_graph_has_the_tensors_themselves(tensors, tmp_path):
    source = open_checkpoint(iresnet(tensors, tmp_path / "face.onnx", fold=False))
    assert source.specs.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(source.read(name), tensor, err_msg=name)


def test_inspect_recognises_the_network(tensors, tmp_path):
    text = inspect(iresnet(tensors, tmp_path / "face.onnx", fold=True))
    assert "ONNX graph of an iResNet" in text and f"layout: {LAYOUT}" in text


def test_a_truncated_graph_is_named(tensors, tmp_path):
    path = iresnet(tensors, tmp_path / "face.onnx", fold=True)
    whole = path.read_bytes()
    for length in (2, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"face\.onnx is (truncated|no ONNX file)"):
            open_checkpoint(path)


def test_another_network_is_named_by_what_is_strange_in_it(tmp_path):
    graph = Graph()
    graph.add("Conv", "x", graph.weight(np.zeros((4, 3, 7, 7), np.float32)))
    with pytest.raises(
        CheckpointError, match=r"another network than an iResNet \(a convolution of shape \[4, 3, 7, 7\]"
    ):
        open_checkpoint(graph.save(tmp_path / "strange.onnx"))
    graph = Graph()
    graph.add("Softmax", "x")
    with pytest.raises(CheckpointError, match="it has an operator Softmax"):
        open_checkpoint(graph.save(tmp_path / "strange.onnx"))


def test_pixels_that_are_not_centred_are_refused(tensors, tmp_path):
    graph = Graph()
    x = graph.add("Mul", "x", graph.weight(np.float32([1 / 255])))
    graph.add("Conv", x, graph.weight(np.zeros((4, 3, 3, 3), np.float32)))
    with pytest.raises(CheckpointError, match=r"pixels are not centred at 127\.5"):
        open_checkpoint(graph.save(tmp_path / "face.onnx"))


def test_a_real_graph_of_another_network_is_read_and_refused(root):
    path = root.parent / "shared" / "models" / "mobilefacenet.onnx"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    with pytest.raises(CheckpointError, match="another network than an iResNet"):
        open_checkpoint(path)
