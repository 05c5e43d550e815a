"""IP-Adapter for Stable Diffusion 1.5, all variants: a projection to tokens, and attentions numbered through.

The files number the attentions of the UNet in the order down, up, middle: two per transformer, self-attention first. The
projection becomes the sub-network `image_prompt`, the attentions leaves of `denoiser` beside those of the UNet.
"""

import functools

import jax
import jax.numpy as jnp
from flax import traverse_util

from portrait_jax.adapters.image_prompt import PUBLISHED, image_projection, image_prompt_slot, init_lora
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import KeyMap
from portrait_jax.interchange.tables.stable_diffusion import unet_shapes

SITES = (
    *(f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)),
    *(f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)),
    "mid_block.attentions.0",
)
CLIP_EMBEDDING, CLIP_HIDDEN, FACE = 1024, 1280, 512
INPUTS = {
    "plain": ((1, CLIP_EMBEDDING),),
    "plus": ((1, 257, CLIP_HIDDEN),),
    "full": ((1, 257, CLIP_HIDDEN),),
    "face_id": ((1, FACE),),
    "face_id_plus": ((1, FACE), (1, 257, CLIP_HIDDEN)),
}
"""Kind of projection → shapes of what it reads."""


@functools.cache
def attention_shapes(lora: bool):
    """What an adapter adds to the UNet: keys and values of each cross-attention, and the low-rank updates."""
    made = shapes_of(
        UNet(UNetConfig(context_field="text"), (image_prompt_slot(8),)),
        lambda: (jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1), Conditioning(image_tokens=jnp.zeros((1, 4, 768)))),
    )
    added = {path: leaf for path, leaf in traverse_util.flatten_dict(made).items() if "processor" in path}
    if lora:
        updates = jax.eval_shape(lambda base: init_lora(jax.random.key(0), base), unet_shapes())
        added |= traverse_util.flatten_dict(updates)
    return traverse_util.unflatten_dict(added)


@functools.cache
def projection_shapes(name: str):
    """The tree of a projection."""
    config = PUBLISHED[name]
    return shapes_of(image_projection(config), lambda: tuple(jnp.zeros(shape) for shape in INPUTS[config.kind]))


def attention_modules() -> dict[str, str]:
    """Sites to numbers."""
    modules = {}
    for k, site in enumerate(SITES):
        for which, number in (("attn1", 2 * k), ("attn2", 2 * k + 1)):
            processor = f"{site}.transformer_blocks.0.{which}.processor"
            modules[processor] = f"{number}"
            modules |= {f"{processor}.to_{x}_ip.0": f"{number}.to_{x}_ip" for x in "kv"}
    return modules


ATTENTIONS = KeyMap("ip_adapter.", modules=attention_modules())
PROJECTION = KeyMap("image_proj.")
KEYS, LORA = "ip_adapter.1.to_k_ip.weight", "ip_adapter.0.to_q_lora.down.weight"
RESAMPLER = "image_proj.perceiver_resampler.proj_in.weight"


def adapter(name: str, words: str, projection: Signature, lora: bool) -> Layout:
    """One variant."""
    attentions = (
        Signature((KEYS, LORA), (), {KEYS: (320, 768)})
        if lora
        else Signature((KEYS,), (r".*_lora\.",), {KEYS: (320, 768)})
    )
    parts = (
        Part("image_prompt", PROJECTION, functools.partial(projection_shapes, name), projection),
        Part(
            "denoiser",
            ATTENTIONS,
            functools.partial(attention_shapes, lora),
            attentions,
            select=r".*/processor/" if lora else r".*/processor/to_[kv]_ip",
        ),
    )
    return Layout(name, f"IP-Adapter for Stable Diffusion 1.5, {words}", parts, (name,))


NO_RESAMPLER = (r"image_proj\.perceiver_resampler\.",)
LAYOUTS = (
    adapter(
        "ip_adapter_sd15",
        "plain (4 tokens)",
        Signature(("image_proj.proj.weight",), (), {"image_proj.proj.weight": (3072, 1024)}),
        lora=False,
    ),
    adapter(
        "ip_adapter_plus_face_sd15",
        "plus and plus-face (16 tokens)",
        Signature(("image_proj.latents",), (), {"image_proj.latents": (1, 16, 768)}),
        lora=False,
    ),
    adapter(
        "ip_adapter_full_face_sd15", "full-face (257 tokens)", Signature(("image_proj.proj.3.weight",)), lora=False
    ),
    adapter(
        "ip_adapter_faceid_sd15",
        "FaceID (4 tokens)",
        Signature(
            ("image_proj.proj.2.weight", "image_proj.norm.weight"),
            NO_RESAMPLER,
            {"image_proj.proj.2.weight": (3072, 1024)},
        ),
        lora=True,
    ),
    adapter(
        "ip_adapter_faceid_plus_sd15", "FaceID-plus, versions 1 and 2 (4 tokens)", Signature((RESAMPLER,)), lora=True
    ),
    adapter(
        "ip_adapter_faceid_portrait_sd15",
        "FaceID-portrait (16 tokens)",
        Signature(
            ("image_proj.proj.2.weight", "image_proj.norm.weight"),
            NO_RESAMPLER,
            {"image_proj.proj.2.weight": (12288, 1024)},
        ),
        lora=False,
    ),
)
