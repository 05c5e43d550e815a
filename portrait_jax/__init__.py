"""Five portrait-animation systems in JAX: trained, sampled and compared in one place."""

__version__ = "0.1.0"
