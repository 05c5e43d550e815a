"""Systems that are driven by pictures of a face: a driving video becomes face crops, or stored motion is used as it is.

The crops are cut as X-NeMo's release does (`face.boxes`): the box of the first frame, moved along the smoothed track of the
face. They are kept on the disk (`animation.pieces`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np

from portrait_jax.animation.driving import is_sequence, load_driving, pictures, resampled_rows
from portrait_jax.animation.landmarks import video_sound
from portrait_jax.animation.pieces import cut_pieces
from portrait_jax.animation.portrait import Portrait
from portrait_jax.animation.signals import Clip, Drive, Driver, Request, Signals
from portrait_jax.errors import ConfigError, InputFileError, nearest
from portrait_jax.face.boxes import box_triplet, detector_box, motion_crop, motion_track, scaled_square
from portrait_jax.media.files import FilePath, checked_input
from portrait_jax.media.video import read_frames
from portrait_jax.systems.system import System
from portrait_jax.typing import Array, Float, Image, Int, Params, UInt8, Video

STORED_FPS = 25.0
"""Of stored motion that names no rate and for which none is asked."""
LIMIT = 1 << 30
"""Bytes of stored motion that are read."""

Size = tuple[int, int]
"""(height, width) in pixels."""
Triplets = Callable[[Float[np.ndarray, "f 4"], Size, Portrait], Float[np.ndarray, "f 3"] | None]
"""(driver's boxes, its frames' size, portrait) → `face.boxes.box_triplet` of each frame, None: faces are in place."""


class FaceSystem(System, Protocol):
    """A system whose `encode_driving` reads `reference_face` and either `faces` or `motion`, and maybe `boxes`."""

    @property
    def face_size(self) -> int:
        """Side of face crops in pixels."""
        ...

    @property
    def motion_width(self) -> int:
        """Numbers of a motion latent."""
        ...

    def encode_motion(self, params: Params, faces_u8: UInt8[Array, "*batch h w 3"]) -> Float[Array, "*batch e"]:
        """Face crops → motion latents."""
        ...


# Where the face is


def _proportional(boxes: np.ndarray, size: Size, portrait: Portrait) -> np.ndarray:
    return np.stack([box_triplet(box, boxes[0]) for box in boxes])


def _none(boxes: np.ndarray, size: Size, portrait: Portrait) -> np.ndarray:
    own = np.array(portrait.image.shape[:2])
    scale, middle, target = min(own) / min(size), np.tile(size[::-1], 2) / 2, np.tile(own[::-1], 2) / 2
    reference = detector_box(portrait.landmarks)
    return np.stack([box_triplet((box - middle) * scale + target, reference) for box in boxes])


POSITIONS: Mapping[str, Triplets] = MappingProxyType(
    {"proportional": _proportional, "in_place": lambda boxes, size, portrait: None, "none": _none}
)
"""`sampling.alignment`: "proportional": the portrait's face moves and grows as the driver's does since its first frame, in
sizes of the face; "in_place": it stays where it is (X-NeMo's release); "none": it goes where the driver's is, frames scaled to
the portrait's about their middle (how the paper trains)."""


def positions(alignment: str) -> Triplets:
    """Position and size of the driver's face for each frame by one of `POSITIONS`; raises ConfigError for another."""
    if alignment not in POSITIONS:
        raise ConfigError(
            f"sampling.alignment '{alignment}' is not known for a system that is driven by faces"
            f"{nearest(alignment, list(POSITIONS))}"
        )
    return POSITIONS[alignment]


def reference_face(portrait: Portrait, side: int) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The portrait's own face as the motion encoder takes it, cut from the whole picture."""
    image, points = portrait.whole
    return motion_crop(image, scaled_square(detector_box(points), image.shape[:2]), side)


def face_signals(
    crops: Callable[[Int[np.ndarray, " f"]], Video],
    places: Float[np.ndarray, "f 3"] | None,
    portrait: Portrait,
    side: int,
) -> Signals:
    """Crops, their positions if these are transferred, and the portrait's own face."""

    def at(frames: Int[np.ndarray, " f"]) -> dict[str, np.ndarray]:
        found = {"faces": crops(frames)}
        return found if places is None else {**found, "boxes": places[frames].astype(np.float32)}

    return Signals(at, {"reference_face": reference_face(portrait, side)})


# Files


def load(request: Request) -> Drive:
    """Cuts the faces of a driving video out, or reads stored motion (`.npz`).

    Raises:
        InputFileError: for stored landmarks, which say nothing to such a system, and for what `load_driving` refuses.
    """
    if is_sequence(request.path):
        return _stored(request)
    system: FaceSystem = request.system  # type: ignore[assignment]  # What the table's key promises.
    place = positions(system.sampling.alignment)  # A mistake there should show before hours of looking for faces.
    driving = load_driving(
        request.path, fps=request.fps, detector=request.detector, cache=request.cache, report=request.report
    )
    boxes = detector_box(driving.sequence.landmarks)
    size, fps = (driving.sequence.height, driving.sequence.width), driving.sequence.fps
    places = place(boxes, size, request.portrait)
    track = motion_track(boxes, size)

    def cut(number: int, image: Image) -> dict[str, np.ndarray]:
        return {"faces": motion_crop(image, track[number], system.face_size)}

    kept = cut_pieces(read_frames(request.path, fps=fps), len(track), cut, request.cache, request.report)

    def crops(frames: Int[np.ndarray, " f"]) -> Video:
        return kept(frames)["faces"]

    rows = {"driving": pictures(driving), "face": lambda frames: list(crops(np.array(frames)))}
    signals = face_signals(crops, places, request.portrait, system.face_size)
    return Drive(signals, len(boxes), fps, driving.thumbnail_frames, rows)


# Stored motion


def read_motion(path: FilePath) -> tuple[Float[np.ndarray, "f e"], float | None]:
    """Motion latents of a file and their rate, if it names one: `motion` "f e" and maybe `fps` (docs/motion_prior.md).

    Raises:
        InputFileError: for a file that is damaged, too large, or holds something else, such as landmarks.
    """
    path = checked_input(path, "motion")
    problem, advice = f"{path} is no sequence of motion latents", "give a driving video, or see docs/xnemo.md"
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LIMIT:
                raise InputFileError(f"{problem}: it unpacks to more than {LIMIT >> 30} GiB; {advice}")
        with np.load(path, allow_pickle=False) as stored:
            if "landmarks" in stored.files and "motion" not in stored.files:
                raise InputFileError(
                    f"{path} holds landmarks, but this system is driven by pictures of faces; give the driving video "
                    "that they were found in"
                )
            motion, fps = stored["motion"], stored["fps"] if "fps" in stored.files else None
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        raise InputFileError(f"{problem} ({error}); {advice}") from error
    if motion.ndim != 2 or not all(motion.shape) or motion.dtype.kind != "f" or not np.isfinite(motion).all():
        raise InputFileError(f"{problem}: its array is {motion.dtype}{motion.shape}, or not finite; {advice}")
    if fps is not None and not (fps.shape == () and 0 < float(fps) <= 240):
        raise InputFileError(f"{problem}: the frame rate {fps} is out of range; {advice}")
    return motion.astype(np.float32), None if fps is None else float(fps)


def _stored(request: Request) -> Drive:
    system: FaceSystem = request.system  # type: ignore[assignment]
    motion, rate = read_motion(request.path)
    if motion.shape[1] != system.motion_width:
        raise InputFileError(
            f"{request.path} holds latents of {motion.shape[1]} numbers, the system's have {system.motion_width}; give "
            "those of its own motion encoder"
        )
    fps = request.fps or rate or STORED_FPS
    motion = resampled_rows(motion, rate or fps, fps)
    own = {"reference_face": reference_face(request.portrait, system.face_size)}
    shown = sorted(set(np.linspace(0, len(motion) - 1, 8).astype(int).tolist()))
    return Drive(Signals(lambda frames: {"motion": motion[frames]}, own), len(motion), fps, shown, {})


# Clips in memory


def clip_signals(system: FaceSystem, portrait: Portrait, clip: Clip, alignment: str) -> Signals:
    """The faces of a clip's frames; raises ConfigError if it has none."""
    if clip.frames is None:
        raise ConfigError(
            f"{system.name} is driven by pictures of faces; give the driver's frames, not landmarks alone"
        )
    frames, boxes = clip.frames, detector_box(clip.landmarks)
    size = frames.shape[1], frames.shape[2]
    track = motion_track(boxes, size)

    def crops(asked: Int[np.ndarray, " f"]) -> Video:
        return np.stack([motion_crop(frames[i], track[i], system.face_size) for i in asked])

    return face_signals(crops, positions(alignment)(boxes, size, portrait), portrait, system.face_size)


FACES = Driver(load, clip_signals, lambda path: not is_sequence(path), video_sound)
