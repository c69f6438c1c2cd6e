"""What the design leans on in OUTPUT: one ctl chain that fences, and live copies of exactly what was stored."""

from __future__ import annotations

from infra.jetstream import FULL, WRONG_LAST
from schemas import subjects
from schemas.output import End, Lease, decode_ctl
from tests.contract.protocol import Contract, lease, until

RID = "r" * 20
OWN_END = End(status="ok", nonce="a", n=1, sha256="00")


async def test_first_lease_wins_and_the_refusal_names_the_last_sequence(contract: Contract) -> None:
    first = await contract.ctl(RID, lease("a"), 0)
    second = await contract.ctl(RID, lease("b"), 0)
    assert first.stored
    assert second.err_code == WRONG_LAST
    assert second.last_seq == first.seq


async def test_a_newer_lease_fences_the_older_attempt(contract: Contract) -> None:
    old = await contract.ctl(RID, lease("a"), 0)
    assert (await contract.tok(RID, old.seq, 0)).stored
    new = await contract.ctl(RID, lease("b", 2), old.seq)
    assert (await contract.tok(RID, old.seq, 1)).err_code == WRONG_LAST
    assert (await contract.tok(RID, new.seq, 1)).stored


async def test_tok_records_do_not_move_the_fence(contract: Contract) -> None:
    own = await contract.ctl(RID, lease(), 0)
    for off in range(5):
        assert (await contract.tok(RID, own.seq, off)).stored
    assert (await contract.ctl(RID, OWN_END, own.seq)).stored


async def test_a_repeated_end_is_refused(contract: Contract) -> None:
    own = await contract.ctl(RID, lease(), 0)
    stored = await contract.ctl(RID, OWN_END, own.seq)
    again = await contract.ctl(RID, OWN_END, own.seq)
    assert again.err_code == WRONG_LAST
    assert again.last_seq == stored.seq


async def test_nothing_is_stored_after_end(contract: Contract) -> None:
    own = await contract.ctl(RID, lease(), 0)
    await contract.ctl(RID, OWN_END, own.seq)
    assert (await contract.tok(RID, own.seq, 1)).err_code == WRONG_LAST, "a late tok of the same attempt"
    assert (await contract.ctl(RID, lease("b", 2), own.seq)).err_code == WRONG_LAST, "a late lease"
    late = await contract.ctl(RID, End(status="cancelled"), own.seq)
    assert late.err_code == WRONG_LAST, "a late canceller"


async def test_a_cancellers_end_fences_the_running_attempt(contract: Contract) -> None:
    own = await contract.ctl(RID, lease(), 0)
    closed = await contract.log.close("public", RID, End(status="cancelled", reason="cancelled"))
    assert isinstance(closed.record, End)
    assert closed.record.status == "cancelled"
    refused = await contract.tok(RID, own.seq, 0)
    assert refused.err_code == WRONG_LAST
    assert refused.last_seq == closed.seq


async def test_closing_a_closed_log_returns_the_end_that_is_there(contract: Contract) -> None:
    own = await contract.ctl(RID, lease(), 0)
    stored = await contract.ctl(RID, OWN_END, own.seq)
    closed = await contract.log.close("public", RID, End(status="cancelled"))
    assert closed == (stored.seq, OWN_END)


async def test_a_request_never_leased_can_be_closed(contract: Contract) -> None:
    closed = await contract.log.close("public", RID, End(status="expired", reason="queue_timeout"))
    refused = await contract.ctl(RID, lease(), 0)
    assert refused.err_code == WRONG_LAST
    assert refused.last_seq == closed.seq


async def test_the_log_reads_back_in_stream_order_with_other_requests_between(contract: Contract) -> None:
    other = "s" * 20
    own, foreign = await contract.ctl(RID, lease(), 0), await contract.ctl(other, lease(), 0)
    for off in range(300):  # more than one direct get returns
        assert (await contract.tok(RID, own.seq, off, "")).stored
        if off % 50 == 0:
            assert (await contract.tok(other, foreign.seq, off, "")).stored
    entries = await contract.log.read("public", RID)
    assert [entry.seq for entry in entries] == sorted(entry.seq for entry in entries)
    assert len(entries) == 301
    assert [getattr(entry.record, "off", None) for entry in entries[1:]] == list(range(300))
    upto = entries[10].seq
    assert await contract.log.read("public", RID, upto_seq=upto) == entries[:11]
    assert await contract.log.read("public", RID, start_seq=upto) == entries[10:]
    assert await contract.log.read("public", "t" * 20) == []


async def test_live_copies_are_what_was_stored_in_order_and_nothing_else(contract: Contract) -> None:
    live: list[tuple[str, bytes]] = []
    contract.bus.subscribe(
        subjects.live("public", RID), lambda subject, _r, _h, data: live.append((subject, data))
    )
    own = await contract.ctl(RID, lease(), 0)
    for off in range(20):
        await contract.tok(RID, own.seq, off)
        await contract.tok(RID, own.seq - 1, off, "zombie")  # refused
    await contract.ctl(RID, OWN_END, own.seq)
    await contract.tok(RID, own.seq, 20, "late")  # refused
    await until(lambda: len(live) >= 22)
    stored = await contract.js.read("OUTPUT", subjects.output_log("public", RID))
    assert [data for _, data in live] == [one.payload for one in stored]
    assert [subject.rpartition(".")[2] for subject, _ in live] == ["ctl", *["tok"] * 20, "ctl"]
    assert decode_ctl(live[-1][1]) == OWN_END


async def test_a_full_output_answers_10077_to_tok_and_ctl_alike(contract: Contract) -> None:
    own = await contract.ctl(RID, lease(), 0)
    filler = "y" * (32 << 10)
    acks = [await contract.tok(RID, own.seq, off, filler) for off in range(9)]
    assert acks[0].stored
    assert acks[-1].err_code == FULL, "256 KiB are full after eight records of 32 KiB"
    assert (await contract.ctl("s" * 20, Lease("a", filler, 1, "first"), 0)).err_code == FULL


async def test_sequences_start_at_the_clock_and_never_repeat(contract: Contract) -> None:
    own = await contract.ctl(RID, lease(), 0)
    assert own.seq > 1_700_000_000_000_000
