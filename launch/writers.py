"""Writers of a training's numbers and pictures: TensorBoard events, and PNG files for machines without TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from portrait_jax.media.image import write_image
from portrait_jax.typing import Image


class TensorBoard:
    """Scalars and images as TensorBoard events in `folder`."""

    def __init__(self, folder: Path, start: int = 0) -> None:
        # Events of steps that a killed run wrote after its last checkpoint are hidden, not shown twice.
        self._events = SummaryWriter(str(folder), purge_step=start + 1 if start else None, write_to_disk=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(f"train/{name}", value, step)

    def images(self, step: int, values: Mapping[str, Image]) -> None:
        for name, image in values.items():
            self._events.add_image(name, image, step, dataformats="HWC")
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class ImageFiles:
    """Sample strips as `folder/NAME_STEP.png`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers have no place here."""

    def images(self, step: int, values: Mapping[str, Image]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, image in values.items():
            write_image(self._folder / f"{name}_{step:07}.png", image)

    def close(self) -> None:
        """Nothing is open."""
