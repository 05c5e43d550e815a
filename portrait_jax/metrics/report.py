"""Tables of the suite's results, for people: Markdown for pages, rich for terminals, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as RichTable

from portrait_jax.media.files import atomic_output
from portrait_jax.metrics.suite import METRICS, Metric, Scores, Table

ARROWS = {"low": "↓", "high": "↑", "one": "→ 1"}


def cell(value: float, metric: Metric) -> str:
    """One number with the metric's digits; a dash where there is none."""
    return f"{value:.{metric.digits}f}" if np.isfinite(value) else "–"


def rows(table: Table, metrics: Mapping[str, Metric] = METRICS) -> tuple[list[str], list[list[str]]]:
    """Header and one row per metric and group; columns are the methods. The arrow says which direction is better."""
    methods = list(next(iter(table.values())))
    body = [
        [group, f"{metric.label} {ARROWS[metric.best]}", *(cell(scores[method][name], metric) for method in methods)]
        for group, scores in table.items()
        for name, metric in metrics.items()
    ]
    return ["driving", "metric", *methods], body


def markdown(table: Table, metrics: Mapping[str, Metric] = METRICS) -> str:
    """A Markdown table, ending with a newline."""
    header, body = rows(table, metrics)
    rule = ["---", "---", *["---:"] * (len(header) - 2)]
    return "".join("| " + " | ".join(line) + " |\n" for line in [header, rule, *body])


def terminal(table: Table, title: str | None = None, metrics: Mapping[str, Metric] = METRICS) -> RichTable:
    """The same table for `rich.print`."""
    header, body = rows(table, metrics)
    drawn = RichTable(*header, title=title)
    for column in drawn.columns[2:]:
        column.justify = "right"
    previous = None
    for line in body:
        if previous not in (None, line[0]):
            drawn.add_section()
        drawn.add_row(line[0] if line[0] != previous else "", *line[1:])
        previous = line[0]
    return drawn


def write(
    table: Table,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    metrics: Mapping[str, Metric] = METRICS,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes `metrics.json` (settings and numbers, NaN as null) and `table.md` into `folder`, each whole or not at all.

    Args:
        settings: JSON-able; everything that the numbers depend on.
        metrics: what the table holds, and how it is shown.
        more: further JSON-able entries of `metrics.json`.
    """
    numbers = {
        group: {method: finite(scores) for method, scores in methods.items()} for group, methods in table.items()
    }
    for name, text in {
        "metrics.json": json.dumps({"settings": settings, "metrics": numbers, **(more or {})}, indent=2) + "\n",
        "table.md": markdown(table, metrics),
    }.items():
        with atomic_output(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


def finite(scores: Scores) -> dict[str, float | None]:
    """Scores for JSON, which knows no NaN."""
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}
