"""What teaches other networks and is not used after training: a generator, its adversary, and their losses."""

from portrait_jax.adversarial.head import DualHead, HeadWeights
from portrait_jax.adversarial.networks import Discriminator, Generator, PictureConfig

__all__ = ["Discriminator", "DualHead", "Generator", "HeadWeights", "PictureConfig"]
