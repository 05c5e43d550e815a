"""What stands before the published encoders: tokenizers and feature extractors, by the classes of transformers.

Each is read from a folder or from `hub:org/name/folder` (`portrait_jax.interchange.hub`); nothing of it is code. For training,
where pictures and sound are on the device already, `encoders.clip_vision.clip_pixels` and
`encoders.wav2vec2.normalise_waveform` compute the same inside the jitted step.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from portrait_jax.errors import AudioError, CheckpointError, ShapeError
from portrait_jax.interchange.hub import resolve
from portrait_jax.typing import Float, Int, Video

MAX_TEXTS = 4096
"""Of one call: prompts come from files that people hand in."""


@dataclass(frozen=True)
class Source:
    """A class of transformers and the files that it reads."""

    class_name: str
    files: tuple[str, ...]


SOURCES = {
    "clip": Source("CLIPTokenizer", ("vocab.json", "merges.txt", "tokenizer_config.json")),
    "t5": Source("T5Tokenizer", ("tokenizer.json", "tokenizer_config.json")),
    "images": Source("CLIPImageProcessor", ("preprocessor_config.json",)),
    "sound": Source("Wav2Vec2FeatureExtractor", ("preprocessor_config.json",)),
}


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Texts to the token ids of a text encoder."""

    inner: Any
    length: int

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "b n"]:
        """Ids, int32: begin (CLIP), tokens, end, then padding up to `length`; longer texts are cut, as published pipelines do.

        Raises:
            ShapeError: no text, or more than `MAX_TEXTS`.
        """
        if isinstance(texts, str) or not 0 < len(texts) <= MAX_TEXTS:
            raise ShapeError(f"give a list of 1 to {MAX_TEXTS} texts")
        encoded = self.inner(list(texts), padding="max_length", max_length=self.length, truncation=True)
        return np.asarray(encoded["input_ids"], np.int32)


@dataclass(frozen=True, eq=False)
class ImageProcessor:
    """Pictures to the pixels of CLIP's vision encoders."""

    inner: Any

    def __call__(self, images_u8: Video) -> Float[np.ndarray, "b s s 3"]:
        """Resized, cut and normalised as the release's `preprocessor_config.json` says; channels last."""
        return np.moveaxis(self.inner(list(images_u8), return_tensors="np")["pixel_values"], 1, -1)


@dataclass(frozen=True, eq=False)
class SoundProcessor:
    """Sound to the waveform of wav2vec 2.0."""

    inner: Any

    def __call__(self, samples: Float[np.ndarray, "b n"], rate: int) -> Float[np.ndarray, "b n"]:
        """Normalised as the release says; raises AudioError for another sampling rate (Hz) than the release's."""
        if rate != self.inner.sampling_rate:
            raise AudioError(
                f"the sound has {rate} Hz, the encoder takes {self.inner.sampling_rate}: resample it first"
            )
        return np.asarray(
            self.inner(list(samples), sampling_rate=rate, return_tensors="np")["input_values"], np.float32
        )


def load_tokenizer(name: str | os.PathLike[str], length: int = 77) -> Tokenizer:
    """CLIP's tokenizer, e.g. of `hub:org/stable-diffusion/tokenizer`, or T5's; `length` is what the text encoder takes.

    Which one it is says its `tokenizer_config.json`. T5's must have a `tokenizer.json`: its older form, `spiece.model` alone, needs
    a library that is not among the requirements.

    Raises:
        CheckpointError: files are missing (and where to put them) or are no tokenizer's.
    """
    return Tokenizer(_load(_tokenizer_kind(name), name), length)


def load_image_processor(name: str | os.PathLike[str]) -> ImageProcessor:
    """The preprocessing of a CLIP vision encoder; raises CheckpointError as `load_tokenizer`."""
    return ImageProcessor(_load("images", name))


def load_sound_processor(name: str | os.PathLike[str]) -> SoundProcessor:
    """The preprocessing of wav2vec 2.0; raises CheckpointError as `load_tokenizer`."""
    return SoundProcessor(_load("sound", name))


def _tokenizer_kind(name: str | os.PathLike[str]) -> str:
    """The entry of `SOURCES` for a tokenizer's folder."""
    config = "tokenizer_config.json"
    path = resolve(name, (config,)) / config
    try:
        said = json.loads(path.read_text())
        return "t5" if said.get("tokenizer_class", "").startswith("T5") else "clip"
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch it again") from error


def _load(kind: str, name: str | os.PathLike[str]) -> Any:
    source = SOURCES[kind]
    folder = resolve(name, source.files)
    with _quiet():
        import transformers

        try:
            return getattr(transformers, source.class_name).from_pretrained(str(folder), local_files_only=True)
        except Exception as error:
            # The tokenizers of transformers are a Rust library's, which raises bare `Exception` for a broken file.
            raise CheckpointError(
                f"{folder} holds no {source.class_name} that can be read ({error}); fetch {', '.join(source.files)} again"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' advice to install torch: nothing here needs it."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
