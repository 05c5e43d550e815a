"""`python -m launch.animate` with all that AnyExpress can be told at once, each by its flag and from published files."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from portrait_jax.interchange import export_checkpoint
from portrait_jax.media.video import probe, read_video
from portrait_jax.training.params import save_params
from portrait_jax.training.state import flatten, matches, unflatten
from tests import tiny_anyexpress
from tests.animation import scene
from tests.animation.test_sound import OF_BASE, write_voice
from tests.tiny import make_params

PUBLISHED = {"adapter": "anyexpress_adapter_all", "toon": "sd15_single_file", "points": "t2i_adapter_sd15"}


def write_models(folder) -> None:
    """An adapter, a personalised model and a T2I-Adapter as published; `rest` is what else the paper's bases are."""
    system = tiny_anyexpress.make_system(control="t2i_adapter")
    params = make_params(system)
    save_params(folder / "whole.safetensors", params, {})
    for name, layout in PUBLISHED.items():
        export_checkpoint([layout], folder / "whole.safetensors", folder / f"{name}.safetensors")
    others = (*OF_BASE, *system.adapter, "pose_adapter/")
    rest = {name: leaf for name, leaf in flatten(params).items() if not matches(name, others)}
    save_params(folder / "rest.safetensors", unflatten(rest), {})


@pytest.mark.slow
def test_every_control_is_one_flag_and_they_compose(root, tmp_path):
    scene.fill(tmp_path)
    write_voice(tmp_path)
    write_models(tmp_path)
    tiny_anyexpress.write_tokenizer(tmp_path / "tokenizer")
    flags = {
        "config": "tests/tiny_anyexpress.py:demo",
        "checkpoint": tmp_path / "adapter.safetensors",
        "base": ",".join(str(tmp_path / f"{name}.safetensors") for name in ("rest", "toon", "points")),
        "portrait": tmp_path / "portrait.png",
        "portrait_landmarks": tmp_path / "portrait.npz",
        "driving": tmp_path / "speech.wav",
        "prompt": "fa",
        "negative_prompt": "a",
        "tokenizer": tmp_path / "tokenizer",
        "control": tmp_path / "driving.npz",
        "control_scale": 0.8,
        "id_scale": 0.7,
        "audio_scale": 1.2,
        "fps": 20,
        "output": tmp_path / "out.mp4",
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    done = subprocess.run([sys.executable, "-m", "launch.animate", *words], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["checkpoint"]["layout"] == PUBLISHED["adapter"]
    assert [base.get("layout") for base in record["base"]] == [None, PUBLISHED["toon"], PUBLISHED["points"]]
    model = record["config"]["model"]
    assert model["behaviour"]["control"] == "t2i_adapter" and model["behaviour"]["control_scale"] == 0.8
    assert model["behaviour"]["id_scale"] == 0.7 and model["audio"]["scale"] == 1.2
    assert record["prompts"] == {"text": [6, 4, 7], "negative_text": [6, 3, 7]}
    assert set(record["inputs"]) == {"portrait", "portrait_landmarks", "driving", "control"}
    assert probe(tmp_path / "out.mp4").has_audio and np.std(read_video(tmp_path / "out.mp4")) > 1
