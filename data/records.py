"""Between arrays and stored bytes: a raw clip becomes a record, and a record gives back only the frames asked for."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import av
import numpy as np

from data.schema import ARRAY, BYTES, FIELDS, SCALAR, TEXT, check
from portrait_jax.errors import ShapeError, VideoError
from portrait_jax.media.h264 import EXACT
from portrait_jax.media.video import mp4_bytes
from portrait_jax.typing import Bool, Video

GOP = 12
CRF = 12

Record = dict[str, Any]


def encode_clip(clip: Mapping[str, Any], *, crf: int = CRF) -> Record:
    """A raw clip as a record that has passed `schema.check`.

    Args:
        clip: the schema's fields with `frames` u8 "f h w 3" in place of `video` and `face_mask` bool "f h w"; further
            entries are ignored; texts, `audio`, `attributes` and `expression` may be left out.
        crf: x264's quality; 12 is close to lossless.

    Raises:
        ShapeError: a field is missing or does not fit.
    """
    frames, mask = clip["frames"], np.asarray(clip["face_mask"], bool)
    count, height, width = frames.shape[:3]
    if mask.shape != (count, height, width):
        raise ShapeError(f"face_mask is {mask.shape}, the frames are {(count, height, width)}")
    if height % 2 or width % 2:
        raise ShapeError(f"frames of {height}×{width} pixels: yuv420p needs even sizes")
    record: Record = {
        "num_frames": count, "height": height, "width": width,
        "video": mp4_bytes(frames, fps=float(clip["fps"]), gop=GOP, crf=crf), "face_mask": pack_mask(mask),
    }  # fmt: skip
    absent = {"audio": np.zeros(0), "attributes": np.zeros(0), "expression": np.zeros((count, 0))}
    for name, field in FIELDS.items():
        if name not in record:
            record[name] = clip.get(name, "" if field.kind == TEXT else absent.get(name))
    check(normalised := normalise(record))
    return normalised


def normalise(record: Mapping[str, Any]) -> Record:
    """The record with each field of the schema's type: text as str, scalars as NumPy scalars, arrays contiguous."""
    out: Record = {}
    for name, field in FIELDS.items():
        value = record.get(name)
        if value is None:
            raise ShapeError(f"a clip record without {name}")
        if field.kind == TEXT:
            out[name] = value.decode() if isinstance(value, bytes) else str(value)
        elif field.kind == SCALAR:
            out[name] = field.dtype(value)
        elif field.kind == ARRAY:
            out[name] = np.ascontiguousarray(value, field.dtype)
        else:
            out[name] = value
    return out


def pack_mask(mask: Bool[np.ndarray, "f h w"]) -> bytes:
    """Eight pixels to a byte, then zlib."""
    return zlib.compress(np.packbits(mask).tobytes(), 6)


def unpack_mask(record: Mapping[str, Any]) -> Bool[np.ndarray, "f h w"]:
    """The record's face mask. Raises ShapeError if it is damaged, or does not have the size of the frames."""
    shape = tuple(int(record[name]) for name in ("num_frames", "height", "width"))
    count = int(np.prod(shape))
    size = -(-count // 8)
    try:
        packed = zlib.decompressobj().decompress(record["face_mask"], size + 1)  # One more would show what is too long.
    except zlib.error as error:
        raise ShapeError(f"clip {record['clip_id']}: the face mask is damaged ({error}); prepare it again") from error
    if len(packed) != size:
        raise ShapeError(f"clip {record['clip_id']}: the face mask does not have the size {shape}; prepare it again")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count).reshape(shape).astype(bool)


def decode_frames(video: bytes, indices: Sequence[int], name: str = "a stored clip") -> Video:
    """Frames of an mp4 by index, in the order asked for; only the groups of pictures that hold one are decoded.

    Args:
        video: mp4 bytes with one video stream.
        indices: 0-based; may repeat.
        name: of the clip, for messages.

    Raises:
        VideoError: the bytes are no video, or it has no such frame.
    """
    wanted, found = set(map(int, indices)), {}
    try:
        with av.open(io.BytesIO(video)) as container:
            stream = container.streams.video[0]
            # One thread: loaders run several clips side by side, and frame threads would only add latency.
            stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
            position = {pts: index for index, pts in enumerate(sorted(packet.pts for packet in packets))}
            for group in _groups(packets):
                here = wanted & {position[packet.pts] for packet in group}
                for frame in _decode(stream.codec_context, group) if here else ():
                    if position.get(frame.pts) in here:
                        found[position[frame.pts]] = frame.to_ndarray(format="rgb24", interpolation=EXACT)
                        if here <= found.keys():
                            break
    except (av.error.FFmpegError, IndexError) as error:
        raise VideoError(
            f"{name} ({len(video)} bytes) cannot be decoded ({error}); prepare the data set again"
        ) from error
    if wanted - found.keys():
        raise VideoError(f"{name} has no frame {min(wanted - found.keys())}; prepare the data set again")
    return np.stack([found[int(index)] for index in indices])


def _groups(packets: Sequence[av.Packet]) -> Iterator[list[av.Packet]]:
    """Packets from one key frame to before the next."""
    starts = [number for number, packet in enumerate(packets) if packet.is_keyframe] or [0]
    for start, stop in zip(starts, [*starts[1:], len(packets)], strict=True):
        yield list(packets[start:stop])


def _decode(context: av.VideoCodecContext, group: Sequence[av.Packet]) -> Iterator[av.VideoFrame]:
    context.flush_buffers()
    for packet in group:
        yield from context.decode(packet)
    yield from context.decode(None)


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record's content, independent of how it is stored."""
    total = hashlib.sha256()
    for name, field in FIELDS.items():
        value = record[name]
        data = value.encode() if field.kind == TEXT else bytes(value) if field.kind == BYTES else value.tobytes()
        total.update(f"{name}:{len(data)}:".encode())
        total.update(data)
    return total.hexdigest()
