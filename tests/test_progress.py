"""Protects: what a log shows of long work where there is no terminal, and that a terminal gets bars."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from portrait_jax import progress
from portrait_jax.progress import Bars, clock


@pytest.fixture
def now(monkeypatch):
    """A clock that the test turns: `now.seconds`."""
    turned = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: turned.seconds))
    return turned


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


def test_an_hour_in_a_log_has_a_line_every_ten_seconds_with_rate_and_time_left(capsys, now):
    with Bars("steps") as bars:
        for step in range(3601):
            now.seconds = 60.0 + step if step else 0.0
            bars.report("training", step, 7200, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "training: 7200 steps",
        "training: 1/7200 steps · loss 1",
        "training: 11/7200 steps · loss 11 · 1 steps/s · 1:59:49 left",
    ]
    assert len(lines) == 1 + 360


def test_the_last_line_keeps_the_facts(capsys):
    with Bars("steps") as bars:
        bars.report("training", 2, 2, "loss 0.5")
    assert capsys.readouterr().err == "training: done · loss 0.5\n"


def test_an_unknown_number_of_frames_is_no_error(capsys, now):
    with Bars() as bars:
        for now.seconds, done in ((0.0, 1), (5.0, 2), (15.0, 4)):
            bars.report("finding the face", done, None)
    assert capsys.readouterr().err.splitlines() == [
        "finding the face: an unknown number of frames",
        "finding the face: 4 frames · 0.2 frames/s",
    ]


def test_tracked_work_counts_on_from_what_was_done_before(capsys, now):
    with Bars("sources") as bars:
        for _ in bars.track("abc", "preparing", 5, 2):
            now.seconds += 10
    assert capsys.readouterr().err.splitlines() == [
        "preparing: 5 sources",
        "preparing: 3/5 sources",
        "preparing: 4/5 sources · 0.1 sources/s · 0:10 left",
        "preparing: done",
    ]


def test_quiet_bars_say_nothing(capsys):
    with Bars(quiet=True) as bars:
        bars.report("animating", 1, 8)
        bars.note("a note")
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_bars_with_counts_facts_and_notes_above(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=120))
    with Bars() as bars:
        bars.note("at [once]")
        bars.report("animating", 3, 8, "loss [1]")
    assert all(text in screen.getvalue() for text in ("at [once]", "animating", "3/8", "loss [1]"))


def test_times_are_read_as_on_a_clock():
    assert (clock(59.6), clock(3723.0)) == ("1:00", "1:02:03")
