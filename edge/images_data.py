"""Whether an image may go to an engine: its kind, its bytes, its pixels. Pure."""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

from edge.images_hosts import Host
from edge.images_size import MEDIA_TYPES, Read, media_type_of, size_of

HEAD_BYTES = 12
"""Of an image, enough to tell its kind."""

_DATA_URI = re.compile(r"data:(image/[a-z0-9.+-]{1,32});base64,", re.IGNORECASE)
_ALIASES = {"image/jpg": "image/jpeg"}
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class ImageRules(NamedTuple):
    """`count_max` images in a request, each of at most `bytes_max` bytes and `pixels_max` pixels, all frames of an
    animation together. `hosts`: whose images are fetched."""

    count_max: int
    bytes_max: int
    pixels_max: int
    hosts: tuple[Host, ...] = ()


def data_uri_fault(uri: str, rules: ImageRules) -> str | None:
    """What is wrong with an image that came as a `data:` URI."""
    head = _DATA_URI.match(uri)
    media_type = head[1].lower() if head else ""
    media_type = _ALIASES.get(media_type, media_type)
    if head is None or media_type not in MEDIA_TYPES:
        return f"an image must be data:<type>;base64,<data> with one of the types {', '.join(MEDIA_TYPES)}"
    data = uri[head.end() :].encode()
    padding = data.translate(None, _BASE64)
    if len(data) % 4 or padding not in (b"", b"=", b"==") or not data.endswith(padding):
        return "the image's data is not valid base64"

    def read(at: int, count: int) -> bytes:
        groups = data[at // 3 * 4 : -(-(at + count) // 3) * 4]
        return binascii.a2b_base64(groups)[at % 3 : at % 3 + count]

    return image_fault(media_type, read, len(data) // 4 * 3 - len(padding), rules)


def image_fault(media_type: str, read: Read, length: int, rules: ImageRules) -> str | None:
    """What is wrong with an image of `length` bytes that is said to be of `media_type`."""
    if length > rules.bytes_max:
        return f"the image has {length} bytes: at most {rules.bytes_max} are accepted"
    if media_type_of(read(0, HEAD_BYTES)) != media_type:
        return f"the image is said to be {media_type}, and its data is not"
    size = size_of(media_type, read, length)
    if size is None:
        return f"the size of the image cannot be told: it is not a well-formed {media_type}"
    if size.pixels > rules.pixels_max:
        frames = f" in {size.frames} frames" if size.frames > 1 else ""
        return (
            f"the image has {size.width} x {size.height} pixels{frames}: "
            f"at most {rules.pixels_max} in all are accepted"
        )
    return None


def data_uri(media_type: str, image: bytes) -> bytes:
    """An image as a `data:` URI."""
    return b"data:%b;base64,%b" % (media_type.encode(), binascii.b2a_base64(image, newline=False))
