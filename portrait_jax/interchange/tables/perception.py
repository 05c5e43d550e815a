"""Networks that judge pictures while others train: ResNet-50, VGG-19 and VGG-Face, as PyTorch files hold them."""

import functools
from collections.abc import Iterator

import jax.numpy as jnp

from portrait_jax.encoders.resnet import ResNet
from portrait_jax.encoders.vgg import VGG, VGG19, VGG_FACE, VGGConfig
from portrait_jax.interchange.layouts import Layout, Part, Signature, shapes_of
from portrait_jax.interchange.rules import KeyMap


@functools.cache
def resnet_shapes():
    """The tree of the appearance encoder."""
    return shapes_of(ResNet(), lambda: (jnp.zeros((1, 64, 64, 3)),))


@functools.cache
def vgg_shapes(config: VGGConfig):
    """The tree of a VGG up to the first layer of its last block."""
    return shapes_of(VGG(config), lambda: (jnp.zeros((1, 16, 16, 3)),))


def numbered(config: VGGConfig) -> Iterator[tuple[str, str]]:
    """(our name, torchvision's) of each convolution: it numbers activations and pools too."""
    number = 0
    for block, layers in enumerate(config.layers, 1):
        for layer in range(1, layers + 1):
            yield f"conv{block}_{layer}", f"features.{number}"
            number += 2
        number += 1


NAMES = dict(numbered(VGG19))
RESNET = Part(
    "appearance_encoder",
    KeyMap(ignored=(r".*\.num_batches_tracked",), spare=(r"fc\.(weight|bias)",)),
    resnet_shapes,
    Signature(("layer1.0.conv3.weight", "layer3.5.bn3.running_var", "layer4.2.conv3.weight"), (r"layer3\.6\.",)),
)
OBJECTS = Part(
    "vgg19",
    KeyMap(
        keep=tuple(NAMES),
        modules=NAMES,
        spare=(r"features\.(30|32|34)\.(weight|bias)", r"classifier\.\d\.(weight|bias)"),
    ),
    functools.partial(vgg_shapes, VGG19),
    Signature(("features.16.weight", "features.28.weight"), (), {"features.28.weight": (512, 512, 3, 3)}),
)
FACES = Part(
    "vggface",
    KeyMap(keep=tuple(dict(numbered(VGG_FACE))), spare=(r"conv5_[23]\.(weight|bias)", r"fc[678]\.(weight|bias)")),
    functools.partial(vgg_shapes, VGG_FACE),
    Signature(("conv1_1.weight", "conv5_1.weight"), (r"conv3_4\.",), {"conv5_1.weight": (512, 512, 3, 3)}),
)

LAYOUTS = (
    Layout("resnet50", "ResNet-50 (torchvision)", (RESNET,)),
    Layout("vgg19", "VGG-19 (torchvision's names; weights of its authors or torchvision's)", (OBJECTS,)),
    Layout("vggface", "VGG-16 as a face recogniser (names conv1_1 … fc8)", (FACES,)),
)
