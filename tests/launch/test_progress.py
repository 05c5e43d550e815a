"""Protects: what a log shows of long work where there is no terminal, and that a terminal gets bars."""

from __future__ import annotations

import io

from rich.console import Console

from launch import progress
from launch.progress import Bars


def test_without_a_terminal_each_kind_of_work_has_a_line_at_its_begin_and_end(capsys):
    with Bars() as bars:
        for done in range(1, 6):
            bars.report("finding the face", done, 5)
        for done in (0, 4, 8):
            bars.report("animating", done, 8)
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "finding the face: 5 frames", "finding the face: done", "animating: 8 frames", "animating: done",
    ]  # fmt: skip
    assert said.out == ""


def test_work_that_was_done_before_is_said_once(capsys):
    with Bars() as bars:
        bars.report("animating", 8, 8)
    assert capsys.readouterr().err.splitlines() == ["animating: done"]


def test_an_unknown_number_of_frames_is_no_error(capsys):
    with Bars() as bars:
        bars.report("finding the face", 1, None)
    assert capsys.readouterr().err.splitlines() == ["finding the face: an unknown number of frames"]


def test_a_terminal_gets_bars_with_counts(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    with Bars() as bars:
        bars.report("animating", 3, 8)
    assert "animating" in screen.getvalue() and "3/8" in screen.getvalue()
