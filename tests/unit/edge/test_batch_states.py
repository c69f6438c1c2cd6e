"""How a batch goes from one status to the next, what its lines are asked for with, and what it shows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins
from openai.types import Batch
from openai.types import FileObject as OpenAIFile

from edge.batches import records
from edge.batches.listing import ListPage, list_page
from edge.batches.records import BatchObject, BatchRecord, Counts, FileObject, LineFault
from edge.batches.results import EXPIRED, Tally, answered, encode, unanswered
from edge.batches.tries import WAIT_MAX_S, WAIT_MIN_S, Answer, Tries
from edge.errors import Problem
from edge.idempotency import GENERATIONS_MAX
from schemas.ids import ANONYMOUS, RequestId

NOW = 1000
NEW = BatchRecord(
    BatchObject(
        id="batch_a",
        endpoint="/v1/embeddings",
        input_file_id="file-a",
        created_at=NOW,
        expires_at=NOW + records.COMPLETION_WINDOW_S,
    ),
    ANONYMOUS,
    NOW,
    100,
)
TAKEN = records.taken(NEW, "one")
RUNNING = records.begun(TAKEN, 3, NOW + 1)


def status(record: BatchRecord) -> str:
    Batch.model_validate(to_builtins(record.batch), strict=True)
    return record.batch.status


def test_a_batch_that_runs_to_its_end() -> None:
    assert [status(record) for record in (NEW, TAKEN, RUNNING)] == ["validating", "validating", "in_progress"]
    final = records.finalizing(RUNNING, NOW + 2)
    assert status(final) == "finalizing"
    done = records.ended(final, "file-o", None, NOW + 3)
    assert status(done) == "completed"
    batch = done.batch
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert times == (NOW, NOW + 1, NOW + 2, NOW + 3)
    assert (batch.output_file_id, batch.error_file_id) == ("file-o", None)
    assert (batch.expired_at, batch.failed_at, batch.cancelled_at) == (None, None, None)


def test_a_batch_of_a_key_that_is_good_no_more_is_cancelled_and_says_why() -> None:
    for record in (TAKEN, RUNNING):
        stopping = records.disowned(record, NOW + 2)
        assert records.reason_to_stop(stopping, "one", NOW + 3) == "cancelling"
        gone = records.ended(stopping, None, None, NOW + 3)
        assert status(gone) == "cancelled"
        assert gone.batch.errors is not None
        assert [fault.code for fault in gone.batch.errors.data] == ["key_not_valid"]
        assert records.disowned(gone, NOW + 4) == gone


def test_a_line_that_costs_more_than_its_key_may_ever_ask_for_is_not_asked_for_again() -> None:
    refused = Answer(429, b"{}", "r", 60.0)
    assert Tries("k").judge(refused) == 60.0
    assert Tries("k").judge(refused._replace(is_final=True)) is None


def test_a_batch_whose_input_is_bad() -> None:
    bad = records.failed(TAKEN, [LineFault("invalid_url", "no", "url", 3)], NOW + 1)
    assert status(bad) == "failed"
    assert bad.batch.errors
    assert bad.batch.errors.data[0].line == 3
    assert bad.batch.failed_at == NOW + 1


def test_a_batch_that_is_out_of_time() -> None:
    at = RUNNING.batch.expires_at
    assert records.reason_to_stop(RUNNING, "one", at - 1) is None
    assert records.reason_to_stop(RUNNING, "one", at) == "expired"
    over = records.ended(RUNNING, None, "file-e", at)
    assert (status(over), over.batch.expired_at) == ("expired", at)


def test_a_cancelled_batch_ends_when_its_runner_has_stopped() -> None:
    cancelling = records.cancelled_by_client(RUNNING, NOW + 5)
    assert (status(cancelling), cancelling.batch.cancelling_at) == ("cancelling", NOW + 5)
    assert records.cancelled_by_client(cancelling, NOW + 6) == cancelling, "again says nothing new"
    assert records.reason_to_stop(cancelling, "one", NOW + 6) == "cancelling"
    assert records.finalizing(cancelling, NOW + 6) == cancelling, "also if its last line is done just then"
    over = records.ended(cancelling, "file-o", None, NOW + 7)
    assert (status(over), over.batch.cancelled_at) == ("cancelled", NOW + 7)


def test_without_a_runner_there_is_nothing_to_wait_for() -> None:
    assert status(records.cancelled_by_client(NEW, NOW)) == "cancelled"
    assert status(records.cancelled_by_client(TAKEN, NOW)) == "cancelling"


def test_a_batch_cancelled_while_its_input_is_checked_does_not_begin() -> None:
    cancelling = records.cancelled_by_client(TAKEN, NOW)
    assert records.begun(cancelling, 3, NOW) == cancelling


def test_the_newest_runner_is_the_one_that_counts() -> None:
    other = records.taken(RUNNING, "two")
    counts = Counts(3, 1, 1)
    assert records.counted(other, counts, 7, "one") == other
    assert records.counted(other, counts, 7, "two").batch.request_counts == counts
    assert records.counted(other, counts, 7, "two").results_bytes == 7
    assert records.reason_to_stop(other, "one", NOW) == "superseded"
    assert records.reason_to_stop(other, "two", NOW) is None


@pytest.mark.parametrize("over", ["completed", "failed", "expired", "cancelled"])
def test_what_is_over_changes_no_more(over: records.Status) -> None:
    record = records._with(RUNNING, status=over)
    assert record.over
    assert records.taken(record, "two") == record
    assert records.begun(record, 9, NOW) == record
    assert records.counted(record, Counts(9, 9, 9), 7, "one") == record
    assert records.cancelled_by_client(record, NOW) == record
    assert records.finalizing(record, NOW) == record
    assert records.failed(record, [], NOW) == record
    assert records.ended(record, "x", "y", NOW) == record


# Tries.


def refused(status: int, retry_after_s: float = 0.0) -> Answer:
    return Answer(status, b"{}", "fresh", retry_after_s)


def ended(rid: str, status: int = 503) -> Answer:
    return Answer(status, b"{}", rid, 1.0, RequestId(rid))


@pytest.mark.parametrize("status", [200, 400, 404, 422, 499, 500, 502, 504])
def test_most_answers_are_final(status: int) -> None:
    assert Tries("k").judge(refused(status)) is None


def test_a_refusal_is_waited_out_longer_each_time_and_as_long_as_it_says() -> None:
    tries = Tries("k")
    waits = [tries.judge(refused(429)) for _ in range(10)]
    assert waits[:3] == [WAIT_MIN_S, 2 * WAIT_MIN_S, 4 * WAIT_MIN_S]
    assert waits[-1] == WAIT_MAX_S
    assert Tries("k").judge(refused(503, 33.0)) == 33.0
    assert tries.judge(refused(503, 3600.0)) == 3600.0
    assert tries.key == "k"


def test_a_key_whose_runs_are_used_up_is_followed_by_another() -> None:
    tries = Tries("k")
    for generation in range(GENERATIONS_MAX):
        assert tries.judge(ended(f"rid{generation}"))
        assert tries.key == "k"
    assert tries.judge(ended(f"rid{GENERATIONS_MAX - 1}")) == 0
    assert tries.key == "k-1"
    assert tries.judge(ended("other"))
    assert tries.judge(ended("other")) == 0
    assert tries.key == "k-2"


def test_a_request_that_is_there_but_not_told_of_keeps_its_key() -> None:
    tries = Tries("k")
    for _ in range(5):
        assert tries.judge(Answer(503, b"{}", "same", 1.0))
    assert tries.key == "k"


# Results.


def test_a_result_is_one_line_with_the_answer_as_it_was() -> None:
    good = answered("batch_req_1", "c", Answer(200, b'{"a":1}', "rid"))
    assert good.outcome == "ok"
    assert encode(good).endswith(b"\n")
    assert json.loads(encode(good)) == {
        "id": "batch_req_1",
        "custom_id": "c",
        "response": {"status_code": 200, "request_id": "rid", "body": {"a": 1}},
        "error": None,
    }
    assert answered("x", "c", Answer(400, b"{}", "rid")).outcome == "failed"
    late = unanswered("x", "c", EXPIRED)
    assert late.outcome == "failed"
    assert json.loads(encode(late))["error"]["code"] == "batch_expired"


def test_a_tally_counts_each_line_once() -> None:
    tally = Tally()
    for number, outcome, size in ((1, "ok", 10), (2, "failed", 20), (1, "ok", 10), (9, "ok", 5)):
        tally.add(number, outcome, size)  # type: ignore[arg-type]
    assert tally.counts(9) == Counts(9, 2, 1)
    assert (tally.size("ok"), tally.size("failed")) == (15, 20)
    assert [number for number in range(10) if number in tally] == [1, 2, 9]


# Lists.


def file(number: int) -> FileObject:
    return FileObject(
        id=f"file-{number}", bytes=1, created_at=number, expires_at=9, filename="f", purpose="batch"
    )


FILES = [(float(number // 2), file(number)) for number in range(7)]


def listed(**query: str) -> ListPage[FileObject]:
    page = list_page(FILES[::-1], query, limit_default=5, limit_max=6)
    assert not isinstance(page, Problem)
    return page


@given(st.sampled_from(["asc", "desc"]), st.integers(1, 6))
def test_pages_together_are_the_list(order: str, limit: int) -> None:
    page = listed(order=order, limit=str(limit))
    found = list(page.data)
    while page.has_more:
        assert (page.first_id, page.last_id) == (page.data[0].id, page.data[-1].id)
        page = listed(order=order, limit=str(limit), after=str(page.last_id))
        found += page.data
    files = [one for _, one in FILES]
    assert found == (files if order == "asc" else files[::-1])


def test_a_list_shows_the_newest_first_and_can_be_empty() -> None:
    assert [one.id for one in listed().data] == [f"file-{number}" for number in (6, 5, 4, 3, 2)]
    nothing: ListPage[FileObject] | Problem = list_page([], {}, limit_default=5, limit_max=6)
    assert isinstance(nothing, ListPage)
    assert (nothing.data, nothing.first_id, nothing.last_id, nothing.has_more) == ([], None, None, False)
    OpenAIFile.model_validate(to_builtins(file(1)), strict=True)


@pytest.mark.parametrize(
    "query",
    [{"limit": "0"}, {"limit": "7"}, {"limit": "-1"}, {"limit": "x"}, {"order": "up"}, {"after": "file-9"}],
)
def test_a_page_that_cannot_be_shown_names_the_fault(query: dict[str, str]) -> None:
    problem = list_page(FILES, query, limit_default=5, limit_max=6)
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == ("bad_request", next(iter(query)))
