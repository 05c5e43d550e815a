"""Work on files that may kill the process that opens them: a fault in a decoder, or more memory than there is.

While an item is worked on, a note lies in the output folder; only a process that died leaves it behind. Such an item is
then worked on alone, in a process of its own: if that dies too, it is the item's fault. Whoever merely worked beside it,
or was interrupted, is done the second time.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from portrait_jax.errors import PortraitError

T = TypeVar("T")


@contextmanager
def started(note: Path) -> Iterator[None]:
    """Leaves `note` while the block runs; an exception removes it as well."""
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def run(
    items: Sequence[T],
    work: Callable[[T], None],
    note: Callable[[T], Path],
    blame: Callable[[T], None],
    processes: int,
) -> Iterator[None]:
    """Works on every item, and yields once for each that is done.

    Args:
        work: does one item, inside `started(note(item))`; picklable.
        note: where an item's note lies.
        blame: called in place of `work` for an item that has killed its process twice.
        processes: how many work side by side; 1 works in this process.

    Raises:
        PortraitError: worker processes die before they begin.
    """
    waiting = list(items)
    while waiting:
        suspects = [item for item in waiting if note(item).exists()]
        for item in suspects:
            note(item).unlink()
            if (yield from _pooled([item], work, 1)):
                _check_progress([item], [item], note)
                blame(item)
                note(item).unlink()
                yield
        waiting = [item for item in waiting if not any(item is suspect for suspect in suspects)]
        if processes <= 1 or len(waiting) < 2:
            for item in waiting:
                work(item)
                yield
            return
        left = yield from _pooled(waiting, work, processes)
        _check_progress(waiting, left, note)
        waiting = left


def _pooled(items: Sequence[T], work: Callable[[T], None], processes: int) -> Generator[None, None, list[T]]:
    """Works in a new pool; returns what was left undone when one of its processes died."""
    # Fresh interpreters: forking after threads have started (BLAS, OpenCV) can deadlock.
    context = multiprocessing.get_context("spawn")
    left = []
    with concurrent.futures.ProcessPoolExecutor(min(processes, len(items)), context) as pool:
        futures = {pool.submit(work, item): item for item in items}
        try:
            for future in concurrent.futures.as_completed(futures):
                try:
                    future.result()
                except BrokenProcessPool:
                    left.append(futures[future])
                else:
                    yield
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return left


def _check_progress(items: Sequence[T], left: Sequence[T], note: Callable[[T], Path]) -> None:
    """Where nothing was done or begun, no item is to blame, and another try would end the same way."""
    if len(left) == len(items) and not any(note(item).exists() for item in left):
        raise PortraitError("worker processes die before they begin; work in one process (--config.processes=1)")
