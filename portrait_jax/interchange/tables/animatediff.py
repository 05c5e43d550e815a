"""AnimateDiff's motion modules: the original files (`mm_sd_v15_v2.ckpt`, …) and diffusers' MotionAdapter.

They are the temporal modules of a UNet and nothing else; import them together with a UNet to get one sub-network. The
position tables are computed, not read. v1 and v3 have equal tensors but for the length of these tables.
"""

from functools import partial

from portrait_jax.backbones.unet import UNetConfig
from portrait_jax.interchange.layouts import Layout, Part, Signature
from portrait_jax.interchange.rules import Filler, KeyMap
from portrait_jax.interchange.tables.stable_diffusion import unet_shapes
from portrait_jax.nn.embeddings import position_table
from portrait_jax.nn.temporal import TemporalConfig

LENGTH = TemporalConfig().max_length
# What releases with motion modules of their own store besides: position tables, which are computed here.
POSITIONS = Filler(
    r"(.*\.attention_blocks\.\d+)\.to_q\.weight",
    r"\1.pos_encoder.pe",
    lambda shape: position_table(LENGTH, shape[0])[None],
)
MOTION = r".*/motion_modules_\d+/"

# Some files were saved from a model wrapped for several devices.
ORIGINAL = KeyMap(aliases=((r"^module\.", ""),), ignored=(r".*\.pos_encoder\.pe",))
DIFFUSERS = KeyMap(
    renames=(
        (r"\.temporal_transformer\.", "."),
        (r"\.attention_blocks\.0\.", ".attn1."),
        (r"\.attention_blocks\.1\.", ".attn2."),
        (r"\.norms\.0\.", ".norm1."),
        (r"\.norms\.1\.", ".norm2."),
        (r"\.ff_norm\.", ".norm3."),
    ),
    ignored=(r".*\.pos_embed\.pe",),
)
FIRST = "down_blocks.0.motion_modules.0."
ATTENTION = FIRST + "temporal_transformer.transformer_blocks.0.attention_blocks.0."


def motion_shapes(mid: bool):
    """The tree of a UNet's motion modules, with that of the middle or without."""
    tree = only_motion(unet_shapes(UNetConfig(temporal=TemporalConfig())))
    return {name: branch for name, branch in tree.items() if mid or name != "mid_block"}


def only_motion(tree):
    """The branches of a UNet's tree that lead to motion modules."""
    if not isinstance(tree, dict):
        return {}
    inner = {
        name: branch if name.startswith("motion_modules_") else only_motion(branch) for name, branch in tree.items()
    }
    return {name: branch for name, branch in inner.items() if branch}


def motion_part(table: KeyMap, mid: bool, length: int, file: str) -> Part:
    """One version in one form. A file of v1 is known by the length of its position tables if it stores them, else taken for v3."""
    original = table is ORIGINAL
    query = ATTENTION + "to_q.weight" if original else FIRST + "transformer_blocks.0.attn1.to_q.weight"
    positions = ATTENTION + "pos_encoder.pe" if original else FIRST + "transformer_blocks.0.pos_embed.pe"
    middle = "mid_block.motion_modules.0." + ("temporal_transformer." if original else "") + "proj_in.weight"
    has = (query, middle) if mid else (query,)
    return Part(
        "denoiser",
        table,
        partial(motion_shapes, mid),
        Signature(
            has,
            (r"conv_in\.",) if mid else (r"conv_in\.", r"mid_block\."),
            {query: (320, 320), positions: (1, length, 320)},
        ),
        file,
        select=MOTION,
    )


VERSIONS = (
    ("v3", "v3", False, LENGTH, "v3_sd15_mm.ckpt"),
    ("v2", "v2", True, LENGTH, "mm_sd_v15_v2.ckpt"),
    ("v1", "v1 (group norms were trained jointly over frames)", False, 24, "mm_sd_v15.ckpt"),
)
LAYOUTS = tuple(
    Layout(
        f"animatediff_{version}{suffix}",
        f"AnimateDiff's motion modules {words}, {form}",
        (motion_part(table, mid, length, file if table is ORIGINAL else "motion_adapter"),),
        (f"animatediff_{version}_{'diffusers' if suffix else 'original'}",),
    )
    for version, words, mid, length, file in VERSIONS
    for table, suffix, form in ((ORIGINAL, "", "original names"), (DIFFUSERS, "_diffusers", "diffusers' names"))
)
