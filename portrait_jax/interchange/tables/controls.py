"""What steers Stable Diffusion from pictures: T2I-Adapter and ControlNet, diffusers' names and the originals'."""

import functools

import jax.numpy as jnp

from portrait_jax.adapters.controlnet import ControlNet
from portrait_jax.adapters.t2i_adapter import T2IAdapter
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import KeyMap
from portrait_jax.interchange.tables.stable_diffusion import LAYERS, LEVELS, encoder_modules


@functools.cache
def adapter_shapes():
    """The tree of a T2I-Adapter for control pictures of three channels."""
    return shapes_of(T2IAdapter(), lambda: (jnp.zeros((1, 1, 64, 64, 3)),))


@functools.cache
def controlnet_shapes():
    """The tree of a ControlNet."""
    sizes = ((1, 1, 8, 8, 4), (1,), (1, 1, 64, 64, 3), (1, 1, 768))
    return shapes_of(ControlNet(), lambda: tuple(jnp.zeros(size) for size in sizes))


def adapter_modules() -> dict[str, str]:
    """The original numbers the residual blocks of all levels through."""
    modules = {"adapter.conv_in": "conv_in"}
    for i in LEVELS:
        modules |= {f"adapter.body.{i}.resnets.{j}": f"body.{LAYERS * i + j}" for j in range(LAYERS)}
        modules[f"adapter.body.{i}.in_conv"] = f"body.{LAYERS * i}.in_conv"
    return modules


def controlnet_modules() -> dict[str, str]:
    """The UNet's encoder in the original's names, the hint network, and the convolutions that end every skip."""
    hint = "controlnet_cond_embedding"
    return {
        **encoder_modules(),
        f"{hint}.conv_in": "input_hint_block.0",
        **{f"{hint}.blocks.{i}": f"input_hint_block.{2 * i + 2}" for i in range(6)},
        f"{hint}.conv_out": "input_hint_block.14",
        **{f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(12)},
        "controlnet_mid_block": "middle_block_out.0",
    }


def adapter(name: str, words: str, table: KeyMap, first: str) -> Layout:
    """A T2I-Adapter in one form."""
    part = Part("pose_adapter", table, adapter_shapes, Signature((first,), (), {first: (320, 320, 3, 3)}))
    return Layout(
        name,
        f"T2I-Adapter for Stable Diffusion 1.5 ({words})",
        (part,),
        (f"{name}_diffusers" if words == "diffusers" else name,),
    )


def controlnet(name: str, words: str, table: KeyMap, first: str) -> Layout:
    """A ControlNet in one form."""
    part = Part("controlnet", table, controlnet_shapes, Signature((first,), (), {first: (320, 320, 1, 1)}))
    return Layout(
        name,
        f"ControlNet for Stable Diffusion 1.5 ({words})",
        (part,),
        (f"{name}_diffusers" if words == "diffusers" else name,),
    )


LAYOUTS = (
    adapter("t2i_adapter_sd15", "diffusers", KeyMap(), "adapter.body.0.resnets.0.block1.weight"),
    adapter("t2i_adapter_sd15_original", "original names", KeyMap(modules=adapter_modules()), "body.0.block1.weight"),
    controlnet("controlnet_sd15", "diffusers", KeyMap(), "controlnet_down_blocks.0.weight"),
    controlnet(
        "controlnet_sd15_original",
        "original names",
        KeyMap("control_model.", modules=controlnet_modules()),
        "control_model.zero_convs.0.0.weight",
    ),
)
