"""The dual GAN head: appearance and motion must suffice to redraw the driving face, or motion has not learnt it.

Used in training only (X-NeMo, arXiv 2507.23143, section 3.3 and appendix A): a ResNet sees the reference face, a generator
redraws the driving face from that and the motion latent, and a discriminator, which trains against it in the same step
(`training.task.Adversary`), judges the result. The gradient teaches the motion encoder.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from portrait_jax.adversarial.losses import feature_distance, hinge_discriminator, hinge_generator
from portrait_jax.adversarial.networks import Discriminator, Generator, PictureConfig
from portrait_jax.encoders.resnet import ResNet, ResNetConfig
from portrait_jax.encoders.vgg import VGG, VGG19, VGG19_TORCHVISION, VGG_FACE, VGGConfig
from portrait_jax.errors import ConfigError, nearest
from portrait_jax.settings import from_mapping
from portrait_jax.typing import Array, Float, Params, PRNGKeyArray

JUDGES: Mapping[str, VGGConfig] = MappingProxyType({"vgg19": VGG19, "vggface": VGG_FACE})
"""Sub-networks of the perceptual terms: frozen, and of no use without published weights."""
TRAINED_BY = MappingProxyType({"authors": VGG19, "torchvision": VGG19_TORCHVISION})
"""Whose weights VGG-19 gets: they want other pixels."""
DISCRIMINATOR = "gan_discriminator"
TRAINABLE = (r"gan_generator/.*", r"appearance_encoder/.*/(kernel|scale|bias)$")
"""Patterns of the leaves that learn with the generator: all but the stored statistics of norms."""
ADVERSARY = (rf"{DISCRIMINATOR}/.*",)
"""Patterns of `training.task.Adversary`."""

Pictures = Float[Array, "b h w 3"]
References = Float[Array, "n h w 3"]


@dataclasses.dataclass(frozen=True)
class HeadWeights:
    """Weights of the terms (equations 3 to 7); 0 leaves a term and its network out."""

    adversarial: float = 1.0
    recon: float = 1.0
    """Mean absolute difference, in [−1, 1] units."""
    feature_matching: float = 10.0
    vgg19: float = 3e-2
    vggface: float = 6e-3


@dataclasses.dataclass(frozen=True)
class DualHead:
    """Networks and losses of the head; pure methods over explicit parameters, to be used by a system's own loss."""

    pictures: PictureConfig = dataclasses.field(default_factory=PictureConfig)
    resnet: ResNetConfig = dataclasses.field(default_factory=ResNetConfig)
    appearance: int = 512
    """Width of the appearance latent."""
    motion: int = 512
    """Width of the motion latent."""
    weights: HeadWeights = HeadWeights()
    judges: Mapping[str, VGGConfig] = dataclasses.field(default_factory=lambda: JUDGES)
    dtype: Any = jnp.float32

    @classmethod
    def from_config(cls, section: Any, *, motion: int, dtype: Any, sources: Iterable[str]) -> DualHead:
        """Builds it from `model.head`: `pictures`, `resnet`, `weights`, `appearance` and `vgg19` (a name of `TRAINED_BY`), each
        with its defaults.

        Args:
            motion: width of the motion latent.
            sources: keys of `init_from`; see `with_weights_of`.

        Raises:
            ConfigError: for a setting that does not exist.
        """
        parts = dict(section)
        made = {
            name: from_mapping(kind, parts.pop(name, {}))
            for name, kind in (("pictures", PictureConfig), ("resnet", ResNetConfig), ("weights", HeadWeights))
        }
        trained_by = parts.pop("vgg19", "authors")
        if trained_by not in TRAINED_BY:
            raise ConfigError(f"model.head.vgg19 '{trained_by}' does not exist{nearest(trained_by, list(TRAINED_BY))}")
        made["judges"] = {**JUDGES, "vgg19": TRAINED_BY[trained_by]}
        return from_mapping(cls, parts, **made, motion=motion, dtype=dtype).with_weights_of(sources)

    @property
    def perceptual(self) -> tuple[str, ...]:
        """The perceptual terms that are on."""
        return tuple(name for name in self.judges if getattr(self.weights, name))

    @property
    def generator(self) -> Generator:
        """The generator's module."""
        return Generator(self.pictures, self.appearance, self.dtype)

    @property
    def discriminator(self) -> Discriminator:
        """The discriminator's module."""
        return Discriminator(self.pictures, self.dtype)

    def with_weights_of(self, sources: Iterable[str]) -> DualHead:
        """This head without the perceptual terms whose networks nothing in `sources` (keys of `init_from`) brings.

        Random networks would teach noise; a warning says which terms are off and how to have them.
        """
        absent = [name for name in self.perceptual if name not in set(sources)]
        if not absent:
            return self
        terms = " and ".join(absent)
        entries = " ".join(f"--config.train.init_from.{name}=FILE" for name in absent)
        warnings.warn(
            f"the perceptual loss of {terms} is off: its weights are not there; convert a published file with "
            f"launch.convert and give {entries}",
            stacklevel=2,
        )
        return dataclasses.replace(self, weights=dataclasses.replace(self.weights, **dict.fromkeys(absent, 0.0)))

    def init(self, rng: PRNGKeyArray) -> Params:
        """Fresh parameters by sub-network, those of the perceptual terms that are on included."""
        keys = jax.random.split(rng, 3 + len(self.perceptual))
        picture = jnp.zeros((1, self.pictures.size, self.pictures.size, 3))
        vectors = jnp.zeros((1, self.resnet.width)), jnp.zeros((1, self.motion))
        params = {
            "appearance_encoder": ResNet(self.resnet, self.dtype).init(keys[0], picture)["params"],
            "gan_generator": self.generator.init(keys[1], *vectors)["params"],
            DISCRIMINATOR: self.discriminator.init(keys[2], picture)["params"],
        }
        for name, key in zip(self.perceptual, keys[3:]):
            params[name] = VGG(self.judges[name], self.dtype).init(key, picture)["params"]
        return params

    def draw(self, params: Params, motion: Float[Array, "b e"], reference_01: References) -> Pictures:
        """The driving face as appearance and motion say it, about −1..1.

        Args:
            motion: latents of the driving faces, before the displacement of the face is joined to them.
            reference_01: crops centred on the reference faces, at the size of `pictures`; one may serve several driving
                faces, which then follow each other.
        """
        appearance = ResNet(self.resnet, self.dtype).apply({"params": params["appearance_encoder"]}, reference_01)
        appearance = jnp.repeat(appearance, len(motion) // len(reference_01), axis=0)
        return self.generator.apply({"params": params["gan_generator"]}, appearance, motion.astype(jnp.float32))

    def loss(
        self, params: Params, motion: Float[Array, "b e"], reference_01: References, target_01: Pictures
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted sum, and each term as it is (`gan_recon`, `gan_adversarial`, …); see `draw`.

        Args:
            target_01: crops centred on the driving faces, not augmented.
        """
        drawn, target = self.draw(params, motion, reference_01), 2 * target_01 - 1
        scores, found = self._judge(params, drawn)
        _, wanted = self._judge(params, target)
        terms = {
            "adversarial": hinge_generator(scores),
            "recon": jnp.abs(drawn - target).mean(),
            "feature_matching": feature_distance(found, wanted),
        }
        for name in self.perceptual:
            judge, variables = VGG(self.judges[name], self.dtype), {"params": params[name]}
            seen, meant = judge.apply(variables, (drawn + 1) / 2), judge.apply(variables, target_01)
            terms[name] = feature_distance(seen, meant)
        total = sum((getattr(self.weights, name) * term for name, term in terms.items()), start=jnp.zeros(()))
        return total, {f"gan_{name}": term for name, term in terms.items()}

    def adversary_loss(
        self, params: Params, motion: Float[Array, "b e"], reference_01: References, target_01: Pictures
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """What the discriminator minimises on the same pictures; metrics are its mean scores."""
        drawn = jax.lax.stop_gradient(self.draw(params, motion, reference_01))
        fake, _ = self._judge(params, drawn)
        real, _ = self._judge(params, 2 * target_01 - 1)
        return hinge_discriminator(real, fake), {"score_real": real.mean(), "score_fake": fake.mean()}

    def _judge(self, params: Params, image_pm1: Pictures) -> tuple[Array, tuple[Array, ...]]:
        return self.discriminator.apply({"params": params[DISCRIMINATOR]}, image_pm1)
