"""X-NeMo's motion encoder, which exists at full size only, equals the original's from image to tokens."""

import jax
import numpy as np
import pytest

from portrait_jax.encoders.fan import FANMotionEncoder
from portrait_jax.nn.embeddings import halves_table
from tests.golden import assert_close, manifest
from tests.systems.xnemo.original import case, parts, recipe
from tests.weights import imported, tree_of

SLICES = (
    "conv1", "bn1", "conv2", "att_1", "conv3", "conv4", "att_2", "m0", "top_m_0", "bn_end0", "att_3", "l0", "bn5", "conv6",
)  # fmt: skip


def own_layers(module, method: str) -> bool:
    """Layers of the encoder itself, not those inside them."""
    return len(module.path) == 2 and module.name in SLICES


@pytest.fixture(scope="module")
def run():
    """The golden image through the encoder: latents, tokens, and the outputs of its layers."""
    golden, module = case("motion_encoder"), FANMotionEncoder()
    size = module.config.image_size
    draw = np.random.Generator(np.random.PCG64(1401)).standard_normal((1, 3, 2, size, size), np.float32)
    image = np.tanh(draw)
    corner = golden.inputs["image_corner"]
    np.testing.assert_allclose(image[..., : corner.shape[-2], : corner.shape[-1]], corner, atol=1e-6)
    faces, box = np.moveaxis(image, 1, -1), golden.inputs["triplet"]
    shapes = {
        name: tuple(shape) for name, (shape, _) in manifest("xnemo_manifest.json")["xnemo_motion_encoder.pth"].items()
    }
    assert len(shapes) == golden.settings["n_state_entries"]
    params = imported(tree_of(module, faces, box), recipe(shapes, golden.settings["seed"]), *parts("motion_encoder"))

    @jax.jit
    def call(params, faces, box):
        latent, seen = module.apply(params, faces, method="encode", capture_intermediates=own_layers)
        return latent, module.apply(params, latent, box, method="fuse"), seen["intermediates"]["model"]

    return golden, module, params, call(params, faces, box)


def test_latents_and_tokens_match_golden(run):
    golden, _, _, (latent, tokens, _) = run
    assert_close(latent, golden.outputs["f_mot"])
    assert_close(tokens, golden.outputs["tokens"])
    assert_close(tokens[:, 0], golden.outputs["tokens_single"])


def test_every_layer_matches_golden(run):
    golden, _, _, (_, _, layers) = run
    for name in SLICES:
        expected = golden.tensors[f"mid_slice/{name}"]
        (output,) = layers[name]["__call__"]
        channels, height, width = expected.shape
        found = np.moveaxis(np.asarray(output[0, :height, :width, :channels]), -1, 0)
        # The original's ReLUs work in place: what was noted of these norms has been through them.
        assert_close(np.maximum(found, 0) if name in ("bn1", "bn5") else found, expected)


def test_fusion_matches_golden(run):
    golden, module, params, _ = run
    latent, box = (golden.tensors[f"fuse/in/{name}"] for name in ("f_mot", "triplet"))
    tokens = jax.jit(lambda *args: module.apply(params, *args, method="fuse"))(latent, box)
    assert_close(tokens, golden.tensors["fuse/out/tokens"])


def test_position_tables_are_the_golden_buffers():
    golden = case("motion_encoder")
    np.testing.assert_allclose(
        halves_table(*golden.tensors["buffer/pe"].shape[1:])[None], golden.tensors["buffer/pe"], atol=1e-6
    )
