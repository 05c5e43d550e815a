"""From part files to ArrayRecord shards with TFDS (no TensorFlow), and the statistics that say what the shards hold."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data import schema
from data.parts import PARTS, SOURCES, load_part, write_json
from data.records import Record, digest, unpack_mask
from portrait_jax.errors import ConfigError, InputFileError, listed

NAME = "portrait_clips"
STATISTICS = "statistics.json"
SHARD_BYTES = 128 << 20
"""Shards stay below this: small enough to move, large enough to be few."""

Parts = Mapping[str, Sequence[Path]]


class PortraitClips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Clips of talking faces; fields as in `data.schema`."""

    VERSION = tfds.core.Version(f"{schema.SCHEMA_VERSION}.0.0")
    name = NAME
    code_path = None  # TFDS looks for files beside the code (checksums, citations); there are none.

    def __init__(self, *, parts: Parts, expressions: int, attributes: int, **kwargs: Any):
        """`parts` per split, in the order in which they are stored; the two sizes are the data set's vector lengths."""
        self._parts, self._sizes = parts, {"expressions": expressions, "attributes": attributes}
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=features(self._sizes), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Record]]]:
        return {split: self._generate_examples(paths) for split, paths in self._parts.items() if paths}

    def _generate_examples(self, paths: Sequence[Path]) -> Iterator[tuple[int, Record]]:
        for number, path in enumerate(paths):
            yield number, load_part(path)


def features(sizes: Mapping[str, int]) -> tfds.features.FeaturesDict:
    """The schema as TFDS features; video bytes travel as `Text`, which comes back as bytes without TensorFlow."""

    def feature(field: schema.Field) -> Any:
        if field.kind in (schema.TEXT, schema.BYTES):
            return tfds.features.Text()
        if field.kind == schema.SCALAR:
            return tfds.features.Scalar(field.dtype)
        shape = tuple(axis if isinstance(axis, int) else sizes.get(axis) for axis in field.shape)
        return tfds.features.Tensor(shape=shape, dtype=field.dtype, encoding=tfds.features.Encoding.BYTES)

    return tfds.features.FeaturesDict({name: feature(field) for name, field in schema.FIELDS.items()})


def write_shards(output: Path, parts: Parts, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Turns part files into shards, writes the statistics last, then removes the parts.

    Args:
        output: a folder in which `data.parts.prepare_sources` has finished.
        parts: what `data.parts.collect` gives.
        names: `{"expression": …, "attributes": …}`, the names of the two vectors' entries.

    Raises:
        ConfigError: there is no clip at all (the report says why).
    """
    if not any(parts.values()):
        raise ConfigError(f"no usable clip was found; {output / 'report.json'} names each source and its reason")
    statistics = measure(parts, names)
    # A half-written data set of a killed run: TFDS would not reuse it.
    shutil.rmtree(output / NAME, ignore_errors=True)
    builder = PortraitClips(
        parts=parts, expressions=len(names["expression"]), attributes=len(names["attributes"]), data_dir=str(output)
    )
    shards = max(1, -(-sum(path.stat().st_size for paths in parts.values() for path in paths) // SHARD_BYTES))
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # It announces a download; there is none.
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))
    shutil.rmtree(output / "downloads", ignore_errors=True)
    write_json(output / STATISTICS, statistics)
    remove_parts(output)
    return statistics


def finished(output: Path) -> dict[str, Any] | None:
    """The statistics if `output` is complete, else None."""
    if not (output / STATISTICS).exists():
        return None
    remove_parts(output)
    return read_statistics(output)


def remove_parts(output: Path) -> None:
    """Removes what only an unfinished preparation needs."""
    for folder in (PARTS, SOURCES):
        shutil.rmtree(output / folder, ignore_errors=True)


def measure(parts: Parts, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Statistics of the clips: counts, sizes, frame rates, lengths, and a hash of the content, per split."""
    splits = {split: _measure_split(paths) for split, paths in parts.items() if paths}
    total = hashlib.sha256("".join(f"{split}{splits[split]['hash']}" for split in sorted(splits)).encode())
    return {
        "schema_version": schema.SCHEMA_VERSION, "splits": splits, "hash": total.hexdigest(),
        "expression_names": list(names["expression"]), "attribute_names": list(names["attributes"]),
    }  # fmt: skip


def _measure_split(paths: Sequence[Path]) -> dict[str, Any]:
    total, sizes, rates, lengths, identities = hashlib.sha256(), Counter(), Counter(), [], set()
    video_bytes = with_audio = 0
    face_share = 0.0
    for path in paths:
        record = load_part(path)
        total.update(digest(record).encode())
        sizes[f"{record['width']}x{record['height']}"] += 1
        rates[f"{float(record['fps']):g}"] += 1
        lengths.append(int(record["num_frames"]))
        identities.add(record["identity"])
        video_bytes += len(record["video"])
        with_audio += bool(record["audio"].size)
        face_share += float(unpack_mask(record).mean())
    return {
        "clips": len(paths), "identities": len(identities), "frames": sum(lengths), "with_audio": with_audio,
        "sizes": dict(sizes), "fps": dict(rates), "video_bytes": video_bytes, "hash": total.hexdigest(),
        "clip_frames": {"min": min(lengths), "max": max(lengths), "mean": float(np.mean(lengths))},
        "face_share": face_share / len(paths),
    }  # fmt: skip


def read_statistics(path: Path) -> dict[str, Any]:
    """The statistics of a prepared data set.

    Raises:
        InputFileError: `path` is no prepared data set, its preparation was not finished, or the schema is another one.
    """
    file = Path(path) / STATISTICS
    if not file.exists():
        raise InputFileError(f"{path} holds no finished data set (no {STATISTICS}); run launch.prepare --output {path}")
    statistics = json.loads(file.read_text())
    if statistics["schema_version"] != schema.SCHEMA_VERSION:
        raise InputFileError(
            f"{path} has schema version {statistics['schema_version']}, this code reads "
            f"{schema.SCHEMA_VERSION}; prepare again"
        )
    return statistics


def open_split(path: Path, split: str) -> Any:
    """A random-access source of records (`len`, `[i]`), decoded on access.

    Raises:
        InputFileError: see `read_statistics`; the shards are missing or cut short. ConfigError: there is no such split.
    """
    splits = read_statistics(path)["splits"]
    if split not in splits:
        raise ConfigError(f"{path} has no split '{split}'; it has: {listed(splits)}")
    folder = Path(path) / NAME / str(PortraitClips.VERSION)
    try:
        return tfds.builder_from_directory(str(folder)).as_data_source(split=split)
    except (FileNotFoundError, ValueError, RuntimeError, tfds.core.DatasetNotFoundError) as error:
        raise InputFileError(f"the shards in {folder} cannot be opened ({error}); prepare them again") from error
