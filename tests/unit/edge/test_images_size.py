"""Sizes of images from their headers: as Pillow sees them, or not at all."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge.images_size import BYTES_PER_STEP, MEDIA_TYPES, STEPS_MIN, Size, media_type_of, size_of
from tests.pictures import MEDIA_TYPES as KINDS
from tests.pictures import picture

SIDES = st.integers(1, 300)


def size(image: bytes) -> Size | None:
    media_type = media_type_of(image[:12])
    assert media_type is not None
    return size_of(media_type, lambda at, count: image[at : at + count], len(image))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def test_every_kind_is_told_by_its_first_bytes() -> None:
    assert {media_type_of(picture(kind)[:12]) for kind in KINDS} == set(MEDIA_TYPES) == set(KINDS.values())
    for other in (b"", b"RIFF\0\0\0\0WAVE", b"BM", b"<svg", b"II*\0", b"\xff\xd8", b"GIF88a"):
        assert media_type_of(other) is None


@given(st.sampled_from(sorted(KINDS)), SIDES, SIDES)
@settings(max_examples=60)
def test_sizes_are_those_that_pillow_sees(kind: str, width: int, height: int) -> None:
    image = picture(kind, width, height)
    assert size(image) == Size(width, height) == Size(*Image.open(io.BytesIO(image)).size)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + b"\xff\xc0" * 30_000}),
        ("JPEG", {"icc_profile": bytes(200_000), "comment": b"\xff\xc0\0\x11\x08\xff\xff\xff\xff"}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": True, "exif": b"Exif\0\0" + bytes(999)}),
        ("PNG", {"optimize": True, "icc_profile": bytes(5000)}),
        ("GIF", {"interlace": 1, "comment": b"x" * 1000}),
    ],
)
def test_what_else_is_in_a_file_does_not_matter(kind: str, how: dict[str, Any]) -> None:
    assert size(picture(kind, 70, 30, **how)) == Size(70, 30)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_all_frames_of_an_animation_count(kind: str) -> None:
    image = picture(kind, 70, 30, frames=5)
    found = size(image)
    assert found == Size(70, 30, 5)
    assert found.pixels == 70 * 30 * Image.open(io.BytesIO(image)).n_frames  # type: ignore[attr-defined]


def test_a_gif_grows_with_a_frame_that_leaves_its_screen() -> None:
    image = bytearray(picture("GIF", 70, 30))
    descriptor = image.index(b",\0\0\0\0" + struct.pack("<HH", 70, 30))
    image[descriptor + 5 : descriptor + 9] = struct.pack("<HH", 7000, 3000)
    assert size(bytes(image)) == Size(7000, 3000) == Size(*Image.open(io.BytesIO(image)).size)


def test_a_second_header_is_no_way_around_the_first() -> None:
    """Some readers believe the first, some the last."""
    png = picture("PNG")
    huge = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    assert size(png[:33] + huge + png[33:]) is None
    jpeg = picture("JPEG")
    frame = jpeg.index(b"\xff\xc0")
    huge = jpeg_segment(0xC1, struct.pack(">BHHB", 8, 60_000, 60_000, 1) + bytes(3))
    assert size(jpeg[:frame] + huge + jpeg[frame:]) is None


def test_fill_bytes_between_segments_of_a_jpeg_are_allowed() -> None:
    jpeg = picture("JPEG", 70, 30)
    frame = jpeg.index(b"\xff\xc0")
    assert size(jpeg[:frame] + b"\xff\xff" + jpeg[frame:]) == Size(70, 30)
    assert size(jpeg[:frame] + b"\0" + jpeg[frame:]) is None


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_image_without_pixels_or_without_a_header_is_none(kind: str) -> None:
    image = picture(kind, 70, 30)
    assert size(image[:12] + bytes(len(image) - 12)) is None
    assert size(image[:12]) is None


@given(st.sampled_from(sorted(KINDS)), st.data())
@settings(max_examples=300)
def test_broken_images_break_nothing(kind: str, data: st.DataObject) -> None:
    image = bytearray(picture(kind, 40, 30, frames=1 if kind == "JPEG" else 3))
    for _ in range(data.draw(st.integers(0, 8))):
        image[data.draw(st.integers(12, len(image) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(12, len(image)))
    found = size(bytes(image[:cut]))
    assert found is None or found.pixels > 0


@pytest.mark.parametrize(
    "image",
    [
        b"GIF89a\x01\0\x01\0\0\0\0" + b"!\xfe" + b"\x01a" * 100_000 + b"\0;",
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(17) + b"\0\0\0\0teXt\0\0\0\0" * 50_000,
        b"\xff\xd8" + b"\xff\xfe\0\x02" * 50_000,
        b"\xff\xd8" + b"\xff" * 100_000,
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(9) + b"ANMF\0\0\0\0" * 50_000,
    ],
    ids=["gif", "png", "jpeg", "jpeg-fill", "webp"],
)
def test_endless_lists_of_tiny_blocks_are_not_walked(image: bytes) -> None:
    reads = []

    def read(at: int, count: int) -> bytes:
        reads.append(at)
        return image[at : at + count]

    media_type = media_type_of(image[:12])
    assert media_type is not None
    assert size_of(media_type, read, len(image)) is None
    assert len(reads) <= STEPS_MIN + len(image) // BYTES_PER_STEP + 10
