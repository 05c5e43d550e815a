"""Protects: what does not fit the schema is refused before it is stored, and the documentation tells the same story."""

from __future__ import annotations

import re

import numpy as np
import pytest

from data import schema
from data.pipeline import KINDS
from portrait_jax.errors import ShapeError


def test_a_record_that_fits_passes(record):
    schema.check(record)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("landmarks", np.zeros((3, 478, 3), np.float32), "landmarks is float32"),
        ("pose", np.zeros((14, 6), np.float64), "pose is float64"),
        ("landmarks", np.full((14, 478, 3), np.nan, np.float32), "not finite"),
        ("video", b"", "video is empty"),
        ("caption", b"bytes", "caption is bytes"),
        ("fps", np.float32(0), "fps is"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(record, name, value, message):
    with pytest.raises(ShapeError, match=message):
        schema.check({**record, name: value})


def test_a_missing_and_an_unknown_field_are_named(record):
    with pytest.raises(ShapeError, match="pose"):
        schema.check({name: value for name, value in record.items() if name != "pose"})
    with pytest.raises(ShapeError, match="mood"):
        schema.check({**record, "mood": 1})


def section(root, title: str) -> str:
    return (root / "docs" / "data.md").read_text().split(f"\n## {title}")[1].split("\n## ")[0]


def test_the_documentation_has_every_field_of_a_record_and_no_other(root):
    rows = [line.split("|")[1] for line in section(root, "Record").splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(schema.FIELDS)


def test_the_documentation_has_every_array_of_a_batch(root):
    text = section(root, "Loading")
    rows = {line.split("|")[1]: line for line in text.splitlines() if line.startswith("| `") and "`kind`" not in line}
    for kind, (_, gives) in KINDS.items():
        (row,) = [line for names, line in rows.items() if f"`{kind}`" in names]
        assert {name for name in gives if f"`{name}`" not in row} == set()
