"""The safetensors format against its own library, and broken files of every sort."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies
from safetensors.numpy import load_file, save_file

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange.safetensors_files import HEADER_LIMIT, SafetensorsFile, Spec, write, write_sharded
from tests.interchange.made import same_tensors, save

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(3, dtype=np.float16),
    "brain": np.arange(5).astype(ml_dtypes.bfloat16),
    "scalar": np.array(7, np.int64),
    "nothing": np.zeros((0, 4), np.float32),
}


def test_our_files_are_read_by_the_library_and_its_files_by_us(tmp_path):
    save(tmp_path / "ours", TENSORS, {"who": "we"})
    same_tensors(load_file(tmp_path / "ours"), TENSORS)
    save_file(TENSORS, tmp_path / "theirs", {"who": "they"})
    file = SafetensorsFile(tmp_path / "theirs")
    same_tensors({name: file.read(name) for name in file.specs}, TENSORS)
    assert file.metadata == {"who": "they"} and SafetensorsFile(tmp_path / "ours").metadata == {"who": "we"}


def test_equal_tensors_give_equal_bytes_in_any_order(tmp_path):
    save(tmp_path / "one", TENSORS)
    save(tmp_path / "two", dict(reversed(TENSORS.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kept", [0.4, 0.9, 0.99])
def test_a_truncated_file_is_called_so(tmp_path, kept):
    path = save(tmp_path / "cut", {**TENSORS, "large": np.ones(1000, np.float32)})
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="truncated: it has .* fetch it again"):
        SafetensorsFile(path)


def test_a_truncated_header_is_called_so(tmp_path):
    path = save(tmp_path / "cut", TENSORS)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="truncated"):
        SafetensorsFile(path)


def made(path, header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{not json", "broken safetensors header"),
        (b"{" * 100_000, "broken safetensors header"),
        ([1], "it is no mapping"),
        (b'{"a": {}, "a": {}}', "a name comes twice"),
        ({"a": entry(shape=(3,))}, "has 12 bytes, not 8"),
        ({"a": entry(shape=(-2,))}, "no shape or byte range"),
        ({"a": entry(shape=(1 << 40, 1 << 40))}, "bytes, not 8"),
        ({"a": entry(shape=(True, 2))}, "no shape or byte range"),
        ({"a": {"dtype": "F32"}}, "no shape or byte range"),
        ({"a": 3}, "no shape or byte range"),
        ({"a": entry(dtype="F4")}, "dtype 'F4'.*not known"),
        ({"a": entry(dtype=["F32"])}, "not known"),
        ({"a": entry(), "b": entry()}, "do not follow those before"),
        ({"a": entry(shape=(1,), offsets=(0, 4))}, "4 bytes follow its last tensor"),
        ({"a": entry(offsets=(4, 12))}, "do not follow"),
        ({"__metadata__": [1], "a": entry()}, "metadata is no mapping"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, message):
    with pytest.raises(CheckpointError, match=message):
        SafetensorsFile(made(tmp_path / "bad", header))


def test_a_giant_header_is_not_read(tmp_path):
    path = tmp_path / "giant"
    path.write_bytes((HEADER_LIMIT + 1).to_bytes(8, "little") + b"{")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        SafetensorsFile(path)


@given(strategies.integers(0, 400), strategies.binary(min_size=1, max_size=4))
def test_damage_anywhere_in_the_header_is_an_error_with_a_message_or_harmless(tmp_path_factory, place, junk):
    path = save(tmp_path_factory.mktemp("fuzz") / "file", TENSORS)
    content = bytearray(path.read_bytes())
    content[place : place + len(junk)] = junk
    path.write_bytes(bytes(content))
    try:
        file = SafetensorsFile(path)
        for name in file.specs:
            file.read(name)
    except CheckpointError as error:
        assert str(path) in str(error)


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    path = save(tmp_path / "file", TENSORS)
    before = path.read_bytes()

    def read(name):
        raise CheckpointError("the source went away")

    with pytest.raises(CheckpointError, match="went away"):
        write(path, {"a": Spec((2,), np.dtype(np.float32))}, read)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_failed_shards_leave_nothing(tmp_path):
    def read(name):
        if name == "b":
            raise CheckpointError("the source went away")
        return np.zeros(2, np.float32)

    specs = {name: Spec((2,), np.dtype(np.float32)) for name in "abc"}
    with pytest.raises(CheckpointError):
        write_sharded(tmp_path / "m.safetensors", specs, read, limit=8)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="cannot"):
        save(tmp_path / "file" / "inside", TENSORS)
