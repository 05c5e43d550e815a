"""Protects: batches are the same for any number of hosts and threads, resume exactly, and stay small in memory."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import anyexpress
from data import pipeline
from data.pipeline import choose_reference, choose_window, make_loader
from portrait_jax.autoencoders.task import AutoencoderTask
from portrait_jax.errors import CheckpointError, ConfigError
from portrait_jax.face.crops import face_box
from portrait_jax.face.drawing import draw_landmarks
from portrait_jax.face.five_points import aligned_face
from portrait_jax.metrics.probe import ProbeTask
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from tests import tiny_anyexpress

JITTER = {"color_jitter": 0.2, "crop_jitter": 0.1}


@pytest.fixture
def config(portraits):
    return {"kind": "clips", "path": str(portraits), "size": 64, "frame_stride": (1, 2), **JITTER}


def load(config, batches, *, skip=0, **settings):
    with make_loader(config, **{"global_batch": 4, "frames": 3, "seed": 7, **settings}) as loader:
        return list(islice(loader, skip, skip + batches))


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def joined(parts):
    return [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]


def test_a_batch_of_clips_has_the_documented_arrays(config):
    (batch,) = load({**config, "frame_stride": (1, 1), "audio": True}, 1)
    (wide,) = load({**config, "frame_stride": (1, 1), "audio": True, "audio_margin": 2}, 1)
    np.testing.assert_array_equal(wide["audio"][:, 2 * 640 : -2 * 640], batch["audio"])
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "frames": ((4, 3, 64, 64, 3), "uint8"),
        "reference": ((4, 64, 64, 3), "uint8"),
        "landmarks": ((4, 3, 478, 3), "float32"),
        "reference_landmarks": ((4, 478, 3), "float32"),
        "control": ((4, 3, 64, 64, 3), "uint8"),
        "expression_mask": ((4, 3, 8, 8, 1), "float32"),
        "oval_mask": ((4, 3, 8, 8, 1), "float32"),
        "audio": ((4, 1920), "float32"),
    }
    assert 0 < batch["expression_mask"].mean() < batch["oval_mask"].mean() < 1
    np.testing.assert_array_equal(batch["control"][1, 2], draw_landmarks(batch["landmarks"][1, 2], 64, 64, "smooth"))


def test_a_batch_of_speakers_has_the_references_face_and_one_rectangle_around_all_faces(config):
    config = {
        **config,
        "frame_stride": (1, 1),
        "color_jitter": 0.0,
        "crop_jitter": 0.0,
        "audio": True,
        "audio_margin": 3,
    }
    (batch,) = load({**config, "kind": "speakers", "face_size": 32}, 1)
    (faces,) = load({**config, "kind": "faces"}, 1)
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "frames": ((4, 3, 64, 64, 3), "uint8"),
        "reference": ((4, 64, 64, 3), "uint8"),
        "landmarks": ((4, 3, 478, 3), "float32"),
        "face": ((4, 32, 32, 3), "uint8"),
        "face_mask": ((4, 64, 64), "float32"),
        "audio": ((4, 9 * 640), "float32"),
    }
    np.testing.assert_array_equal(batch["frames"], faces["frames"])
    for i in range(4):
        np.testing.assert_array_equal(
            batch["face"][i], aligned_face(faces["reference"][i], faces["reference_landmarks"][i], 32)
        )
        points = np.concatenate([faces["landmarks"][i], faces["reference_landmarks"][i][None]])
        rows, columns = (np.flatnonzero(batch["face_mask"][i].any(axis)) for axis in (1, 0))
        box = face_box(points)
        assert abs(columns[0] - box[:, 0].min()) <= 1.5 and abs(rows[0] - box[:, 1].min()) <= 1.5
        assert abs(columns[-1] + 1 - box[:, 2].max()) <= 1.5 and abs(rows[-1] + 1 - box[:, 3].max()) <= 1.5


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_hosts(config, hosts):
    parts = [load(config, 3, process_index=host, process_count=hosts) for host in range(hosts)]
    assert_same(joined(parts), load(config, 3))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_resuming_goes_on_exactly_whatever_the_threads_and_hosts(config, threads):
    with make_loader(config, global_batch=4, frames=3, seed=7, threads=2) as loader:
        list(islice(loader, 2))
        state = json.loads(json.dumps(loader.get_state()))
        following = list(islice(loader, 2))
    parts = []
    for host in range(2):
        with make_loader(
            config, global_batch=4, frames=3, seed=7, threads=threads, process_index=host, process_count=2
        ) as resumed:
            resumed.set_state(state)
            assert resumed.get_state() == state
            parts.append(list(islice(resumed, 2)))
    assert_same(joined(parts), following)


def test_a_loader_can_be_set_back_while_it_runs(config):
    with make_loader(config, global_batch=4, frames=3, seed=7) as loader:
        start = loader.get_state()
        first = list(islice(loader, 2))
        loader.set_state(start)
        assert_same(list(islice(loader, 2)), first)


@pytest.mark.parametrize("change", [{"seed": 8}, {"global_batch": 8}, {"frames": 2}, {"split": "test"}])
def test_a_state_of_another_stream_is_refused(config, change):
    settings = {"global_batch": 4, "frames": 3, "seed": 7}
    with make_loader(config, **settings) as loader, make_loader(config, **{**settings, **change}) as other:
        with pytest.raises(CheckpointError, match=next(iter(change)) if "split" not in change else "data|split"):
            other.set_state(loader.get_state())


@pytest.mark.parametrize(
    "change",
    [{"color_jitter": 0.1}, {"crop_jitter": 0.0}, {"frame_stride": (1, 1)}, {"size": 32}, {"drawing": "released"}],
)
def test_a_state_of_other_pictures_of_the_same_data_is_refused(config, change):
    settings = {"global_batch": 4, "frames": 3, "seed": 7}
    with make_loader(config, **settings) as loader, make_loader({**config, **change}, **settings) as other:
        state = json.loads(json.dumps(loader.get_state()))
        loader.set_state(state)
        with pytest.raises(CheckpointError, match=f"data.{next(iter(change))}"):
            other.set_state(state)


def test_a_state_from_before_a_setting_was_kept_is_taken(config):
    with make_loader(config, global_batch=4, frames=3, seed=7) as loader:
        state = loader.get_state()
        del state["stream"]["data.crop_jitter"]
        loader.set_state(state)


@pytest.mark.parametrize("kind", list(pipeline.KINDS))
def test_each_kind_gives_the_arrays_it_promises(config, kind):
    path = "" if kind in ("synthetic", "motion") else config["path"]
    config = {**config, "kind": kind, "path": path, "clip_frames": 4}
    (batch,) = load(config, 1, global_batch=1, frames=2, threads=0)
    assert set(batch) == set(pipeline.KINDS[kind].gives)


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        (
            FollowYourEmoji,
            "images",
            "'images' gives image, but .*oval_mask.* needed; use data.kind 'clips' or 'synthetic'",
        ),
        (AutoencoderTask, "clips", "image is needed; use data.kind 'images' or 'probe'"),
        (ProbeTask, "images", "attributes, landmarks is needed; use data.kind 'probe'"),
    ],
)
def test_a_kind_that_does_not_fit_the_task_names_those_that_do(config, task, kind, message):
    with pytest.raises(ConfigError, match=message):
        make_loader({**config, "kind": kind}, global_batch=4, needs=task.batch_keys)


def test_the_kind_in_each_task_s_own_config_fits(config):
    for task, kind in ((FollowYourEmoji, "clips"), (AutoencoderTask, "images"), (ProbeTask, "probe")):
        make_loader({**config, "kind": kind}, global_batch=4, needs=task.batch_keys).close()


def test_every_clip_is_seen_once_per_epoch_in_a_new_order(portraits):
    batches = load({"kind": "probe", "path": str(portraits), "size": 64}, 4, global_batch=5, frames=1)
    orders = [[tuple(row) for row in batch["attributes"]] for batch in batches]
    assert all(len(set(order)) == 5 and set(order) == set(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_seeds_give_different_streams(config):
    assert not np.array_equal(load(config, 1)[0]["frames"], load(config, 1, seed=8)[0]["frames"])


def test_reading_ahead_is_bounded():
    for threads in (0, 1, 2, 8):
        options = pipeline.read_options(threads)
        assert options.num_threads == threads and options.prefetch_buffer_size <= 2 * threads


def test_frames_and_landmarks_are_resized_together(config):
    plain = {**config, "color_jitter": 0.0, "crop_jitter": 0.0}
    (small,), (large,) = load({**plain, "size": 32}, 1), load(plain, 1)
    np.testing.assert_allclose(2 * small["landmarks"], large["landmarks"], rtol=1e-5)
    shrunk = large["frames"].reshape(4, 3, 32, 2, 32, 2, 3).mean(axis=(3, 5))
    assert np.abs(small["frames"] - shrunk).mean() < 1


@pytest.mark.parametrize("kind", ["synthetic", "images", "probe"])
def test_clips_rendered_on_demand_are_deterministic(kind):
    config = {"kind": kind, "size": 64, "identities": 3, "clip_frames": 6}
    first = load(config, 2, global_batch=2, frames=2, threads=0)
    assert_same(load(config, 2, global_batch=2, frames=2, threads=2), first)
    assert not np.array_equal(*(batch["frames" if kind == "synthetic" else "image"] for batch in first))


def test_a_config_dict_is_taken(portraits):
    (batch,) = load(ConfigDict({"kind": "images", "path": str(portraits), "size": 64}), 1)
    assert batch.keys() == {"image"} and batch["image"].shape == (4, 64, 64, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "clip"}, "did you mean 'clips'"),
        ({"sizes": 3}, "did you mean 'size'"),
        ({"drawing": "smoth"}, "did you mean 'smooth'"),
        ({"size": 60}, "latent_factor"),
        ({"frame_stride": (2, 1)}, "frame_stride"),
        ({"audio": True}, "stride"),
        ({"audio_margin": -1}, "audio_margin"),
    ],
)
def test_settings_that_do_not_fit_are_named(config, change, message):
    with pytest.raises(ConfigError, match=message):
        make_loader({**config, **change}, global_batch=4)


def test_too_long_examples_and_uneven_hosts_are_named(config):
    with pytest.raises(ConfigError, match="20 frames, but the clips have 14"):
        make_loader(config, global_batch=4, frames=20)
    with pytest.raises(ConfigError, match="does not divide among 3"):
        make_loader(config, global_batch=4, process_index=0, process_count=3)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 4), st.integers(0, 99))
def test_windows_stay_inside_the_clip_and_references_outside_the_window(length, frames, least, more, seed):
    frames, rng = min(frames, length), np.random.default_rng(seed)
    chosen = choose_window(rng, length, frames, (least, least + more))
    steps = np.diff(chosen)
    assert len(chosen) == frames and chosen[0] >= 0 and chosen[-1] < length
    assert len(set(steps)) <= 1
    if frames > 1:
        longest = (length - 1) // (frames - 1)
        assert min(least, longest) <= steps[0] <= min(least + more, longest)
    reference = choose_reference(rng, length, chosen)
    assert 0 <= reference < length and (reference not in chosen or frames == length)


def test_captions_reach_training_by_keys_of_the_config(portraits, tmp_path):
    tiny_anyexpress.write_tokenizer(tmp_path / "tokenizer")
    config = anyexpress.get_config("stage1")
    config.data.update({"path": str(portraits), "size": 64, "tokenizer": str(tmp_path / "tokenizer"), "caption": "fa"})
    with make_loader(config.data, global_batch=1, frames=3, threads=0) as loader:
        ids = next(loader)["text"]
    assert ids.shape == (1, 77) and 4 in ids, "the caption of clips that have none"
