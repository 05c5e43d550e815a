"""What TensorBoard and people find in a run's directory."""

import struct

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from launch.writers import ImageFiles, TensorBoard
from portrait_jax.media.image import read_image
from portrait_jax.training.journal import Writer


def events(folder):
    """The events of all files in the order of their names: length, its checksum, data, its checksum (TFRecord)."""
    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def test_tensorboard_gets_numbers_and_pictures_at_their_steps(tmp_path):
    writer = TensorBoard(tmp_path)
    writer.scalars(3, {"loss": 0.5})
    writer.images(4, {"strip": np.zeros((4, 8, 3), np.uint8)})
    writer.close()
    shown = {value.tag: (event.step, value) for event in events(tmp_path) for value in event.summary.value}
    assert shown["train/loss"][0] == 3 and shown["train/loss"][1].simple_value == 0.5
    assert shown["strip"][0] == 4 and (shown["strip"][1].image.height, shown["strip"][1].image.width) == (4, 8)


def test_a_resumed_run_hides_the_steps_that_are_run_again(tmp_path):
    TensorBoard(tmp_path / "new", 0).close()
    TensorBoard(tmp_path / "resumed", 7).close()
    restarts = {
        name: [e.step for e in events(tmp_path / name) if e.HasField("session_log")] for name in ("new", "resumed")
    }
    assert restarts == {"new": [], "resumed": [8]}


def test_sample_strips_are_png_files_named_by_step(tmp_path):
    strip = np.arange(16 * 32 * 3).astype(np.uint8).reshape(16, 32, 3)
    writer = ImageFiles(tmp_path / "samples")
    assert isinstance(writer, Writer) and not (tmp_path / "samples").exists(), (
        "nothing is made before there is a picture"
    )
    writer.images(12, {"strip": strip})
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["strip_0000012.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "samples" / "strip_0000012.png"), strip)
