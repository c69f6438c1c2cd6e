"""What kind of image some bytes are and how large it is, from its headers alone. Pure.

Nothing is decoded, because the decoder is what a decompression bomb is made for, and an edge is one event loop that
serves thousands of streams. A library such as Pillow is no help here: it hands a whole WebP to its decoder just to tell
the size, and it wants all bytes, where here only those that matter are ever taken out of their base64.

Readers of images forgive a lot, and each forgives something else. What is not plainly built is no image here, so that
none of them can find a larger one in the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

Read = Callable[[int, int], bytes]
"""`read(at, count)`: that part of the image; shorter where it ends."""

STEPS_MIN = 1024
BYTES_PER_STEP = 128
"""Headers are lists of blocks. No writer makes them this small on average; walking smaller ones would take long."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_WEBP_ANIMATED = 0x02


class Size(NamedTuple):
    """Width and height in pixels, and how many pictures of that size there are."""

    width: int
    height: int
    frames: int = 1

    @property
    def pixels(self) -> int:
        """Of all frames together."""
        return self.width * self.height * self.frames


def media_type_of(head: bytes) -> str | None:
    """The media type that the first 12 bytes say, if it is one of those that engines are given."""
    if head.startswith(_PNG):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def size_of(media_type: str, read: Read, length: int) -> Size | None:
    """The size of an image of `length` bytes; None if it cannot be told."""
    size = _SIZE_OF[media_type](read, iter(range(STEPS_MIN + length // BYTES_PER_STEP)))
    return size if size is not None and size.pixels > 0 else None


def _png(read: Read, steps: Iterator[int]) -> Size | None:
    head = read(0, 24)
    if len(head) < 24 or head[8:16] != b"\0\0\0\x0dIHDR":
        return None
    frames, at = 1, 33
    for _ in steps:
        chunk = read(at, 12)
        kind = chunk[4:8]
        if kind == b"IDAT":
            return Size(_big(head[16:20]), _big(head[20:24]), frames)
        if len(chunk) < 12 or kind == b"IHDR":
            return None
        if kind == b"acTL":
            frames = max(1, _big(chunk[8:12]))
        at += 12 + _big(chunk[:4])
    return None


def _jpeg(read: Read, steps: Iterator[int]) -> Size | None:
    size, at = None, 2
    for _ in steps:
        segment = read(at, 9)
        if len(segment) < 9 or segment[0] != 0xFF:
            return None
        marker = segment[1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == _JPEG_SCAN:
            return size
        elif marker < 0xC0 or 0xD0 <= marker <= 0xD9:
            return None
        else:
            if marker in _JPEG_SIZES:
                if size is not None:
                    return None
                size = Size(_big(segment[7:9]), _big(segment[5:7]))
            at += 2 + _big(segment[2:4])
    return None


def _gif(read: Read, steps: Iterator[int]) -> Size | None:
    head = read(0, 13)
    if len(head) < 13:
        return None
    # A frame that leaves the screen makes some readers enlarge it.
    width, height, frames = _little(head[6:8]), _little(head[8:10]), 0
    at = 13 + _color_table_bytes(head[10])
    for _ in steps:
        block = read(at, 10)
        if block[:1] in (b"", b";"):
            return Size(width, height, frames)
        if block[:1] == b"!":
            at += 2
        elif block[:1] == b"," and len(block) == 10:
            frames += 1
            width = max(width, _little(block[1:3]) + _little(block[5:7]))
            height = max(height, _little(block[3:5]) + _little(block[7:9]))
            at += 11 + _color_table_bytes(block[9])
        else:
            return None
        for _ in steps:
            count = read(at, 1)
            at += 1 + (count[0] if count else 0)
            if count in (b"", b"\0"):
                break
    return None


def _webp(read: Read, steps: Iterator[int]) -> Size | None:
    head = read(0, 30)
    if len(head) < 30:
        return None
    kind = head[12:16]
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        return Size(_little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF)
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = _little(head[21:25])
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind != b"VP8X":
        return None
    width, height = _little(head[24:27]) + 1, _little(head[27:30]) + 1
    return _animation(read, steps, width, height) if head[20] & _WEBP_ANIMATED else Size(width, height)


def _animation(read: Read, steps: Iterator[int], width: int, height: int) -> Size | None:
    frames, at = 0, 12
    for _ in steps:
        chunk = read(at, 8)
        if len(chunk) < 8:
            return Size(width, height, frames)
        frames += chunk[:4] == b"ANMF"
        length = _little(chunk[4:8])
        at += 8 + length + length % 2
    return None


def _color_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


_SIZE_OF: dict[str, Callable[[Read, Iterator[int]], Size | None]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
}

MEDIA_TYPES = tuple(_SIZE_OF)
