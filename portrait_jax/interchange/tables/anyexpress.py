"""AnyExpress's adapter in one file of our own naming, for no weights were published: what trains, and nothing of the base.

`audio_proj.` is the projection of speech features, `audio_attn.SIDE.BLOCK.LAYER.` the attention in one transformer, `motion.`
the motion modules by diffusers' names. Of these a file holds the ones that train, or all; the rest is AnimateDiff's own.
"""

import functools

import jax.numpy as jnp
from flax import traverse_util

from portrait_jax.adapters.audio import AudioConfig, AudioProjection, audio_slot
from portrait_jax.backbones.unet import UNet, UNetConfig
from portrait_jax.conditioning import Conditioning
from portrait_jax.encoders.wav2vec2 import Wav2Vec2Config
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import KeyMap
from portrait_jax.interchange.tables.animatediff import DIFFUSERS, MOTION, motion_shapes

TRAINED = r"(down_blocks_0|down_blocks_2|up_blocks_1|up_blocks_3)/motion_modules_\d+/"
"""Motion modules of the first and the last block of each side that has attention."""
ATTENTION = r".*/audio_attention/"


@functools.cache
def projection_shapes():
    """The tree of the projection."""
    speech, window = Wav2Vec2Config(), AudioConfig().window
    return shapes_of(AudioProjection(), lambda: (jnp.zeros((1, 1, window, speech.layers, speech.hidden)),))


@functools.cache
def denoiser_shapes():
    """What the adapter adds to a UNet: attentions to sound, and all motion modules."""
    config = AudioConfig()
    tree = shapes_of(
        UNet(UNetConfig(context_field="text"), (audio_slot(config),)),
        lambda: (
            jnp.zeros((1, 1, 8, 8, 4)),
            jnp.zeros(1),
            Conditioning(audio=jnp.zeros((1, 1, config.tokens, config.width))),
        ),
    )
    added = only(tree, config.name), motion_shapes(True)
    return traverse_util.unflatten_dict(
        {k: leaf for part in added for k, leaf in traverse_util.flatten_dict(part).items()}
    )


def only(tree, name: str):
    """The branches of a tree that lead to modules of this name."""
    if not isinstance(tree, dict):
        return {}
    inner = {key: branch if key == name else only(branch, name) for key, branch in tree.items()}
    return {key: branch for key, branch in inner.items() if branch}


TRANSFORMER = r"attentions\.(\d+)\.transformer_blocks\.0\.audio_attention\."
ATTENTIONS = KeyMap(
    "audio_attn.",
    renames=(
        (rf"^(down|up)_blocks\.(\d+)\.{TRANSFORMER}", r"\1.\2.\3."),
        (rf"^mid_block\.{TRANSFORMER}", r"mid.0.\1."),
        (r"\.attn\.to_([qkv])\.", r".\1."),
        (r"\.attn\.to_out\.0\.", ".o."),
    ),
)
PROJECTION_PART = Part(
    "audio_projection",
    KeyMap("audio_proj."),
    projection_shapes,
    Signature(("audio_proj.proj1.weight", "audio_proj.norm.weight"), (), {"audio_proj.proj1.weight": (512, 46080)}),
)
QUERY, MODULE = "audio_attn.down.0.0.q.weight", "motion.down_blocks.0.motion_modules.0.proj_in.weight"
MIDDLE = "motion.mid_block.motion_modules.0.proj_in.weight"
ATTENTION_PART = Part(
    "denoiser",
    ATTENTIONS,
    denoiser_shapes,
    Signature((QUERY,), (), {QUERY: (320, 320)}),
    select=ATTENTION,
)


def motion_part(every: bool) -> Part:
    """All motion modules, or those that train."""
    return Part(
        "denoiser",
        KeyMap("motion.", renames=DIFFUSERS.renames),
        denoiser_shapes,
        Signature(
            (MODULE, MIDDLE) if every else (MODULE,), () if every else (r"motion\.mid_block\.",), {MODULE: (320, 320)}
        ),
        select=MOTION if every else TRAINED,
    )


LAYOUTS = (
    Layout(
        "anyexpress_adapter",
        "AnyExpress's adapter: sound, and the motion modules that train (this project's names)",
        (PROJECTION_PART, ATTENTION_PART, motion_part(every=False)),
    ),
    Layout(
        "anyexpress_adapter_all",
        "AnyExpress's adapter with all motion modules (this project's names)",
        (PROJECTION_PART, ATTENTION_PART, motion_part(every=True)),
    ),
)
