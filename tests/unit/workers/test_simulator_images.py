"""What the simulator sees of images."""

from __future__ import annotations

import msgspec

from workers.engines.simulator import prompt_of


def test_another_image_is_another_prompt() -> None:
    def prompt(url: str) -> str:
        parts = [{"type": "text", "text": "what is"}, {"type": "image_url", "image_url": {"url": url}}]
        return prompt_of(msgspec.json.encode({"messages": [{"role": "user", "content": parts}]}))

    one, other = prompt("data:image/png;base64,AAAA"), prompt("data:image/png;base64,AAAB")
    assert one != other
    assert len(one) == len(other)
    assert one.startswith("user: what is <image:")
