"""How long work shows that it moves: bars on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

T = TypeVar("T")

PLAIN_EVERY = 10.0
"""Seconds between the lines of one kind of work where there is no terminal."""


@dataclasses.dataclass
class Pace:
    """How fast one kind of work goes, counted from its first advance: that one holds compilation and start-up."""

    start: int
    began: float
    moved: bool = False

    def rate(self, done: int, now: float) -> float:
        """Units a second; 0 while it is not known."""
        if not self.moved and done > self.start:
            self.start, self.began, self.moved = done, now, True
        return (done - self.start) / max(now - self.began, 1e-9)


class Bars:
    """One bar per kind of work on standard error, with counts, rate and time left; a context manager.

    Without a terminal each kind of work has a line when it begins, one every ten seconds, and one when it is done.

    Args:
        unit: what is counted, in the plural.
        quiet: show nothing (tests, hosts other than the first).
    """

    def __init__(self, unit: str = "frames", *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._unit, self._quiet = unit, quiet
        self._live: Progress | None = None
        if console.is_terminal and not quiet:
            columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
            facts = TextColumn("{task.fields[facts]}", markup=False)
            self._live = Progress(*columns, TimeRemainingColumn(), facts, console=console)
        self._pace: dict[str, Pace] = {}
        self._bars: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}

    def __enter__(self) -> Bars:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def report(self, what: str, done: int, total: int | None, facts: str = "") -> None:
        """Shows that `done` of `total` (None: nobody knows) are done, and `facts`, e.g. a loss."""
        if self._quiet:
            return
        now = time.monotonic()
        rate = self._pace.setdefault(what, Pace(done, now)).rate(done, now)
        shown = " · ".join(text for text in (facts, self._speed(rate)) if text)
        if self._live:
            bar = self._bars.get(what)
            if bar is None:
                bar = self._bars[what] = self._live.add_task(what, total=total, completed=done, facts=shown)
            self._live.update(bar, completed=done, total=total, facts=shown)
        elif done == total:
            self._say(what, "done" + (f" · {facts}" if facts else ""), now)
        elif what not in self._printed:
            self._say(what, f"{'an unknown number of' if total is None else total} {self._unit}", now)
        elif now - self._printed[what] >= PLAIN_EVERY:
            count = str(done) if total is None else f"{done}/{total}"
            left = f" · {clock((total - done) / rate)} left" if rate and total is not None else ""
            self._say(what, f"{count} {self._unit}" + (f" · {shown}" if shown else "") + left, now)

    def track(self, items: Iterable[T], what: str, total: int, done: int = 0) -> Iterator[T]:
        """Yields `items`, reporting each once its user asks for the next; `done` of `total` were done before."""
        self.report(what, done, total)
        for count, item in enumerate(items, done + 1):
            yield item
            self.report(what, count, total)

    def note(self, text: str) -> None:
        """Prints a line above the bars."""
        if self._live:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def _speed(self, rate: float) -> str:
        return f"{rate:.3g} {self._unit}/s" if 0 < rate < 100 else f"{rate:.0f} {self._unit}/s" if rate else ""

    def _say(self, what: str, text: str, now: float) -> None:
        self._printed[what] = now
        print(f"{what}: {text}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
