"""Numbers of a run: means over an interval, lines that survive a kill, and writers that get it all."""

import json

import numpy as np

from portrait_jax.training.journal import Journal, JsonLines, read_lines


class Recorder:
    def __init__(self):
        self.numbers, self.pictures, self.closed = [], [], False

    def scalars(self, step, values):
        self.numbers.append((step, dict(values)))

    def images(self, step, values):
        self.pictures.append((step, list(values)))

    def close(self):
        self.closed = True


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n{"step": 3, "lo')
    journal = JsonLines(path, start=1)
    journal.scalars(2, {"loss": float("nan")})
    journal.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": "nan"},
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_numbers_come_back_exactly(tmp_path):
    values = {"loss": 1 / 3, "lr": 1e-45}
    journal = JsonLines(tmp_path / "new" / "metrics.jsonl", start=0)
    journal.scalars(1, values)
    assert read_lines(tmp_path / "new" / "metrics.jsonl") == [{"step": 1, **values}], "each line is flushed"
    journal.close()


def test_means_start_anew_after_each_line_and_the_last_step_has_one():
    recorder = Recorder()
    journal = Journal([recorder], every=2)
    for step, loss in enumerate([1.0, 3.0, 5.0], 1):
        journal.record(step, {"loss": loss}, last=step == 3)
    assert recorder.numbers == [(2, {"loss": 2.0}), (3, {"loss": 5.0})]


def test_every_writer_gets_the_pictures_and_is_closed():
    writers = [Recorder(), Recorder()]
    journal = Journal(writers, every=1)
    journal.images(4, {"strip": np.zeros((2, 2, 3), np.uint8)})
    journal.close()
    assert all(writer.pictures == [(4, ["strip"])] and writer.closed for writer in writers)
