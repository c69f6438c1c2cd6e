"""What the answers of OpenAI-compatible servers mean."""

from __future__ import annotations

import json

import pytest

from workers.engines.upstream_answers import (
    WAIT_MAX_S,
    NotNow,
    Refusal,
    Verdict,
    Without,
    judge,
    retry_after_s,
    wait_s,
    words_of,
)

OURS = ("stream_options", "seed", "return_token_ids")


def verdict(status: int, error: object = None, added: tuple[str, ...] = OURS, **headers: str) -> Verdict:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    body = error if isinstance(error, bytes) else json.dumps(error).encode()
    return judge(status, told, body, path="chat/completions", added=added)


def said(message: str, **more: object) -> dict[str, object]:
    return {"error": {"message": message, "type": "x", **more}}


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 529])
def test_not_now(status: int) -> None:
    assert isinstance(verdict(status, said("busy")), NotNow)
    assert isinstance(verdict(status, b"<html>bad gateway</html>"), NotNow)


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (400, said("This model's maximum context length is 64 tokens. However, you asked for 70"), "context_length"),
        (400, said("the request exceeds the available context size", code="400"), "context_length"),
        (400, said("too long", code="context_length_exceeded"), "context_length"),
        (422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096", "error_type": "v"}, "context_length"),
        (400, said("temperature must be at most 2", param="temperature"), "bad_request"),
        (422, {"detail": [{"loc": ["body", "top_p"], "msg": "not a number"}]}, "bad_request"),
        (413, b"<html>Request Entity Too Large</html>", "bad_request"),
        (500, said("image input is not supported - hint: provide the mmproj"), "bad_request"),
        (404, said("The model `x` does not exist."), "model_not_found"),
        (404, said("nothing here", code="model_not_found"), "model_not_found"),
        (404, {"detail": "Not Found"}, "bad_request"),
        (405, b"", "bad_request"),
        (501, b"", "bad_request"),
        (500, said("CUDA error"), "engine_error"),
        (504, b"", "engine_error"),
        (401, said("Incorrect API key provided: sk-secret"), "engine_error"),
        (403, said("no right"), "engine_error"),
        (307, b"", "engine_error"),
        (429, said("You exceeded your current quota", code="insufficient_quota"), "engine_error"),
    ],
)  # fmt: skip
def test_refusals(status: int, error: object, reason: str) -> None:
    told = verdict(status, error)
    assert isinstance(told, Refusal)
    assert told.reason == reason


def test_an_operators_mistake_names_the_setting_and_repeats_no_key() -> None:
    told = verdict(401, said("Incorrect API key provided: sk-secret"))
    assert isinstance(told, Refusal)
    assert "upstream_api_key" in told.error
    assert "sk-secret" not in told.error


def test_the_clients_mistake_is_told_in_the_upstreams_words() -> None:
    assert verdict(400, said("n must be 1")) == Refusal("bad_request", "n must be 1")


def test_a_field_of_ours_that_is_refused_is_left_out() -> None:
    unknown = said("Unrecognized request argument supplied: return_token_ids")
    assert verdict(400, unknown) == Without("return_token_ids")
    assert verdict(422, said("extra inputs", param="stream_options.include_usage")) == Without(
        "stream_options"
    )
    assert verdict(400, said("bad seed"), added=()) == Refusal("bad_request", "bad seed")
    assert verdict(400, said("seeds are fine")) == Refusal("bad_request", "seeds are fine")


def test_words_are_found_in_every_shape_and_cut() -> None:
    for body in (
        b'{"error":"w"}',
        b'{"error":{"message":"w"}}',
        b'{"detail":"w"}',
        b'{"message":"w"}',
        b" w ",
    ):
        assert words_of(body).message == "w"
    assert words_of(b"\xff\xfe").message
    assert words_of(b"").message == "no reason"
    assert words_of(b"[" * 100_000).message
    assert len(words_of(b"x" * 10_000).message) == 500


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "2", "retry-after-ms": "150"}, 0.15),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 10),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:10 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon", "date": "today"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers) == expected


def test_waits_double_up_to_a_cap_and_honour_what_was_told() -> None:
    longest = [wait_s(tries, None, 0.999999) for tries in range(20)]
    assert longest == sorted(longest)
    assert longest[0] < 0.26
    assert max(longest) <= WAIT_MAX_S
    assert wait_s(10**9, None, 0.0) == WAIT_MAX_S / 2
    assert wait_s(0, 7, 0.0) == 7
    assert 7 < wait_s(0, 7, 0.9) < 8
    assert wait_s(0, 0, 0.0) > 0, "never in a loop without a pause"
    assert wait_s(0, 10**6, 0.5) == WAIT_MAX_S
