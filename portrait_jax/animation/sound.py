"""Systems that are driven by sound: a recording, or the track of a video, becomes speech features for every frame.

The features of the whole sound are computed once (`encoders.speech`) and lie on the disk, from where each window takes its
own: neither a long recording nor its features are ever in memory as a whole. Pictures that steer the pose may come with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from portrait_jax.animation.driving import load_driving
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip, Drive, Driver, Request, Signals
from portrait_jax.encoders.speech import Clock, Encode, frame_windows, speech_states
from portrait_jax.errors import ConfigError
from portrait_jax.face.drawing import draw_dots
from portrait_jax.media.audio import check_audible, read_blocks
from portrait_jax.media.files import FilePath, atomic_output
from portrait_jax.systems.system import System
from portrait_jax.typing import Array, Float, Image, Int, Params, Video

STATES, DONE = "speech.f32", "speech.json"
"""Names in the cache; the second is written last, and says the shape of the first."""
SHOWN = 8
"""Frames on the contact sheet."""


class HeardSystem(System, Protocol):
    """A system whose `encode_driving` reads `audio`, and maybe `text`, `negative_text` and `control`."""

    @property
    def reach(self) -> int:
        """Frames on either side that a frame hears."""
        ...

    def clock(self, fps: float | None = None) -> Clock:
        """Where frames lie on a sound, at this rate or the one that it was trained at."""
        ...

    def encode_sound(self, params: Params, samples: Float[Array, "b t"], places: Float[Array, " n"]) -> Array:
        """Normalised samples → hidden states of the speech encoder at these places."""
        ...


def load(request: Request) -> Drive:
    """Hears a recording or a video's track, and draws the control pictures if any are asked for.

    Raises:
        AudioError: for a sound that is missing, damaged, silent or shorter than half a second.
        ConfigError: for prompts without the tokenizer that reads them.
    """
    system: HeardSystem = request.system  # type: ignore[assignment]  # What the table's key promises.
    clock = system.clock(request.fps)
    states = heard(system, request.params, request.path, clock, request.cache)
    control = None if request.control is None else control_pictures(request, clock.fps)
    shown = sorted(set(np.linspace(0, len(states) - 1, SHOWN).astype(int).tolist()))
    rows = {} if control is None else {"control": partial(_pictures, control)}
    signals = sound_signals(states, system.reach, request.prompts, control)
    return Drive(signals, len(states), clock.fps, shown, rows)


def heard(
    system: HeardSystem, params: Params, path: FilePath, clock: Clock, cache: Path
) -> Float[np.ndarray, "g layers d"]:
    """Hidden states of every frame as a memory map in `cache`; what is there already is not computed again."""
    if not (cache / DONE).exists():
        check_audible(sound_blocks(path, clock), clock.rate, path)
        shape: list[int] = []
        with atomic_output(cache / STATES) as partial_file, partial_file.open("wb") as file:
            for piece in speech_states(encoder(system, params), lambda: sound_blocks(path, clock), clock):
                file.write(np.ascontiguousarray(piece, np.float32).tobytes())
                shape = [sum(shape[:1]) + len(piece), *piece.shape[1:]]
        with atomic_output(cache / DONE) as partial_file:
            partial_file.write_text(json.dumps(shape))
    shape = json.loads((cache / DONE).read_text())
    return np.memmap(cache / STATES, np.float32, "r", shape=tuple(shape))


def sound_blocks(path: FilePath, clock: Clock) -> Iterator[Float[np.ndarray, " n"]]:
    """The sound of a file as the speech encoder takes it: mono, a block at a time."""
    return (block[:, 0] for block in read_blocks(path, clock.rate, channels=1))


def encoder(system: HeardSystem, params: Params) -> Encode:
    """The system's speech encoder, compiled; of the parameters only those that it reads travel to the device.

    Raises ConfigError if there is none, as in a stage of training that hears nothing.
    """
    if "audio_encoder" not in params:
        raise ConfigError(
            f"{system.name} hears nothing with this config; give that of a stage that is trained on sound"
        )
    run = jax.jit(system.encode_sound)
    return partial(run, {"audio_encoder": params["audio_encoder"]})


def sound_signals(
    states: Float[np.ndarray, "g layers d"],
    reach: int,
    prompts: Mapping[str, Int[np.ndarray, " n"]] | None = None,
    control: Callable[[Int[np.ndarray, " f"]], Video] | None = None,
) -> Signals:
    """Windows of hidden states, the prompts' token ids, and control pictures."""

    def at(frames: Int[np.ndarray, " f"]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {"audio": frame_windows(states, frames, reach)}
        return found if control is None else {**found, "control": control(frames)}

    return Signals(at, dict(prompts or {}))


def control_pictures(request: Request, fps: float) -> Callable[[Int[np.ndarray, " f"]], Video]:
    """Face key points of a video or a stored sequence, drawn as dots; past its end its last frame stays."""
    assert request.control is not None
    folder = request.cache / "control"
    folder.mkdir(parents=True, exist_ok=True)
    driving = load_driving(request.control, fps=fps, detector=request.detector, cache=folder, report=request.report)
    sequence, side = driving.sequence, request.system.image_size
    scale = side / max(sequence.width, sequence.height)

    def draw(frames: Int[np.ndarray, " f"]) -> Video:
        points = sequence.landmarks[np.minimum(frames, len(sequence.landmarks) - 1)] * scale
        return np.stack([draw_dots(face, side, side) for face in points])

    return draw


def _pictures(draw: Callable[[Int[np.ndarray, " f"]], Video], frames: Sequence[int]) -> Sequence[Image]:
    return list(draw(np.array(frames)))


def clip_signals(system: HeardSystem, portrait: Portrait, clip: Clip, alignment: str) -> Signals:
    """The speech features of a clip; raises ConfigError if it has none."""
    if clip.speech is None:
        raise ConfigError(
            f"{system.name} is driven by sound; give the clip's speech features (animation.sound.encoder)"
        )
    return sound_signals(clip.speech, system.reach)


def has_sound(path: Path) -> Path | None:
    """The driving file itself: what drives is also heard."""
    return path


SOUND = Driver(load, clip_signals, lambda path: False, has_sound, control="face")
