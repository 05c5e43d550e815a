"""ControlNet (arXiv 2302.05543): a copy of the backbone's encoder that sees a control picture and corrects every skip."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.adapters.landmark_guider import LandmarkGuider, LandmarkGuiderConfig
from portrait_jax.backbones.unet import UNetConfig, embed_time, run_encoder
from portrait_jax.backbones.unet_blocks import Inputs, MidBlock, Style
from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ShapeError
from portrait_jax.nn.conv import PointwiseConv, conv3x3
from portrait_jax.typing import Array, Float, Num


@dataclass(frozen=True)
class ControlNetConfig:
    """Sizes of a ControlNet; the defaults are those for Stable Diffusion 1.5."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    """The backbone whose encoder and middle it copies; its decoder, head and temporal modules are not used."""
    hint_channels: tuple[int, ...] = (16, 32, 96, 256)
    """Widths of the network that brings the control picture to latent size; each step halves space."""

    @property
    def hint(self) -> LandmarkGuiderConfig:
        return LandmarkGuiderConfig(self.hint_channels, self.unet.block_out_channels[0])


class ControlNet(nn.Module):
    """Depends on the noise, so it runs at every solver step. Source: diffusers `ControlNetModel`, without guess mode.

    Multiply the result by the strength of the control and give it to a backbone with `skip_residual_slots()` as
    `Conditioning.skip_residuals`.
    """

    config: ControlNetConfig = ControlNetConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        timestep: Num[Array, " t"],
        image_01: Float[Array, "b f H W 3"],
        context: Float[Array, "b k d"],
    ) -> tuple[Float[Array, "b f _ _ _"], ...]:
        """Residuals of the skips in running order, then the middle block's.

        `x`, `timestep` as the backbone gets them; `image_01` control pictures in [0, 1]; `context` the text tokens alone, never
        an image prompt's. Raises ShapeError if the picture does not have `hint.stride` pixels per latent pixel.
        """
        unet, dtype = self.config.unet, self.dtype
        widths, (batch, frames, *space, _) = unet.block_out_channels, x.shape
        stride = self.config.hint.stride
        if image_01.shape[2:4] != (stride * space[0], stride * space[1]):
            raise ShapeError(
                f"control pictures of {image_01.shape[2:4]} pixels do not fit latents of {tuple(space)}: "
                f"give {stride} pixels per latent pixel"
            )
        inputs = Inputs(embed_time(timestep, widths[0], dtype), context, Conditioning(), frames, {})
        style = Style(unet.num_heads, unet.norm_groups, (), unet.gradient_checkpointing, None, dtype)

        hidden = conv3x3(widths[0], dtype=dtype, name="conv_in")(x.reshape(-1, *x.shape[2:]))
        hint = LandmarkGuider(self.config.hint, dtype, name="controlnet_cond_embedding")(image_01)
        hidden, skips = run_encoder(unet, style, hidden + hint.reshape(hidden.shape), inputs)
        middle = MidBlock(style, widths[-1], name="mid_block")(hidden, inputs)
        names = [f"controlnet_down_blocks_{i}" for i in range(len(skips))] + ["controlnet_mid_block"]
        outputs = (
            PointwiseConv(y.shape[-1], dtype, zero=True, name=name)(y) for y, name in zip([*skips, middle], names)
        )
        return tuple(y.reshape(batch, frames, *y.shape[1:]) for y in outputs)
