"""Slots: what a system plugs into a backbone, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import linen as nn

from portrait_jax.conditioning import Conditioning
from portrait_jax.errors import ConfigError, ShapeError, nearest
from portrait_jax.typing import Array

POSITIONS = (
    "after_conv_in", "after_attn1", "in_attn2", "after_attn2", "in_temporal_attn2", "after_layer", "after_level",
    "after_encoder", "after_mid",
)  # fmt: skip
"""Where a slot may sit, in the order in which they run.

after_conv_in   once, on the first convolution's output "b f h w c"; the sum is also the first skip connection
after_attn1     in every spatial transformer, after self-attention (with reference), on tokens "b f n d"; in a transformer over
                text and video on those of the video, and the module also gets a function that makes queries and keys, both
                "bf n heads d", ready as that self-attention does: normalised, queries turned by their row and column
in_attn2        inside cross-attention, on the values it gathered, before its output projection, on "b f n d"; the module also
                gets the queries "b f n d"
after_attn2     after cross-attention
in_temporal_attn2   as in_attn2, inside the cross-attention of a temporal transformer; there all frames read the same tokens
after_layer     after each residual block and its spatial transformer if it has one, on "b f h w c"
after_level     after the last layer of each level of the encoder, on "b f h w c"; the sum is also that layer's skip connection
after_encoder   on each skip connection "b f h w c" once the encoder is done; the site's index counts them
after_mid       once, on the output "b f h w c" of the middle block
"""

INSIDE = ("after_attn1", "in_attn2", "after_attn2", "in_temporal_attn2")
"""Positions inside a transformer block."""


@dataclass(frozen=True)
class Site:
    """One place in a backbone: the name of its block, its number in that block, its level (None: middle), its width."""

    block: str
    index: int
    level: int | None
    channels: int


def heads_at(heads: int | tuple[int, ...], site: Site) -> int:
    """Attention heads at a site: one number for all, or one per level (the middle has the coarsest level's)."""
    if isinstance(heads, int):
        return heads
    return heads[-1 if site.level is None else site.level]


@dataclass(frozen=True)
class Slot:
    """A module put at every site of one kind.

    `make(site, dtype=…, name=…)` returns the module; its call takes the features and the value of the conditioning field
    (or the features alone if `field` is None) and returns features of the same shape, residual included. A slot whose field
    is None in the conditioning is passed over. Its parameters are found under `name_index` in the site's block, or under
    `name` in the transformer block (in_attn2, in_temporal_attn2: in the attention layer) it sits in.
    """

    where: str
    name: str
    make: Callable[..., nn.Module]
    field: str | None = None
    levels: tuple[int, ...] | None = None
    """Resolution levels it sits at, 0 = finest; None: all."""
    mid: bool = True
    over_time: bool = False
    """Mixes frames: bypassed when a backbone is called with `use_temporal=False`."""
    late: bool = False
    """Runs behind a backbone's own temporal modules, not before them."""

    def __post_init__(self) -> None:
        if self.where not in POSITIONS:
            raise ConfigError(
                f"slot '{self.name}' sits at '{self.where}', which no backbone has{nearest(self.where, POSITIONS)}"
            )

    def covers(self, site: Site) -> bool:
        """Whether it sits at this site."""
        if site.level is None:
            return self.mid
        return self.levels is None or site.level in self.levels


def apply_slots(
    slots: tuple[Slot, ...],
    where: str,
    site: Site,
    x: Array,
    conditioning: Conditioning,
    dtype: Any,
    *more: Any,
    remat: bool = False,
) -> Array:
    """Runs the slots of one position at one site, in their order; must be called inside a compact method.

    `more` is what the position offers besides the features. With `remat` the backward pass computes each slot anew.
    """
    run = nn.remat(called) if remat else called
    for slot in slots:
        value = getattr(conditioning, slot.field) if slot.field else None
        if slot.where != where or not slot.covers(site) or (slot.field and value is None):
            continue
        name = slot.name if where in INSIDE else f"{slot.name}_{site.index}"
        module = slot.make(site, dtype=dtype, name=name)
        x = run(module, x, *((value,) if slot.field else ()), *more)
    return x


def called(module: nn.Module, *args: Any) -> Any:
    """What the module gives; a function, for flax to transform."""
    return module(*args)


class Residual(nn.Module):
    """Adds the conditioning's value, or the entry `index` of a tuple of them: a slot without parameters."""

    dtype: Any = None
    index: int | None = None

    def __call__(self, x: Array, value: Any) -> Array:
        """Raises ShapeError if there is no such entry, or if its place and width are not those of `x`."""
        if self.index is not None:
            if not -len(value) <= self.index < len(value):
                raise ShapeError(
                    f"{len(value)} residuals were given, and number {self.index} is read; give one per site"
                )
            value = value[self.index]
        if value.shape[2:] != x.shape[2:]:
            raise ShapeError(f"a residual of shape {value.shape} cannot be added to features of shape {x.shape}")
        return x + value.astype(x.dtype)


def residual_slot(field: str = "spatial") -> Slot:
    """Adds a feature map of the backbone's first width, "b f h w c", to the output of its first convolution."""
    return Slot("after_conv_in", field, lambda site, dtype, name: Residual(dtype=dtype, name=name), field=field)


def level_residual_slot(field: str = "level_residuals") -> Slot:
    """Adds one feature map per level, finest first, to the last layer of each level of the encoder and to its skip."""

    def make(site, *, dtype, name):
        return Residual(dtype, site.level, name=name)

    return Slot("after_level", field, make, field=field)


def skip_residual_slots(field: str = "skip_residuals") -> tuple[Slot, Slot]:
    """Adds one feature map per skip connection, in running order, and a last one to the output of the middle block."""

    def skip(site, *, dtype, name):
        return Residual(dtype, site.index, name=name)

    def middle(site, *, dtype, name):
        return Residual(dtype, -1, name=name)

    # Both act in the backbone itself, where the first skip would have the middle's name.
    return Slot("after_encoder", field, skip, field=field), Slot("after_mid", f"{field}_middle", middle, field=field)
