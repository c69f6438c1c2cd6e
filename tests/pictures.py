"""Images as real writers make them, and as nobody should."""

from __future__ import annotations

import base64
import io
import random
from typing import Any

from PIL import Image

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


def picture(kind: str, width: int = 3, height: int = 2, frames: int = 1, **how: Any) -> bytes:
    """An image of a kind that Pillow knows; noise, so that frames differ and nothing is packed well."""
    noise = random.Random(width * height)
    pictures = [
        Image.frombytes("L", (width, height), noise.randbytes(width * height)).convert("RGB")
        for _ in range(frames)
    ]
    file = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}
    pictures[0].save(file, kind, **more, **how)
    return file.getvalue()


def padded(image: bytes, size_bytes: int) -> bytes:
    """The image with zeros after its end, which nobody minds."""
    assert len(image) <= size_bytes
    return image + bytes(size_bytes - len(image))


def png_that_claims(width: int, height: int) -> bytes:
    """A few bytes that a decoder would make a huge image of: a bomb."""
    honest = picture("PNG")
    return honest[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + honest[24:]


def data_uri(image: bytes, media_type: str = "image/png") -> str:
    """The image as clients send it."""
    return f"data:{media_type};base64,{base64.b64encode(image).decode()}"


def image_part(url: str) -> dict[str, Any]:
    """A part of a message that shows an image."""
    return {"type": "image_url", "image_url": {"url": url}}


def user(*parts: dict[str, Any] | str) -> list[Any]:
    """The messages of a chat: one, of these parts; strings are texts."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]
