"""What papers plug into a backbone."""

from portrait_jax.adapters.landmark_guider import LandmarkGuider, LandmarkGuiderConfig

__all__ = ["LandmarkGuider", "LandmarkGuiderConfig"]
