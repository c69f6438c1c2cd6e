"""Going on after a prefix that an engine makes once more: what the log has already is compared and dropped. Pure.

For engines that come to the end of the log's prefix by making it again, be it forced to the same tokens or
deterministic. Nothing is ever spliced silently: the first thing that differs from the log ends the request.
"""

from __future__ import annotations

import msgspec

from schemas.choices import Choice
from schemas.output import Delta, TokenLogprob, ToolPiece
from workers.engines.base import Prefix


class Differs(Exception):
    """What was made again is not what the log has: the request ends with `not_continuable`, and the message says where.
    Look for what changed between the workers: weights, versions, flags, or a batch that moved roundings."""


class Made(msgspec.Struct, frozen=True):
    """Tokens, the choice of each of them (empty: all are the first one's), and what they released."""

    ids: list[int]
    deltas: list[Delta]
    of: list[int] = []


class Replay:
    """One run. `has_ids`: the engine tells token ids, and they are compared; without them each piece counts as one
    token, and content alone says where the log ends.

    Content that is new while tokens are not (it was held back when the last worker died) waits for the next token.
    """

    def __init__(self, prefix: Prefix | None, *, has_ids: bool) -> None:
        choices = max(len(prefix.choices), 1 + max(prefix.of, default=0)) if prefix else 0
        self._logged = [_Logged(prefix, choice) for choice in range(choices)] if prefix else []
        self._has_ids = has_ids
        self._held: list[Delta] = []

    @property
    def is_over(self) -> bool:
        """Whether all that the log has was made again."""
        return all(logged.is_passed for logged in self._logged)

    def take(self, ids: list[int], deltas: list[Delta], of: list[int]) -> Made | None:
        """What is new of some output. None: nothing, or nothing that can be told yet. Raises Differs."""
        if not self._logged and not self._held:
            return Made(ids, deltas, of)
        fresh = self._fresh_deltas(deltas)
        fresh_ids: list[int] = []
        fresh_of: list[int] = []
        for index, token in enumerate(ids):
            choice = of[index] if of else 0
            is_known = self._pass_token(choice, token) if self._has_ids else not fresh
            if not is_known:
                fresh_ids.append(token)
                fresh_of.append(choice)
        self._held += fresh
        if not fresh_ids:
            return None
        made, self._held = self._held, []
        if self.is_over:
            self._logged = []
        return Made(fresh_ids, made, fresh_of if any(fresh_of) else [])

    def finish(self) -> list[Delta]:
        """The output is complete: what still waited for a token. Raises Differs if the log has more."""
        for choice, logged in enumerate(self._logged):
            if not logged.is_passed:
                raise Differs(f"choice {choice} ends before what the log has of it")
        held, self._held = self._held, []
        return held

    def _pass_token(self, choice: int, token: int) -> bool:
        return choice < len(self._logged) and self._logged[choice].pass_token(token)

    def _fresh_deltas(self, deltas: list[Delta]) -> list[Delta]:
        fresh = []
        for delta in deltas:
            rest = self._logged[delta.choice].rest_of(delta) if delta.choice < len(self._logged) else delta
            if rest.text or rest.reasoning or rest.tools or rest.logprobs:
                if delta.choice < len(self._logged) and not self._logged[delta.choice].is_content_passed:
                    raise Differs(
                        f"choice {delta.choice} goes on before all that the log has of it came again"
                    )
                fresh.append(rest)
        return fresh


class _Logged:
    """What the log has of one choice, and how far it was made again."""

    def __init__(self, prefix: Prefix, choice: int) -> None:
        content = prefix.choices[choice] if choice < len(prefix.choices) else Choice()
        self._ids = prefix.ids_of(choice)
        self._text = _Known(content.text, "text")
        self._reasoning = _Known(content.reasoning, "reasoning")
        self._names = [call.name for call in content.tools]
        self._arguments = [_Known(call.arguments, "arguments of a call") for call in content.tools]
        self._tokens = [logprob.token for logprob in content.logprobs]
        self._at = 0
        self._logprob_at = 0
        self._knows_ids = any(self._ids)

    @property
    def is_passed(self) -> bool:
        tokens_left = self._knows_ids and self._at < len(self._ids)
        return not tokens_left and self.is_content_passed

    @property
    def is_content_passed(self) -> bool:
        """Whether nothing new may differ from what the log has: its parts come again in the order they came in."""
        return all(known.is_passed for known in (self._text, self._reasoning, *self._arguments))

    def pass_token(self, token: int) -> bool:
        """Whether the log has it."""
        if self._at >= len(self._ids):
            return False
        if self._ids[self._at] != token:
            raise Differs(f"token {self._at} was {self._ids[self._at]} and is {token} now")
        self._at += 1
        return True

    def rest_of(self, delta: Delta) -> Delta:
        """What the log has not."""
        return Delta(
            self._text.rest_of(delta.text),
            delta.choice,
            self._reasoning.rest_of(delta.reasoning),
            [rest for piece in delta.tools for rest in self._rest_of_piece(piece)],
            self._rest_of_logprobs(delta.logprobs),
        )

    def _rest_of_piece(self, piece: ToolPiece) -> list[ToolPiece]:
        if piece.index >= len(self._names):
            return [piece]
        name = self._names[piece.index]
        if piece.name and name and piece.name != name:
            raise Differs(f"call {piece.index} was {name} and is {piece.name} now")
        rest = self._arguments[piece.index].rest_of(piece.arguments)
        # The id is random in some engines: the first one stands.
        new_name = "" if name else piece.name
        return [ToolPiece(piece.index, "", new_name, rest)] if rest or new_name else []

    def _rest_of_logprobs(self, logprobs: list[TokenLogprob]) -> list[TokenLogprob]:
        for index, logprob in enumerate(logprobs):
            if self._logprob_at >= len(self._tokens):
                return logprobs[index:]
            if self._tokens[self._logprob_at] != logprob.token:
                raise Differs(f"logprob {self._logprob_at} is of another token")
            self._logprob_at += 1
        return []


class _Known:
    """A text that the log has."""

    def __init__(self, text: str, what: str) -> None:
        self._text = text
        self._what = what
        self._at = 0

    @property
    def is_passed(self) -> bool:
        return self._at >= len(self._text)

    def rest_of(self, piece: str) -> str:
        known = self._text[self._at : self._at + len(piece)]
        if not piece.startswith(known):
            raise Differs(f"the {self._what} goes on differently after {self._at} characters")
        self._at += len(known)
        return piece[len(known) :]
