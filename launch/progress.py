"""Progress bars for entry points whose work reports (what, done, total)."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bars:
    """One bar per kind of work, on standard error, as `Report` functions call for them.

    Without a terminal it prints a line whenever a kind of work begins or ends.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._plain = None if console.is_terminal else console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=self._plain is not None)
        self._tasks: dict = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def report(self, what: str, done: int, total: int | None) -> None:
        """Shows that `done` of `total` are done."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
            if self._plain is not None and done != total:
                self._plain.print(f"{what}: {total if total is not None else 'an unknown number of'} frames")
        self._progress.update(self._tasks[what], completed=done, total=total)
        if self._plain is not None and done == total:
            self._plain.print(f"{what}: done")
