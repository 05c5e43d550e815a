"""Every key map against the manifests of the published files, in both directions, at full size and without arrays."""

import math
from collections import Counter

import numpy as np
import pytest

from portrait_jax.backbones.unet import UNetConfig
from portrait_jax.interchange.layouts import layouts, recognise
from portrait_jax.interchange.rules import mechanical
from portrait_jax.interchange.safetensors_files import Spec
from portrait_jax.interchange.tables.stable_diffusion import unet_shapes
from tests.golden import manifest
from tests.weights import nested

ALL = sorted(layouts())
MANIFESTED = [name for name in ALL if layouts()[name].manifest]
UNLISTED = {
    "lpips_alex": 61_100_840 - 58_631_144 + (64 + 192 + 384 + 256 + 256),  # AlexNet less its classifier; linear layers
    "resnet50": 25_557_032 - 2_049_000,  # less its classifier of 1000 kinds
    "taesd": 2_445_063,
    "vgg19": 20_024_384 - 3 * 2_359_808,  # the convolutions, less the last three
    "vggface": 14_714_688 - 2 * 2_359_808,  # VGG-16's, less the last two
}
"""Published layouts that no manifest lists → number of parameters, running statistics aside."""
OWN = {"anyexpress_adapter", "anyexpress_adapter_all", "drawing_guider"}
"""Names that are this package's, or a part of a release's."""
RELEASES = (
    "follow_your_emoji_manifest.json",
    "xnemo_manifest.json",
    "hunyuan_portrait_manifest.json",
    "hallo3_manifest.json",
)


def published(name: str) -> list:
    """(part, names and shapes that the manifest lists for it) of a layout."""
    layout = layouts()[name]
    bases, release = manifest("bases_manifest.json"), {}
    for file in RELEASES:
        release |= manifest(file)
    entries = [bases[entry]["params"] if entry in bases else release[entry] for entry in layout.manifest]
    listed = [{tensor: tuple(shape) for tensor, (shape, _) in entry.items()} for entry in entries]
    if len(listed) == len(layout.parts):
        return list(zip(layout.parts, listed))
    files = dict(zip(dict.fromkeys(part.file for part in layout.parts), listed, strict=True))
    return [
        (part, {name: shape for name, shape in files[part.file].items() if name.startswith(part.table.prefix)})
        for part in layout.parts
    ]


def specs(shapes: dict) -> dict[str, Spec]:
    return {name: Spec(shape, np.dtype(np.float32)) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", MANIFESTED)
def test_every_published_tensor_is_read_with_its_shape_and_nothing_else_is_asked_for(name):
    for part, listed in published(name):
        needless = {tensor for tensor in listed if part.table.ignores(tensor) or part.table.spares(tensor)}
        assert part.stored() == {tensor: shape for tensor, shape in listed.items() if tensor not in needless}


def test_layouts_without_a_manifest_are_listed_here_with_what_is_known_of_them():
    """Names and shapes of these are compared with their classes in `tests/parity`."""
    assert set(UNLISTED) | OWN == set(ALL) - set(MANIFESTED)


@pytest.mark.parametrize("name", UNLISTED)
def test_layouts_without_a_manifest_have_the_published_number_of_parameters(name):
    stored = {tensor: shape for part in layouts()[name].parts for tensor, shape in part.stored().items()}
    statistics = {tensor for tensor in stored if tensor.endswith((".running_mean", ".running_var"))}
    assert sum(math.prod(shape) for tensor, shape in stored.items() if tensor not in statistics) == UNLISTED[name]


@pytest.mark.parametrize("name", ALL)
def test_every_published_tensor_is_read_once(name):
    """A tensor that several leaves share is cut into as many different parts; any other belongs to one leaf."""
    for part in layouts()[name].parts:
        links = part.links(part.published())
        uses = Counter((tensor, taken) for link in links for tensor in link.names for taken in link.taken)
        assert set(uses.values()) == {1}
        shares = Counter(tensor for tensor, _ in uses)
        assert all(shares[tensor] == link.parts for link in links for tensor in link.names)


@pytest.mark.parametrize("name", ALL)
def test_every_leaf_of_the_network_is_produced_once(name):
    for part in layouts()[name].parts:
        links = part.links(part.published())
        assert len({link.path for link in links}) == len(links) > 0


@pytest.mark.parametrize("name", ALL)
def test_a_layout_is_recognised_by_its_names(name):
    """By those of its manifest, or where there is none by its own."""
    layout = layouts()[name]
    files = {part.file: {} for part in layout.parts}
    for part, listed in published(name) if layout.manifest else [(part, part.stored()) for part in layout.parts]:
        # v1 and v3 hold equal tensors; only the position tables that files may store tell them apart.
        files[part.file] |= listed | (part.signature.shapes if "_v1" in name else {})
    for file, listed in files.items():
        best, parts = recognise(specs(listed))[0]
        held = [part.table for part in layout.parts if part.file == file]
        # A network that stands alone is named before the releases that include it.
        assert best is layout or [part.table for part in best.parts] == held
        assert len(parts) == len(held)


def test_stored_position_tables_tell_animatediff_v1_from_v3():
    entry = manifest("bases_manifest.json")
    for version in ("v1", "v3"):
        found = entry[f"animatediff_{version}_original"]
        shapes = {name: tuple(shape) for name, (shape, _) in {**found["params"], **found["optional"]}.items()}
        assert recognise(specs(shapes))[0][0].name == f"animatediff_{version}"


@pytest.mark.parametrize(
    "entry", ["sd15_vae", "sd15_clip_text", "sd_image_variations_clip_vision", "animatediff_v2_original"]
)
def test_old_names_and_stored_buffers_of_published_files_are_understood(entry):
    found = manifest("bases_manifest.json")[entry]
    (table,) = [layout.parts[0].table for layout in layouts().values() if layout.manifest == (entry,)]
    for new, old in found.get("legacy_names", {}).items():
        assert table.canonical(old) == new
    assert all(table.ignores(table.canonical(name)) for name in found.get("optional", {}))


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("ip_adapter")])
def test_numbered_attentions_of_image_prompts_sit_where_the_manifest_says(name):
    index = manifest("bases_manifest.json")[name]["ip_layer_index"]
    (part,) = [part for part in layouts()[name].parts if part.subnet == "denoiser"]
    places = {
        link.names[0].split(".")[1]: mechanical(link.path).split(".processor.")[0]
        for link in part.links(part.published())
    }
    assert places == index


