"""Finding models without a network, and saying where to put what is not there."""

import huggingface_hub
import pytest

from portrait_jax.errors import CheckpointError
from portrait_jax.interchange import resolve


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Own folder, and a hub that has nothing."""
    monkeypatch.setenv("PORTRAIT_MODELS", str(tmp_path / "models"))

    def nothing(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    return tmp_path / "models"


def test_a_path_is_itself_if_it_has_the_files(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    assert resolve(tmp_path, ["vocab.json"]) == tmp_path
    with pytest.raises(CheckpointError, match=r"lacks 1 file \(merges\.txt\); put them into "):
        resolve(tmp_path, ["vocab.json", "merges.txt"])
    with pytest.raises(CheckpointError, match="there is no model at nowhere"):
        resolve("nowhere")


def test_a_model_is_found_in_the_folder_people_put_it_into(offline):
    folder = offline / "org" / "name" / "unet"
    folder.mkdir(parents=True)
    (folder / "a.safetensors").write_text("x")
    assert resolve("hub:org/name", ["unet/*.safetensors"]) == offline / "org" / "name"
    assert resolve("hub:org/name/unet/a.safetensors") == folder / "a.safetensors"


def test_what_is_nowhere_is_named_with_the_place_to_put_it(offline):
    with pytest.raises(CheckpointError, match=r"2 missing: merges\.txt, vocab\.json.*models/org/name.*HF_HUB_OFFLINE"):
        resolve("hub:org/name", ["vocab.json", "merges.txt"])


def test_the_hubs_cache_is_asked_before_the_network(tmp_path, monkeypatch):
    asked = []

    def snapshot(repository, *, revision, allow_patterns, local_files_only):
        asked.append((repository, revision, allow_patterns, local_files_only))
        if not local_files_only:
            (tmp_path / "merges.txt").write_text("x")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve("hub:org/name@main", ["merges.txt"]) == tmp_path
    assert asked == [("org/name", "main", ["merges.txt"], True), ("org/name", "main", ["merges.txt"], False)]


@pytest.mark.parametrize("name", ["hub:name", "hub:org/../x", "hub:", "hub:org/name/../../x"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(CheckpointError, match="names no model"):
        resolve(name)
