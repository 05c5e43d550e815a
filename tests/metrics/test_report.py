"""Tables of results for people and programs."""

import io
import json

from rich.console import Console

from portrait_jax.metrics import report
from portrait_jax.metrics.suite import METRICS

TABLE = {
    "same": {"trained": dict.fromkeys(METRICS, 0.25), "still": dict.fromkeys(METRICS, float("nan"))},
    "cross": {"trained": dict.fromkeys(METRICS, 1.0), "still": dict.fromkeys(METRICS, 2.0)},
}


def test_markdown_has_a_row_per_group_and_metric_with_its_direction():
    lines = report.markdown(TABLE).splitlines()
    assert lines[:2] == ["| driving | metric | trained | still |", "| --- | --- | ---: | ---: |"]
    assert len(lines) == 2 + 2 * len(METRICS)
    assert "| same | L1 ↓ | 0.2500 | – |" in lines
    assert "| cross | yaw, correlation ↑ | 1.000 | 2.000 |" in lines


def test_the_terminal_shows_every_number_of_the_markdown():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.terminal(TABLE, title="a title"))
    shown = console.export_text()
    assert all(text in shown for row in report.rows(TABLE)[1] for text in row)


def test_written_numbers_read_back_and_undefined_ones_are_null(tmp_path):
    report.write(TABLE, tmp_path / "new", {"seed": 3})
    found = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert found["settings"] == {"seed": 3}
    assert found["metrics"]["same"]["trained"]["ssim"] == 0.25
    assert found["metrics"]["same"]["still"]["ssim"] is None
    assert (tmp_path / "new" / "table.md").read_text() == report.markdown(TABLE)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["metrics.json", "table.md"]
