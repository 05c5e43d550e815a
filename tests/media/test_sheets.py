"""Contact sheets show every picture in its cell."""

import numpy as np
import pytest

from portrait_jax.errors import ShapeError
from portrait_jax.media.sheets import contact_sheet


def _plain(value, height=32, width=32):
    return np.full((height, width, 3), value, np.uint8)


def test_pictures_of_any_size_lie_in_rows_and_columns():
    sheet = contact_sheet([[_plain(10), _plain(20, 16, 64)], [_plain(30)]], cell=40, gap=4)
    assert sheet.shape == (4 + 2 * 44, 4 + 2 * 44, 3)
    assert [int(sheet[y, x, 0]) for y, x in ((24, 24), (24, 68), (68, 24))] == [10, 20, 30]


def test_labels_make_room_for_themselves():
    bare = contact_sheet([[_plain(10)]], cell=40)
    labelled = contact_sheet([[_plain(10)]], ["a long row label"], ["column"], cell=40)
    assert labelled.shape[0] > bare.shape[0] and labelled.shape[1] > bare.shape[1]
    assert (labelled < 120).all(-1)[:, : labelled.shape[1] - 50].any()  # Ink left of the picture.


def test_nothing_to_show_is_an_error():
    with pytest.raises(ShapeError, match="at least one"):
        contact_sheet([])
    with pytest.raises(ShapeError, match="labels"):
        contact_sheet([[_plain(1)]], ["a", "b"])
