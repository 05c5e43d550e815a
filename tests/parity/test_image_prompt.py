"""IP-Adapter's projections and decoupled attention equal diffusers', loaded under the published names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from portrait_jax.adapters.image_prompt import (
    ImagePromptConfig,
    image_projection,
    image_prompt_slot,
    init_lora,
    merge_lora,
)
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from tests.parity.oracle import (
    FORWARD,
    GRADIENT,
    assert_parity,
    channels_first,
    channels_last,
    diffusers,
    draw,
    publish,
    randomised,
    relative,
    torch,
)
from tests.weights import part_of, tree_of

pytestmark = pytest.mark.parity

WIDTH, FACE, CLIP = 128, 24, 40
"""Of tokens (two heads of 64), of face embeddings, of CLIP's tokens."""
HIDDEN = draw(2, 5, CLIP, seed=5)


LAYOUTS = {
    "plain": "ip_adapter_sd15",
    "full": "ip_adapter_full_face_sd15",
    "plus": "ip_adapter_plus_face_sd15",
    "face_id": "ip_adapter_faceid_sd15",
    "face_id_plus": "ip_adapter_faceid_plus_sd15",
}
PROJECTION = "image_proj."
"""Before every name of a projection in the files; their readers cut it off."""


def random_projection(config: ImagePromptConfig, *args):
    """Random weights under the names of the published files, and the same as ours."""
    module, part = image_projection(config), part_of(LAYOUTS[config.kind], "image_prompt")
    generator = torch.Generator().manual_seed(0)
    weights = {
        name.removeprefix(PROJECTION): torch.randn(shape, generator=generator)
        * (shape[-1] ** -0.5 if len(shape) > 1 else 0.5)
        for name, shape in part.expected(tree_of(module, *args)).items()
    }
    return weights, publish(weights, part, module, *args, prefix=PROJECTION)


PLUS_NAMES = {"layers.0.attn.to_q.weight": "layers.0.0.to_q.weight", "layers.1.ln0.weight": "layers.1.0.norm1.weight"}
CASES = {
    "plain": (4, (2, FACE), {"image_embeds.weight": "proj.weight", "norm.weight": "norm.weight"}),
    "full": (1, (2, 5, CLIP), {"ff.net.0.proj.weight": "proj.0.weight", "norm.weight": "proj.3.weight"}),
    "plus": (3, (2, 5, CLIP), {"latents": "latents", **PLUS_NAMES}),
    "face_id": (4, (2, FACE), {"ff.net.0.proj.weight": "proj.0.weight", "norm.weight": "norm.weight"}),
}
"""Kind → tokens, shape of the input, two of diffusers' names with the published ones."""


@pytest.mark.parametrize("kind", CASES)
def test_projection_equals_diffusers(kind):
    tokens, shape, names = CASES[kind]
    config = ImagePromptConfig(kind, tokens, WIDTH)
    weights, published = random_projection(config, jnp.zeros(shape))
    oracle = unet()._convert_ip_adapter_image_proj_to_diffusers(weights, low_cpu_mem_usage=False).eval()

    def apply(params, x, dtype):
        return image_projection(config, dtype).apply(params, x)

    assert_parity(oracle, oracle, apply, draw(*shape), published, list(names), names.get)


@pytest.mark.parametrize("shortcut", [False, True], ids=["plus", "plus_v2"])
def test_face_id_plus_projection_equals_diffusers(shortcut):
    config = ImagePromptConfig("face_id_plus", 4, WIDTH, shortcut=shortcut)
    weights, published = random_projection(config, jnp.zeros((2, FACE)), jnp.zeros((2, 5, CLIP)))
    oracle = unet()._convert_ip_adapter_image_proj_to_diffusers(weights, low_cpu_mem_usage=False).eval()
    oracle.shortcut, oracle.clip_embeds = shortcut, torch.tensor(HIDDEN)[:, None]

    def apply(params, x, dtype):
        return image_projection(config, dtype).apply(params, x, jnp.asarray(HIDDEN))

    names = {"proj_in.weight": "perceiver_resampler.proj_in.weight", "proj.net.0.proj.weight": "proj.0.weight"}
    assert_parity(oracle, oracle, apply, draw(2, FACE), published, list(names), names.get)


SMALL = UNetConfig(
    block_out_channels=(32, 64),
    layers_per_block=1,
    attention_levels=(True, False),
    context_dim=WIDTH,
    context_field="text",
)
WHOLE = UNetConfig(block_out_channels=(32, 32, 64, 64), context_dim=WIDTH, context_field="text", norm_groups=8)
"""As many attentions as the published UNet, so that the files' numbers mean the same places.

With 32 norm groups the deepest level, one pixel large, would have two numbers in each. Where those happen to be almost equal,
the norm enlarges rounding a hundredfold: PyTorch's own float32 gradients are then up to 2e-3 away from its float64 ones.
"""
SLOTS = (image_prompt_slot(heads=8, scale=0.7),)