@pytest.mark.parametrize(
    "path",
    [
        "down_blocks_0/motion_modules_0/temporal_transformer/proj_in/kernel",
        "mid_block/attentions_0/transformer_blocks_0/attn2/processor/to_k_ip_0/kernel",
        "mid_block/attentions_0/transformer_blocks_0/audio_attention/attn/to_q/kernel",
        "clip_fc/kernel",
        "place_embedding/kernel",
    ],
)
@pytest.mark.parametrize("name", ["sd15_unet", "sd15_single_file"])
def test_what_systems_add_to_a_unet_is_not_published_with_it(name, path):
    part = next(part for part in layouts()[name].parts if part.subnet == "denoiser")
    assert part.links(nested(np.zeros((4, 4)), path)) == []
    assert part.links(nested(np.zeros((4, 4)), "mid_block/attentions_0/transformer_blocks_0/attn2/to_k/kernel")) != []


def test_a_reference_net_of_any_depth_lacks_its_last_output_projection_alone():
    (part,) = [part for part in layouts()["follow_your_emoji"].parts if part.subnet == "reference"]
    config = UNetConfig(
        block_out_channels=(8, 8), layers_per_block=1, attention_levels=(True, True), num_heads=2, norm_groups=4,
        context_dim=6, image_prompt_dim=5, output_head=False,
    )  # fmt: skip
    tree = unet_shapes(config, capture=True)
    last = "up_blocks.1.attentions.1.proj_out"
    assert part.stored(tree).keys() - part.expected(tree).keys() == {f"{last}.weight", f"{last}.bias"}


def test_the_fine_tuned_autoencoder_has_the_names_of_the_first():
    (part,) = layouts()["sd15_vae"].parts
    listed = manifest("bases_manifest.json")["sd_vae_ft_mse"]["params"]
    assert part.stored() == {name: tuple(shape) for name, (shape, _) in listed.items()}


@pytest.mark.parametrize("kind", ["unet", "vae", "text_encoder"])
def test_the_single_file_agrees_with_diffusers_conversion_name_by_name(kind):
    pairs = manifest("bases_manifest.json")["sd15_single_file"]["key_map_to_diffusers"][kind]
    subnet = {"unet": "denoiser", "vae": "autoencoder", "text_encoder": "text_encoder"}[kind]
    single = {part.subnet: part for part in layouts()["sd15_single_file"].parts}
    alone = {part.subnet: part for part in layouts()["sd15"].parts}
    names = {link.path: link.names[0] for link in single[subnet].links(single[subnet].published())}
    ours = {link.names[0]: names[link.path] for link in alone[subnet].links(alone[subnet].published())}
    assert ours == pairs


def test_an_adapter_of_ours_names_its_parts_by_side_block_and_layer():
    small, whole = (layouts()[name] for name in ("anyexpress_adapter", "anyexpress_adapter_all"))
    names = {name for part in whole.parts for name in part.expected()}
    assert {"audio_proj.proj3.bias", "audio_attn.up.3.2.o.weight", "audio_attn.mid.0.0.norm.bias"} <= names
    assert "motion.mid_block.motion_modules.0.transformer_blocks.0.attn2.to_out.0.weight" in names
    assert len([name for name in names if name.startswith("audio_attn.")]) == 16 * 6
    sizes = [
        sum(np.prod(shape) for part in layout.parts for shape in part.expected().values()) for layout in (small, whole)
    ]
    # The paper's table says 0.3 billion; AnimateDiff v2 has 453 million.
    assert sizes == [272_096_192, 36_465_152 + 43_975_040 + 453_209_280]
    for layout in (small, whole):
        listed = {name: shape for part in layout.parts for name, shape in part.stored().items()}
        assert recognise(specs(listed))[0][0] is layout
