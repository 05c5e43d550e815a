"""Preparation that survives interruption: every source leaves a done-note, every clip a whole part file, or nothing.

Below the output folder DIR:

    DIR/prepare.json            the settings; another run with other settings is refused
    DIR/parts/SPLIT/CLIP.npz    one record each, removed once the shards stand
    DIR/sources/SOURCE.json     written after a source's last part: its clips, and what was skipped and why
    DIR/sources/SOURCE.started  lies there while a source is worked on (`data.workers`)
    DIR/report.json             what was used and what was skipped, and why
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.records import Record, normalise
from data.schema import BYTES, FIELDS
from data.workers import run, started
from portrait_jax.errors import ConfigError, InputFileError, PortraitError
from portrait_jax.media.files import atomic_output
from portrait_jax.progress import Bars

SETTINGS, REPORT, PARTS, SOURCES = "prepare.json", "report.json", "parts", "sources"


class Source(NamedTuple):
    """One unit of work: `make(source)` yields its records; `source_id` is a file name, `name` what the report says."""

    source_id: str
    name: str
    split: str
    item: Any


class Skipped(NamedTuple):
    """What `make` yields, between records, for a part of a source that it could not use.

    `error` is a kind, `reason` a sentence for the report; seconds from the source's start, None where it all is meant, or
    the end is not known.
    """

    error: str
    reason: str
    from_s: float | None = None
    to_s: float | None = None


Make = Callable[[Source], Iterable[Record | Skipped]]


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON in one move."""
    with atomic_output(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def save_part(path: Path, record: Mapping[str, Any]) -> None:
    """Writes one record as npz in one move: the file is whole or absent."""
    arrays = {
        name: np.frombuffer(record[name], np.uint8) if field.kind == BYTES else np.asarray(record[name])
        for name, field in FIELDS.items()
    }
    with atomic_output(path) as partial:
        np.savez(partial, **arrays)


def load_part(path: Path) -> Record:
    """Reads what `save_part` wrote.

    Raises:
        InputFileError: the file is damaged; it is safe to delete it together with the notes in `sources/`.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            values = {name: stored[name] for name in FIELDS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputFileError(f"{path} is damaged ({error}); delete the output folder and prepare again") from error
    return normalise(
        {name: value.tobytes() if FIELDS[name].kind == BYTES else value[()] for name, value in values.items()}
    )


def claim(output: Path, settings: Mapping[str, Any]) -> None:
    """Makes `output` this preparation's folder, or recognises it as such.

    Raises:
        ConfigError: the folder belongs to a preparation with other settings, or holds something else.
    """
    wanted = json.loads(json.dumps(settings))
    path = output / SETTINGS
    if path.exists():
        found = json.loads(path.read_text())
        if found != wanted:
            differ = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            raise ConfigError(f"{output} was prepared with other settings ({', '.join(differ)}); choose another folder")
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists and is no prepared data set; choose another --output")
    write_json(path, wanted)


def prepare_sources(output: Path, sources: Sequence[Source], make: Make, *, processes: int = 1) -> None:
    """Runs `make` for every source that has no done-note yet, shows how far it is, and writes the report.

    A source whose `make` raises a PortraitError, or that kills the process, is skipped and named in the report; any other
    exception is a bug.

    Args:
        make: picklable when `processes` > 1.
        processes: worker processes; 1 works in this one.
    """
    (output / SOURCES).mkdir(parents=True, exist_ok=True)
    for leftover in output.glob(f"{PARTS}/*/.*.partial.npz"):
        leftover.unlink()
    todo = [source for source in sources if not (output / SOURCES / f"{source.source_id}.json").exists()]
    work, note, blame = partial(prepare_one, output, make=make), partial(_started, output), partial(_blame, output)
    done = run(todo, work, note, blame, processes)
    with Bars("sources") as bars:
        for _ in bars.track(done, "preparing", len(sources), len(sources) - len(todo)):
            pass
    write_report(output, sources)


def prepare_one(output: Path, source: Source, make: Make) -> None:
    """One source: its parts, then its done-note."""
    clips: list[str] = []
    skipped: list[Skipped] = []
    with started(_started(output, source)):
        try:
            for made in make(source):
                if isinstance(made, Skipped):
                    skipped.append(made)
                else:
                    save_part(output / PARTS / source.split / f"{made['clip_id']}.npz", made)
                    clips.append(made["clip_id"])
        except PortraitError as error:
            for clip in clips:
                (output / PARTS / source.split / f"{clip}.npz").unlink(missing_ok=True)
            clips, skipped = [], [Skipped(type(error).__name__, str(error))]
        _write_note(output, source, clips, skipped)


def _write_note(output: Path, source: Source, clips: Sequence[str], skipped: Sequence[Skipped]) -> None:
    entries = [{name: value for name, value in item._asdict().items() if value is not None} for item in skipped]
    note = {"source": source.name, "split": source.split, "clips": list(clips), "skipped": entries}
    write_json(output / SOURCES / f"{source.source_id}.json", note)


def _blame(output: Path, source: Source) -> None:
    reason = (
        f"{source.name} killed the process that read it, twice: it is damaged so that the decoder crashes, or needs more "
        "memory than there is; re-encode it, or cut it into shorter files"
    )
    _write_note(output, source, [], [Skipped("ProcessDied", reason)])


def _started(output: Path, source: Source) -> Path:
    return output / SOURCES / f"{source.source_id}.started"


def notes(output: Path, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The done-notes in the order of the sources."""
    return [json.loads((output / SOURCES / f"{source.source_id}.json").read_text()) for source in sources]


def collect(output: Path, sources: Sequence[Source]) -> dict[str, list[Path]]:
    """The part files that the done-notes name, per split, in the order in which shards store them."""
    parts: dict[str, list[Path]] = {}
    for note in notes(output, sources):
        folder = output / PARTS / note["split"]
        parts.setdefault(note["split"], []).extend(folder / f"{clip}.npz" for clip in note["clips"])
    return {split: sorted(paths) for split, paths in sorted(parts.items())}


def write_report(output: Path, sources: Sequence[Source]) -> dict[str, Any]:
    """Writes and returns `report.json`: counts, and every skipped source, or stretch of one, with its reason."""
    found = notes(output, sources)
    skipped = [{"source": note["source"], **item} for note in found for item in note["skipped"]]
    report = {"sources": len(found), "clips": sum(len(note["clips"]) for note in found), "skipped": skipped}
    write_json(output / REPORT, report)
    return report
