"""Subjects are built from checked tokens only, and parse back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import subjects
from schemas.ids import is_key, is_request_id, model_key, request_id

RID = "a1" * 13


@given(st.text())
def test_no_text_builds_a_subject_unless_it_is_a_token(text: str) -> None:
    if is_key(text):
        assert subjects.request("standard", "m", text, RID).split(".")[5] == text
    else:
        with pytest.raises(AssertionError):
            subjects.request("standard", "m", text, RID)
    if not is_request_id(text):
        with pytest.raises(AssertionError):
            subjects.live("public", text)


@given(st.text(max_size=300))
def test_every_model_name_has_a_key_that_fits_a_subject(name: str) -> None:
    assert is_key(model_key(name))


def test_model_names_that_fold_alike_keep_two_keys() -> None:
    assert model_key("Qwen/Qwen3-0.6B") != model_key("Qwen.Qwen3-0.6B")
    assert model_key("Qwen/Qwen3-0.6B").startswith("qwen_qwen3-0_6b-")
    assert model_key("penstock-sim") == "penstock-sim"


@given(st.binary(min_size=16, max_size=16))
def test_request_ids_are_tokens(randomness: bytes) -> None:
    rid = request_id(randomness)
    assert is_request_id(rid)
    assert len(rid) == 26


def test_a_request_subject_parses_back() -> None:
    subject = subjects.request("batch", "m", "public", RID)
    assert subjects.parse_request(subject) == ("batch", "m", "public", RID)


@pytest.mark.parametrize(
    "subject",
    ["", "llm.v1.req.a.b.c", f"llm.v1.out.a.b.c.{RID}", f"llm.v1.req.a.B.c.{RID}", "llm.v1.req.a.b.c.short"],
)
def test_what_is_no_request_subject_parses_to_none(subject: str) -> None:
    assert subjects.parse_request(subject) is None


def test_both_forms_of_an_ack_subject_parse() -> None:
    old = "$JS.ACK.REQUESTS.standard-m.3.17.20.1795224183462352045.299"
    new = "$JS.ACK._.xNZj6HOx.REQUESTS.standard-m.3.17.20.1795224183462352045.299"
    assert subjects.parse_ack(old) == (17, 3, 1795224183462352045)
    assert subjects.parse_ack(new) == (17, 3, 1795224183462352045)


@pytest.mark.parametrize("ack", ["", "_INBOX.x", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.too.short"])
def test_what_is_no_ack_subject_parses_to_none(ack: str) -> None:
    assert subjects.parse_ack(ack) is None


def test_a_cancel_subject_parses_back() -> None:
    assert subjects.parse_cancel(subjects.cancel("public", RID)) == ("public", RID)
    assert subjects.parse_cancel("llm.v1.cancel.public.*") is None
