"""The one right output of a request for the simulator: made from its words alone, not with the simulator's own runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.requests import MAX_TOKENS
from workers.engines.simulator import reference_tokens
from workers.engines.simulator_body import Body, Faults, InvalidRequest, decode_body, prompts
from workers.engines.simulator_text import natural_length

_object = msgspec.json.Decoder(dict[str, Any])


class Reference:
    """Of a body as it was queued, or as a client of any of the dialects sent it. `texts` and `counts` (tokens) are of
    each choice; None: this body makes something else than text, or none at all."""

    def __init__(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.faults = Faults()
        self.texts: list[str] | None = None
        self.counts: list[int] = []
        try:
            asked = decode_body(_as_queued(body))
            texts = prompts(asked)
        except InvalidRequest:
            return
        self.faults = asked.penstock_fault
        if asked.tools or asked.reasoning_effort or asked.is_embedding:
            return
        limit = int((headers or {}).get(MAX_TOKENS, 0))
        choices = [
            _choice(asked, prompt, (asked.seed or 0) + nth, limit)
            for prompt in texts
            for nth in range(asked.n or 1)
        ]
        self.texts = [text for text, _ in choices]
        self.counts = [count for _, count in choices]

    @property
    def is_healthy(self) -> bool:
        """Whether no engine fails because of it; a slow one does not fail."""
        faults = self.faults
        return max(faults.die_at_token, faults.hang_at_token, faults.raise_at_token, faults.oom_at_token) < 0


def _choice(asked: Body, prompt: str, seed: int, limit: int) -> tuple[str, int]:
    most = asked.max_completion_tokens or asked.max_tokens
    natural = natural_length(prompt, seed)
    count = most or min(natural, limit or natural)
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    text = ""
    for place, piece in enumerate(reference_tokens(prompt, seed, count)[1]):
        text += piece
        found = [at for at in [text.find(stop) for stop in stops] if at >= 0]
        if found:
            return text[: min(found)], place + 1
    return text, count


def _as_queued(body: bytes) -> bytes:
    """A client's body of a dialect that edges translate, as far as its fields say what the simulator makes."""
    try:
        fields = _object.decode(body)
    except msgspec.DecodeError:
        return body
    if isinstance(fields.get("input"), str) and "max_output_tokens" in fields:
        fields["messages"] = [{"role": "user", "content": fields.pop("input")}]
        fields["max_tokens"] = fields.pop("max_output_tokens")
    if "stop_sequences" in fields:
        fields["stop"] = fields.pop("stop_sequences")
    return msgspec.json.encode(fields)
