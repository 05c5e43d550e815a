"""A folder's checkpoints are found, told apart from their other forms and shards, and joined to the release they make up."""

import json
from pathlib import Path

import numpy as np
import pytest

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange import import_checkpoint, inspect, layout_named, layouts
from portrait_jax.interchange.releases import Found, Header, found_in, release_in
from portrait_jax.interchange.safetensors_files import Spec
from tests.interchange.made import SMALL, save

ONE, TWO = {"a": np.ones(3, np.float32)}, {"b": np.ones(4, np.float32)}
SEVERAL = sorted(
    name for name, layout in layouts().items() if len({part.file for part in layout.parts}) > 1
)  # those that are folders
GUIDER = layout_named("follow_your_emoji").parts[2]


def found_at(layout, spot) -> list[Found]:
    """A release as its signatures describe it, each file at `spot(its published place)`."""
    made = []
    for file in dict.fromkeys(part.file for part in layout.parts):
        names = {}
        for part in (part for part in layout.parts if part.file == file):
            names |= dict.fromkeys(part.signature.has, (1,)) | part.signature.shapes
        specs = {name: Spec(tuple(shape), np.dtype(np.float32)) for name, shape in names.items()}
        where = spot(file if Path(file).suffix else f"{file}/model.safetensors")
        made.append(Found(where, Header(Path(where), "safetensors", {}, specs)))
    return made


def beside(place: str) -> str:
    """Where a file lies if all lie side by side, networks that are folders in their folders."""
    path = Path(place)
    return path.name if path.suffix == ".pth" else f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("spot", [str, beside, lambda place: f"deeper/{place}", lambda place: place.replace("/", "-")])
@pytest.mark.parametrize("name", SEVERAL)
def test_a_release_is_known_by_its_files_wherever_they_lie(name, spot):
    layout = layouts()[name]
    release = release_in(found_at(layout, spot))
    assert release is not None and release.layout is layout
    assert [part for _, parts in release.held for part in parts] == list(layout.parts)
    assert release.absent == release.damaged == release.rest == ()


@pytest.mark.parametrize("name", SEVERAL)
def test_what_a_release_lacks_is_told_from_what_cannot_be_read(name):
    layout = layouts()[name]
    first, *others = found_at(layout, str)
    held = others or [first]
    release = release_in([Found(first.where, None, "truncated"), *held])
    assert release is not None and [found.where for found in release.damaged] == [first.where]
    lost = layout.parts[0].file
    assert {part for _, parts in release.held for part in parts} == {part for part in layout.parts if part.file != lost}
    assert release.absent == ()


def test_files_of_different_releases_are_not_called_one():
    both = [found_at(layout_named(name), str)[0] for name in ("ip_adapter_sd15", "wav2vec2_base_960h")]
    assert release_in(both) is None


@pytest.fixture
def tree(tmp_path, small_release):
    """Three files of Follow-Your-Emoji's release, one of them a pointer, and what else lies in such folders."""
    vae = tmp_path / "sd-vae-ft-mse"
    save(vae / "diffusion_pytorch_model.safetensors", small_release[0])
    (vae / "diffusion_pytorch_model.bin").write_bytes(b"not looked at")
    own = tmp_path / "follow-your-emoji"
    save(own / "lmk_guider.safetensors", {name: np.ones(shape, np.float16) for name, shape in GUIDER.stored().items()})
    (own / "unet.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    save(tmp_path / "safety_checker" / "model.safetensors", ONE)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "model.safetensors").write_bytes(b"not looked at")
    (tmp_path / "model_index.json").write_text("{}")
    return tmp_path


def test_inspect_of_a_release_says_what_is_there_missing_unreadable_and_besides(tree):
    text = inspect(tree)
    assert "a folder with 4 checkpoints\nlayout: follow_your_emoji, " in text
    assert "  follow-your-emoji/lmk_guider.safetensors: safetensors, 16 tensors, " in text
    assert "    guider: complete, 16 of 16 tensors" in text
    assert "beside it, not read: diffusion_pytorch_model.bin" in text and "248 of 248 tensors" in text
    assert "  follow-your-emoji/unet.pth: cannot be read: " in text and "git lfs pull" in text
    absent = (
        "not here: image_encoder (a checkpoint in sd-image-variations-diffusers/image_encoder/), "
        "reference (follow-your-emoji/referencenet.pth)"
    )
    assert absent in text and "denoiser (" not in text
    before, after = text.split("no part of it:\n")
    assert (
        "safety_checker" not in before and "safety_checker/model.safetensors" in after and "none of the known" in after
    )


def test_inspect_of_unrelated_checkpoints_describes_each(tmp_path):
    save(tmp_path / "x.safetensors", ONE)
    save(tmp_path / "inner" / "y.safetensors", TWO)
    text = inspect(tmp_path)
    assert "none that several of them share" in text and text.count("none of the known ones") == 2
    assert "  inner/y.safetensors: " in text and "  x.safetensors: " in text


def test_inspect_of_a_folder_with_one_checkpoint_is_that_of_the_checkpoint(small, tmp_path):
    path, _, trees = small
    assert inspect(tmp_path) == inspect(path)
    nested = save(tmp_path / "empty" / "in" / "vae" / "model.safetensors", ONE)
    assert inspect(tmp_path / "empty") == inspect(nested)
    import_checkpoint([SMALL], [str(path)], tmp_path / "ours", targets=trees)
    assert "sub-networks: autoencoder (248 leaves)" in inspect(tmp_path / "ours")


def test_inspect_of_a_folder_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        inspect(tmp_path)


def test_shards_are_one_checkpoint_in_a_release_too(tmp_path):
    names = [f"m-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    save(tmp_path / "unet" / names[0], ONE)
    save(tmp_path / "unet" / names[1], TWO)
    save(tmp_path / "x.safetensors", ONE)
    index = tmp_path / "unet" / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("ab", names))}))
    sharded, alone = sorted(found_in(tmp_path), key=lambda found: found.where)
    assert (sharded.where, alone.where) == ("unet/m.safetensors.index.json", "x.safetensors")
    assert sharded.header is not None and set(sharded.header.specs) == {"a", "b"} and sharded.forms == ()
    assert sharded.header.read("b").shape == (4,)
    (tmp_path / "unet" / names[1]).unlink()
    assert f"lacks 1 of its 2 shards ({names[1]})" in inspect(tmp_path)
    index.unlink()
    assert "the index m.safetensors.index.json is missing" in inspect(tmp_path)


def test_a_disk_full_of_checkpoints_is_no_release(tmp_path, monkeypatch):
    monkeypatch.setattr("portrait_jax.interchange.releases.LIMIT", 1)
    save(tmp_path / "x.safetensors", ONE)
    save(tmp_path / "y.safetensors", ONE)
    with pytest.raises(CheckpointError, match="holds 2 checkpoints; name the folder of one release"):
        inspect(tmp_path)
