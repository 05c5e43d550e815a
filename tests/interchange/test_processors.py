"""Tokenizers and feature extractors from local folders, against what the encoders compute on the device."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from portrait_jax.encoders.clip_vision import clip_pixels
from portrait_jax.encoders.wav2vec2 import SAMPLE_RATE, normalise_waveform
from portrait_jax.errors import AudioError, CheckpointError, ShapeError
from portrait_jax.interchange.processors import load_image_processor, load_sound_processor, load_tokenizer

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"), "fa", "fac", "face</w>"]


@pytest.fixture
def tokenizer_folder(tmp_path):
    """A published tokenizer's files in small: letters, and the merges that make one word."""
    vocabulary = {token: index for index, token in enumerate([*TOKENS, BEGIN, END])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nf a\nfa c\nfac e</w>\n")
    special = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END, "model_max_length": 77}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer", **special}))
    return tmp_path


def test_texts_become_ids_between_begin_and_end_and_are_padded_with_the_end(tokenizer_folder):
    ids = load_tokenizer(tokenizer_folder, length=8)(["A  Face", ""])
    token = {name: index for index, name in enumerate([*TOKENS, BEGIN, END])}
    begin, end = token[BEGIN], token[END]
    assert ids.dtype == np.int32
    assert ids.tolist() == [[begin, token["a</w>"], token["face</w>"], *[end] * 5], [begin, *[end] * 7]]


def test_a_long_text_is_cut_before_its_end_token(tokenizer_folder):
    tokenize = load_tokenizer(tokenizer_folder, length=6)
    (ids,) = tokenize(["face " * 50]).tolist()
    assert ids[0] == len(TOKENS) and ids[-1] == len(TOKENS) + 1
    assert ids[1:-1] == [TOKENS.index("face</w>")] * 4


def test_a_t5_tokenizer_is_known_by_its_config_ends_texts_and_pads_with_zeros(tmp_path):
    from transformers import T5Tokenizer

    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁face", -1.0), ("▁a", -1.5)]
    T5Tokenizer(vocab=words, extra_ids=0).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path, length=5)(["a face", "face " * 9]).tolist() == [[4, 3, 1, 0, 0], [3, 3, 3, 3, 1]]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 file \(tokenizer\.json\)"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is damaged"):
        load_tokenizer(tmp_path)


def test_one_text_that_is_no_list_and_too_many_are_refused(tokenizer_folder):
    tokenize = load_tokenizer(tokenizer_folder)
    for texts in ("a face", [], ["a"] * 4097):
        with pytest.raises(ShapeError, match="give a list of 1 to 4096 texts"):
            tokenize(texts)


def test_missing_and_broken_files_are_named(tokenizer_folder, tmp_path):
    (tokenizer_folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 file \(merges\.txt\); put them into "):
        load_tokenizer(tokenizer_folder)
    (tokenizer_folder / "merges.txt").write_text("#version: 0.2\nf a\n")
    (tokenizer_folder / "vocab.json").write_text("[1, 2")
    with pytest.raises(CheckpointError, match="holds no CLIPTokenizer that can be read"):
        load_tokenizer(tokenizer_folder)


def test_pictures_are_prepared_as_inside_the_jitted_step(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    smooth = np.linspace(0, 1, 300)[:, None, None] * np.linspace(0, 1, 260)[None, :, None] * np.array([255, 200, 90])
    images = np.stack([smooth, 255 - smooth]).astype(np.uint8)
    theirs = load_image_processor(tmp_path)(images)
    ours = clip_pixels(jnp.asarray(images) / 127.5 - 1)
    assert theirs.shape == ours.shape == (2, 224, 224, 3)
    # Theirs rounds to 8 bits after resizing: half a level of 255, divided by the least deviation, 0.26.
    assert np.abs(theirs - ours).max() < 0.02


def test_sound_is_prepared_as_inside_the_jitted_step(tmp_path):
    settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": True, "sampling_rate": 16000}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    samples = np.random.default_rng(0).normal(0.1, 0.3, (2, 1600)).astype(np.float32)
    prepare = load_sound_processor(tmp_path)
    np.testing.assert_allclose(prepare(samples, SAMPLE_RATE), normalise_waveform(jnp.asarray(samples)), atol=1e-5)
    with pytest.raises(AudioError, match="44100 Hz, the encoder takes 16000: resample"):
        prepare(samples, 44_100)
