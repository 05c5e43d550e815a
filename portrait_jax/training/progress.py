"""How a run shows that it moves: a live bar on a terminal, a plain line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


class TrainProgress:
    """Loss, steps per second and time left; a context manager.

    Args:
        title: what is trained.
        start: steps done before this run.
        total: steps of the stage.
        quiet: show nothing (tests, hosts other than the first).
    """

    def __init__(self, title: str, start: int, total: int, *, quiet: bool = False) -> None:
        self._title, self._total, self._quiet = title, total, quiet
        self._console = Console(stderr=True)
        self._live = None
        self._printed = self._began = time.monotonic()
        self._start = self._done = start
        self._compiled = False
        if self._console.is_terminal and not quiet:
            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
            self._live = Progress(*columns, TextColumn("{task.fields[facts]}"), console=self._console)
            self._task = self._live.add_task(title, total=total, completed=start, facts="compiling")

    def __enter__(self) -> TrainProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows that `step` steps are done. The first one holds the compilation and does not count for the rate."""
        now = time.monotonic()
        if not self._compiled:
            self._compiled, self._began, self._start = True, now, step
            self._printed = now - PLAIN_EVERY
        self._done = step
        if self._quiet or (self._live is None and now - self._printed < PLAIN_EVERY and step < self._total):
            return
        rate = (step - self._start) / max(now - self._began, 1e-9)
        facts = f"loss {metrics['loss']:.4f}" + (f" · {rate:.2f} steps/s" if rate else "")
        if self._live:
            self._live.update(self._task, completed=step, facts=facts)
            return
        left = f" · {clock((self._total - step) / rate)} left" if rate else ""
        self._printed = now
        print(f"{self._title} {step}/{self._total} · {facts}{left}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        if not self._quiet:
            (self._live.console if self._live else self._console).print(text, highlight=False)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
