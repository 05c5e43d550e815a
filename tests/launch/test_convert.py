"""The command line of conversion: a published file in, the same file out, messages instead of tracebacks."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import hallo3
from launch import convert
from portrait_jax.errors import ConfigError
from portrait_jax.interchange import layout_named
from portrait_jax.interchange.sources import open_checkpoint
from portrait_jax.systems import build
from portrait_jax.training.params import ASSETS, load_params
from tests.interchange.made import random_tensors, same_tensors, save
from tests.weights import shapes


def run(root, *arguments):
    command = [sys.executable, "-m", "launch.convert", *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("line", "words", "options"),
    [
        ("inspect a b", ["inspect", "a", "b"], []),
        (
            "import --layout x --input a b --output c",
            ["import"],
            ["--layout", "x", "--input=a", "--input=b", "--output", "c"],
        ),
        ("import --input=a b --output=c", ["import"], ["--input=a", "--input=b", "--output=c"]),
        ("", [], []),
    ],
)
def test_several_files_may_follow_one_flag(line, words, options):
    assert convert.split(["prog", *line.split()]) == (words, ["prog", *options])


def test_a_published_file_comes_back_as_it_was(root, tmp_path):
    guider = layout_named("follow_your_emoji").parts[2]
    tensors = random_tensors(guider.stored())
    path = save(tmp_path / "lmk_guider.safetensors", tensors)
    done = run(root, "import", "--layout", "follow_your_emoji", "--input", path, "--output", tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    assert (
        "imported guider (16 tensors)" in done.stdout
        and "not given: denoiser (follow-your-emoji/unet.pth)" in done.stdout
    )
    layout = ["--layout", "follow_your_emoji", "--checkpoint", tmp_path / "ours"]
    done = run(root, "export", *layout, "--output", tmp_path / "back.safetensors")
    assert done.returncode == 0, done.stderr
    back = open_checkpoint(tmp_path / "back.safetensors")
    same_tensors({name: back.read(name) for name in back.specs}, tensors)


def test_inspect_says_what_a_file_is(root, tmp_path):
    path = save(tmp_path / "x.safetensors", {"some.thing": np.ones(2, np.float32)})
    done = run(root, "inspect", path)
    assert done.returncode == 0 and "none of the known ones" in done.stdout and "some (1)" in done.stdout


def test_the_demos_image_autoencoder_is_inflated_to_the_demos_of_videos(root, tmp_path):
    made = run(
        root, "inflate", "--checkpoint", ASSETS / "follow_your_emoji_demo.safetensors", "--output", tmp_path / "out"
    )
    assert made.returncode == 0, made.stderr
    task = build(hallo3.get_config("demo_autoencoder"))
    expected = jax.eval_shape(task.init, jax.random.key(0))
    assert shapes(load_params(tmp_path / "out")[0]) == shapes(expected)
    nothing = run(root, "inflate", "--checkpoint", tmp_path / "out", "--output", tmp_path / "again", "--layout", "none")
    assert nothing.returncode == 2 and "quant_conv" in nothing.stderr


def test_mistakes_end_with_a_message_and_status_2(root, tmp_path):
    (tmp_path / "page.ckpt").write_text("<html>404</html>")
    done = run(root, "inspect", tmp_path / "page.ckpt")
    assert done.returncode == 2 and "web page" in done.stderr and "Traceback" not in done.stderr
    done = run(root, "import", "--output", tmp_path)
    assert done.returncode == 2 and "--layout is missing" in done.stderr and "sd15_unet" in done.stderr


def test_an_unknown_command_is_answered_with_the_nearest(monkeypatch):
    monkeypatch.setattr(convert, "WORDS", ["improt"])
    with pytest.raises(ConfigError, match="did you mean 'import'"):
        convert.main()