def unet(config: UNetConfig = SMALL):
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        down_block_types=["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in config.attention_levels],
        up_block_types=["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in config.attention_levels[::-1]],
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=config.norm_groups,
    )


@pytest.fixture(scope="module")
def adapted():
    """A UNet with an adapter of the plain kind in it, and the adapter's projection; both sides read the published names."""
    oracle = randomised(unet(WHOLE))
    base = dict(oracle.state_dict())
    layers = [name for name in oracle.attn_processors if "attn2" in name]
    widths = {name: base[name.replace("processor", "to_k.weight")].shape[0] for name in layers}
    adapter = {
        f"{2 * i + 1}.{key}.weight": torch.tensor(draw(widths[name], WIDTH, seed=20 + i)) * WIDTH**-0.5
        for i, name in enumerate(layers)
        for key in ("to_k_ip", "to_v_ip")
    }
    config = ImagePromptConfig("plain", 4, WIDTH)
    projection, ours = random_projection(config, jnp.zeros((1, FACE)))
    oracle._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": adapter}], low_cpu_mem_usage=False)
    for processor in oracle.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.7]
    tensors = base | {f"ip_adapter.{name}": value for name, value in adapter.items()}
    parts = part_of("sd15_unet"), part_of("ip_adapter_sd15", "denoiser")
    tokens = Conditioning(image_tokens=jnp.zeros((1, config.tokens, WIDTH)))
    published = publish(tensors, parts, UNet(WHOLE, SLOTS), *SHAPES, tokens)
    return oracle.eval(), published, lambda picture: image_projection(config).apply(ours.variables, picture)


SHAPES = jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1)
TEXT, LATENTS = draw(1, 7, WIDTH, seed=2), draw(2, 4, 8, 8, seed=3)


def run(params, picture_tokens, dtype=jnp.float32, config=WHOLE):
    """Two frames of one clip."""
    x = channels_last(LATENTS)[None]
    conditioning = Conditioning(text=jnp.asarray(TEXT), image_tokens=picture_tokens)
    return channels_first(UNet(config, SLOTS, dtype).apply(params, x, jnp.full(1, 7), conditioning)[0])


def call(oracle, picture):
    return oracle(
        torch.tensor(LATENTS),
        7,
        torch.tensor(TEXT).repeat(2, 1, 1),
        added_cond_kwargs={"image_embeds": [picture.repeat(2, 1)[:, None]]},
    ).sample


def test_decoupled_attention_equals_diffusers(adapted):
    oracle, published, project = adapted

    def apply(params, picture, dtype):
        return run(params, project(picture), dtype)

    middle = "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.0.weight"
    names = {middle: "ip_adapter.31.to_k_ip.weight", "conv_in.weight": "conv_in.weight"}
    assert_parity(oracle, lambda x: call(oracle, x), apply, draw(1, FACE), published, list(names), names.get)


def test_without_a_picture_the_base_speaks_alone(adapted):
    oracle, published, _ = adapted
    plain = unet(WHOLE).eval()
    kept = {name: value for name, value in oracle.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(kept)
    expected = plain(torch.tensor(LATENTS), 7, torch.tensor(TEXT).repeat(2, 1, 1)).sample.detach().numpy()
    assert relative(jax.jit(run)(published.variables, None), expected) < FORWARD


def test_low_rank_updates_equal_added_layers():
    """The oracle runs every update as two more linear layers beside the projection, as the published code does."""
    oracle = randomised(unet(), seed=1)
    params = publish(oracle.state_dict(), part_of("sd15_unet"), UNet(SMALL, SLOTS), *SHAPES).variables
    made = jax.eval_shape(lambda key: init_lora(key, params["params"], rank=4), jax.random.key(0))
    rng = np.random.default_rng(0)
    lora = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=0.3), jnp.float32), made)
    updates = traverse_util.flatten_dict(lora, sep="/")
    assert len(updates) == 2 * 4 * len(oracle.attn_processors)
    tensors = add_layers(oracle, updates, scale=0.8)
    out = oracle(torch.tensor(LATENTS), 7, torch.tensor(TEXT).repeat(2, 1, 1)).sample
    weights, wanted = draw(*out.shape, seed=7), [path for path in updates if "down_blocks_0" in path][:2]
    slopes = torch.autograd.grad((out * torch.tensor(weights)).sum(), [tensors[path] for path in wanted])

    def loss(chosen, rest, scale, base):
        whole = traverse_util.unflatten_dict(rest | chosen, sep="/")
        ours = run({"params": merge_lora(base, whole, scale)}, None, config=SMALL)
        return (ours * weights).sum(), ours

    chosen = {path: updates.pop(path) for path in wanted}
    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, ours), gradients = gradient(chosen, updates, 0.8, params["params"])
    expected = out.detach().numpy()
    assert relative(ours, expected) < FORWARD
    for path, slope in zip(wanted, slopes):
        assert relative(gradients[path], slope) < GRADIENT
    assert relative(gradient(chosen, updates, 0.0, params["params"])[0][1], expected) > 1e-2


def add_layers(oracle, updates, scale: float) -> dict:
    """Puts the updates beside the projections of a UNet; returns them as tensors, by their paths."""
    modules = dict(oracle.named_modules())
    tensors = {path: torch.tensor(np.asarray(leaf), requires_grad=True) for path, leaf in updates.items()}
    for path in (path for path in updates if path.endswith("down/kernel")):
        block, _, kind = path.removesuffix("/down/kernel").rpartition("/processor/")
        layer = kind.removesuffix("_lora").replace("to_out", "to_out.0")
        names = block.replace("attentions_", "attentions.").replace("blocks_", "blocks.").replace("/", ".")
        down, up = (tensors[path.replace("/down/", f"/{part}/")] for part in ("down", "up"))
        modules[f"{names}.{layer}"].register_forward_hook(
            lambda module, inputs, out, down=down, up=up: out + scale * inputs[0] @ down @ up
        )
    return tensors
