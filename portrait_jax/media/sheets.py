"""Contact sheets: rows of pictures with labels, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from portrait_jax.errors import ShapeError
from portrait_jax.media.image import letterbox
from portrait_jax.typing import UInt8

_PAPER, _INK = (250, 250, 248), (40, 40, 46)


def contact_sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    cell: int = 192,
    gap: int = 6,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Lays pictures of any sizes out in a grid of `cell`×`cell` pixels.

    Args:
        rows: may differ in length.
        row_labels: written left of the rows; empty for none.
        column_labels: written above the columns; empty for none.

    Raises ShapeError if there is nothing to show or a label has no row or column.
    """
    columns = max((len(row) for row in rows), default=0)
    if columns == 0:
        raise ShapeError("a contact sheet needs at least one picture")
    if len(row_labels) > len(rows) or len(column_labels) > columns:
        raise ShapeError(
            f"{len(row_labels)} row and {len(column_labels)} column labels for {len(rows)} rows, {columns} columns"
        )
    font = ImageFont.load_default(size=max(11, cell // 12))
    left = gap + (int(max(font.getlength(label) for label in row_labels)) + 2 * gap if row_labels else 0)
    top = gap + (int(font.size * 1.5) if column_labels else 0)
    pitch = cell + gap
    sheet = PillowImage.new("RGB", (left + columns * pitch, top + len(rows) * pitch), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(column_labels):
        pen.text((left + column * pitch + cell / 2, top / 2 + 1), label, _INK, font, anchor="mm")
    for number, row in enumerate(rows):
        if number < len(row_labels):
            pen.text((gap, top + number * pitch + cell / 2), row_labels[number], _INK, font, anchor="lm")
        for column, image in enumerate(row):
            picture = PillowImage.fromarray(letterbox(image, cell, cell, fill=235))
            sheet.paste(picture, (left + column * pitch, top + number * pitch))
    return np.array(sheet)
