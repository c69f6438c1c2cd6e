"""One request while the simulator runs it: a token of each choice per step, and what they release. Pure.

What a choice has said is a function of its ids alone, so a continuation is exact from any prefix: the ids are taken
over, and of what they say only that is released which the log has not got.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from schemas.choices import Choice
from schemas.output import Delta, TokenLogprob, ToolPiece, Usage
from workers.engines.base import EngineFinished, EngineOutput, EngineRequest, Prefix
from workers.engines.simulator_body import Body, Faults, InvalidRequest, decode_body, prompts
from workers.engines.simulator_rich import (
    CALL_TOKENS,
    THINKING_TOKENS,
    call_id,
    embeddings,
    function_called,
    logprob_at,
    piece_of_call,
)
from workers.engines.simulator_text import natural_length, output_key, text_of, token_at


@dataclass
class Run:
    """`result` is the answer of a request that has no choices. `first_at` is when its prefill is over."""

    key: str
    number: int
    prompt_tokens: int
    faults: Faults
    choices: list[ChoiceRun]
    result: msgspec.Raw | None = None
    first_at: float = 0.0
    is_decoding: bool = False

    @property
    def offset(self) -> int:
        """Of the next token, counted in the choice that has most of them."""
        return max([len(choice.ids) for choice in self.choices], default=0)

    @property
    def is_complete(self) -> bool:
        """Whether no choice makes another token."""
        return all(choice.finish_reason for choice in self.choices)

    def step(self) -> EngineOutput | EngineFinished:
        """Makes the next token of each choice that is not complete."""
        ids: list[int] = []
        of: list[int] = []
        deltas: list[Delta] = []
        for choice in self.choices:
            token = choice.step()
            if token is not None:
                ids.append(token)
                of.append(choice.index)
            deltas += choice.release()
        of = of if len(self.choices) > 1 else []
        if not self.is_complete:
            return EngineOutput(self.key, self.number, ids, deltas, of)
        reasons = [choice.finish_reason or "" for choice in self.choices]
        return EngineFinished(
            self.key, self.number, reasons, self._usage(), ids, deltas, of, self._stops(), self.result
        )

    def _stops(self) -> list[str | int | None]:
        stops: list[str | int | None] = [choice.stop_reason for choice in self.choices]
        return stops if any(stops) else []

    def _usage(self) -> Usage:
        thoughts = sum([min(len(choice.ids), choice.wish.thinks) for choice in self.choices])
        is_thinking = any(choice.wish.thinks for choice in self.choices)
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=sum([len(choice.ids) for choice in self.choices]),
            reasoning_tokens=thoughts if is_thinking else None,
        )


@dataclass(frozen=True)
class Wish:
    """What a choice is to be. `thinks`: tokens of reasoning first. `calls`: the function called in place of an answer.
    `top`: likeliest tokens told with each; None: no logprobs."""

    stops: list[str]
    thinks: int = 0
    calls: str = ""
    top: int | None = None


@dataclass
class ChoiceRun:
    """One choice. The counts at the end say how much of it was released."""

    index: int
    output_key: int
    tokens_max: int
    end_reason: str
    wish: Wish
    finish_reason: str | None = None
    stop_reason: str | None = None
    ids: list[int] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    arguments: str = ""
    text_told: int = 0
    reasoning_told: int = 0
    arguments_told: int = 0
    logprobs_told: int = 0
    is_call_told: bool = False

    def step(self) -> int | None:
        """Makes the next token, unless the output is complete already."""
        if self._is_complete():
            return None
        token = token_at(self.output_key, len(self.ids))
        self._add(token)
        self._is_complete()
        return token

    def replay(self, ids: list[int], told: Choice) -> None:
        """Takes over the tokens of earlier attempts. What they released is not released again."""
        for token in ids:
            if self._is_complete():
                break
            self._add(token)
        self._is_complete()
        self.text_told, self.reasoning_told = len(told.text), len(told.reasoning)
        self.is_call_told = bool(told.tools)
        self.arguments_told = len(told.tools[0].arguments) if told.tools else 0
        self.logprobs_told = len(told.logprobs)

    def release(self) -> list[Delta]:
        """What is new and certain: text that may become a stop string is held back until it is decided."""
        deltas = []
        if self.reasoning_told < len(self.reasoning):
            deltas.append(Delta("", self.index, self.reasoning[self.reasoning_told :]))
            self.reasoning_told = len(self.reasoning)
        end = len(self.text)
        if self.wish.stops and self.finish_reason is None:
            end -= max([_overlap(self.text, stop) for stop in self.wish.stops])
        if self.text_told < end:
            deltas.append(Delta(self.text[self.text_told : end], self.index))
            self.text_told = end
        if self.arguments_told < len(self.arguments):
            deltas.append(Delta("", self.index, tools=[self._piece()]))
        if self.wish.top is not None and self.logprobs_told < len(self.ids):
            logprobs = [self._logprob(place) for place in range(self.logprobs_told, len(self.ids))]
            self.logprobs_told = len(self.ids)
            first = deltas[0] if deltas else Delta("", self.index)
            deltas[:1] = [msgspec.structs.replace(first, logprobs=logprobs)]
        return deltas

    def _add(self, token: int) -> None:
        place = len(self.ids)
        piece = self._text_of(token, place)
        self.ids.append(token)
        if place < self.wish.thinks:
            self.reasoning += piece
        elif self.wish.calls:
            self.arguments += piece
        else:
            text_before = len(self.text)
            self.text += piece
            if self.wish.stops:
                self._cut(text_before)

    def _text_of(self, token: int, place: int) -> str:
        """The text of token `place`, if that is `token`."""
        if place < self.wish.thinks:
            return text_of(token, place)
        place -= self.wish.thinks
        return piece_of_call(token, place) if self.wish.calls else text_of(token, place)

    def _cut(self, text_before: int) -> None:
        """Ends the output before the first stop string, which may begin before the token that completed it."""
        start = max(0, text_before - max([len(stop) for stop in self.wish.stops]))
        found = [(self.text.find(stop, start), stop) for stop in self.wish.stops]
        cuts = [cut for cut in found if cut[0] >= 0]
        if cuts:
            at, self.stop_reason = min(cuts)
            self.text = self.text[:at]
            self.finish_reason = "stop"

    def _is_complete(self) -> bool:
        if self.finish_reason is None and len(self.ids) >= self.tokens_max:
            self.finish_reason = self.end_reason
        return self.finish_reason is not None

    def _piece(self) -> ToolPiece:
        arguments, self.arguments_told = self.arguments[self.arguments_told :], len(self.arguments)
        if self.is_call_told:
            return ToolPiece(0, arguments=arguments)
        self.is_call_told = True
        return ToolPiece(0, call_id(self.output_key), self.wish.calls, arguments)

    def _logprob(self, place: int) -> TokenLogprob:
        assert self.wish.top is not None
        return logprob_at(
            self.output_key,
            place,
            self.ids[place],
            lambda token: self._text_of(token, place),
            self.wish.top,
        )


def new_run(request: EngineRequest, context_tokens_max: int) -> Run:
    """A request as it begins, after its prefix if it has one. Raises `InvalidRequest`."""
    body = decode_body(request.body)
    if body.is_embedding:
        result, tokens = embeddings(body)
        _check_room(context_tokens_max - tokens, tokens, None, context_tokens_max)
        return Run(request.key, request.run, tokens, body.penstock_fault, [], result)
    asked_for = prompts(body)
    longest = max([len(prompt.split()) for prompt in asked_for])
    room = context_tokens_max - longest
    asked = body.max_completion_tokens or body.max_tokens
    _check_room(room, longest, asked, context_tokens_max)
    # Who names no limit gets an answer of natural length, cut at the limit that was set for it on its way here.
    limit = asked or min(request.meta.max_tokens or room, room)
    of_each = body.n or 1
    choices = [
        _new_choice(body, prompt, place * of_each, nth, limit, ends_itself=asked is None)
        for place, prompt in enumerate(asked_for)
        for nth in range(of_each)
    ]
    if request.prefix is not None:
        _replay(choices, request.prefix)
    prompt_tokens = sum([len(prompt.split()) for prompt in asked_for])
    return Run(request.key, request.run, prompt_tokens, body.penstock_fault, choices)


def _new_choice(body: Body, prompt: str, first: int, nth: int, limit: int, *, ends_itself: bool) -> ChoiceRun:
    """The choice `nth` of a prompt whose first one is `first`: the same as if the prompt had come alone."""
    index, seed = first + nth, (body.seed or 0) + nth
    key = output_key(prompt, seed)
    wish = Wish(
        stops=[body.stop] if isinstance(body.stop, str) else body.stop or [],
        thinks=THINKING_TOKENS[body.reasoning_effort or "none"],
        calls=function_called(body, key),
        top=body.top,
    )
    if wish.calls:
        natural, end_reason = wish.thinks + CALL_TOKENS, body.reason_of_call
    else:
        natural, end_reason = wish.thinks + natural_length(prompt, seed), "stop"
    if natural <= limit and (ends_itself or wish.calls):
        return ChoiceRun(index, key, natural, end_reason, wish)
    return ChoiceRun(index, key, limit, "length", wish)


def _replay(choices: list[ChoiceRun], prefix: Prefix) -> None:
    for choice in choices:
        is_told = choice.index < len(prefix.choices)
        choice.replay(prefix.ids_of(choice.index), prefix.choices[choice.index] if is_told else Choice())


def _check_room(room: int, prompt_tokens: int, asked: int | None, context_tokens_max: int) -> None:
    if (asked or 1) > room:
        raise InvalidRequest(
            f"The prompt has {prompt_tokens} tokens and `max_tokens` is {asked}: "
            f"together they exceed the {context_tokens_max} tokens of this model's context.",
            "context_length",
        )


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may become `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
