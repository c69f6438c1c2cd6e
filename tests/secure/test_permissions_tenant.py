"""A tenant that publishes requests itself, with the official NATS client, on a secured broker that serves others, too:
it gets its own output, and nothing that it says or asks reaches anybody else's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import nats.errors
import pytest
from nats.aio.msg import Msg

from bench.system import System
from bench.transcript import MODEL, assert_whole, expected, stream
from schemas import dispatch, subjects
from schemas.output import End, Tail, Tok, decode_ctl, decode_tok
from schemas.permissions import STREAMS
from schemas.streams import DEAD, OUTPUT, REQUESTS
from tests.secure.secured import ANSWER_S, SecuredBroker, Stranger, penstock, until

ACME, GLOBEX = "acme", "globex"
RID = "a" * 26
TOKENS = 60
DONE_WITHIN_S = 40.0


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    broker = SecuredBroker(tmp_path_factory.mktemp("secured") / "broker", ACME, GLOBEX)
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def system(secured: SecuredBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("store"), itl_ms=5, ttft_ms=5, **secured.access())
    yield running
    assert running.stop() == 0
    log = running.log_path.read_text()
    assert "forbidden" not in log, "roles may all they do"


@asynccontextmanager
async def listening(client: Stranger, subject: str) -> AsyncIterator[list[Msg]]:
    """Messages on `subject` while the block runs."""
    heard: list[Msg] = []

    async def note(message: Msg) -> None:
        heard.append(message)

    subscription = await client.subscribe(subject, cb=note)
    await client.flush()
    yield heard
    if not client.is_closed:
        await subscription.unsubscribe()


async def ask(client: Stranger, tenant: str, rid: str, prompt: str, tokens: int = TOKENS) -> None:
    """As any client of the broker would write it; returns once it is stored."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}
    subject = subjects.request("standard", MODEL, tenant, rid)
    await client.jetstream(timeout=ANSWER_S).publish(
        subject, json.dumps(body).encode(), headers={"Nats-Msg-Id": f"{tenant}.{rid}"}
    )


def text_of(records: list[Msg]) -> str:
    """The answer so far; records come in the order they were stored in."""
    toks: list[Tok | Tail] = [decode_tok(one.data) for one in records if one.subject.endswith("tok")]
    end = end_of(records)
    if end is not None and end.tail is not None:
        toks.append(end.tail)
    assert [tok.off for tok in toks] == sorted({tok.off for tok in toks})
    return "".join(delta.text for tok in toks for delta in tok.deltas)


def end_of(records: list[Msg]) -> End | None:
    """What closed the log."""
    ends = [decode_ctl(one.data) for one in records if one.subject.endswith("ctl")]
    return next((one for one in ends if isinstance(one, End)), None)


async def test_a_stranger_asks_and_reads_its_answer(secured: SecuredBroker, system: System) -> None:
    async with (
        secured.client(f"tenants/{ACME}") as acme,
        secured.client(f"tenants/{GLOBEX}") as globex,
        listening(acme, f"llm.v1.live.{ACME}.{RID}.*") as records,
        # All that another tenant can listen to.
        listening(globex, f"llm.v1.live.{GLOBEX}.>") as foreign,
        listening(globex, "_INBOX.>") as inboxes,
    ):
        await ask(acme, ACME, RID, "a stranger")
        await until(lambda: end_of(records), "END", DONE_WITHIN_S)
        end = end_of(records)
        assert end is not None
        assert (end.status, end.n, text_of(records)) == ("ok", TOKENS, expected("a stranger", TOKENS))
        # What it missed, it looks up: the newest record of each subject of its log.
        call = f"$JS.API.DIRECT.GET.OUTPUT.llm.v1.out.{ACME}.{RID}"
        assert decode_ctl((await acme.request(f"{call}.ctl", b"", timeout=ANSWER_S)).data) == end
        last = decode_tok((await acme.request(f"{call}.tok", b"", timeout=ANSWER_S)).data)
        assert end.tail is not None
        assert last.off + len(last.ids) == end.tail.off
        assert not foreign
        assert not inboxes


async def test_a_stranger_cancels_its_own(secured: SecuredBroker, system: System) -> None:
    rid = "b" * 26
    async with (
        secured.client(f"tenants/{ACME}") as acme,
        listening(acme, f"llm.v1.live.{ACME}.{rid}.*") as records,
    ):
        await ask(acme, ACME, rid, "too long", 5000)
        await until(lambda: len(records) > 5, "tokens")
        wish = dispatch.encode(dispatch.Cancel(reason="enough", close=True))
        answer = await acme.request(f"llm.v1.cancel.{ACME}.{rid}", wish, timeout=ANSWER_S)
        told = decode_ctl(answer.data)
        assert isinstance(told, End)
        assert told.status == "cancelled"
        await until(lambda: end_of(records), "END")


def _foreign(tenant: str) -> list[str]:
    """What a tenant may not say, of its own and of others."""
    rid = "c" * 26
    own_log, other_log = subjects.output_of_tenant(tenant), subjects.output_of_tenant(GLOBEX)
    return [
        subjects.request("standard", MODEL, GLOBEX, rid),
        subjects.cancel(GLOBEX, rid),
        *(subjects.output_ctl(of, rid) for of in (tenant, GLOBEX)),
        *(subjects.output_tok(of, rid) for of in (tenant, GLOBEX)),
        *(subjects.live_ctl(of, rid) for of in (tenant, GLOBEX)),
        *(subjects.dead(MODEL, tenant, rid), subjects.response(tenant, rid), subjects.batch(tenant, "b")),
        *(subjects.LEADER, subjects.PULL, subjects.EDGE, subjects.work("worker-1"), subjects.rate("c")),
        subjects.js_direct_last(OUTPUT, subjects.output_ctl(GLOBEX, rid)),
        subjects.js_direct_last(REQUESTS, subjects.request("standard", MODEL, tenant, rid)),
        *(subjects.js_direct_get(stream) for stream in STREAMS),
        *(
            subjects.js_stream(verb, stream)
            for stream in (REQUESTS, OUTPUT, DEAD)
            for verb in ("MSG.GET", "MSG.DELETE")
        ),
        *(subjects.js_stream(verb, OUTPUT) for verb in ("INFO", "CREATE", "DELETE", "UPDATE", "PURGE")),
        subjects.js_stream("CREATE", "MINE"),
        # Not even of its own log: the server takes a consumer that names any subject to deliver to.
        f"{subjects.js_consumer('CREATE', OUTPUT, 'mine')}.{own_log}",
        f"{subjects.js_consumer('CREATE', OUTPUT, 'mine')}.{other_log}",
        *(subjects.js_consumer(verb, OUTPUT, "mine") for verb in ("CREATE", "INFO", "DELETE", "MSG.NEXT")),
        *(subjects.js_consumer("MSG.NEXT", REQUESTS, f"standard-{MODEL}"),),
        f"{subjects.js_ack(REQUESTS, f'standard-{MODEL}')}1.1.1.1.0",
        f"{subjects.JS_API}INFO",
        "$SRV.PING",
        "_INBOX.somebody",
    ]


@pytest.mark.parametrize("subject", _foreign(ACME))
async def test_a_tenant_may_not_publish(secured: SecuredBroker, subject: str) -> None:
    async with secured.client(f"tenants/{ACME}") as acme:
        assert not await acme.may_publish(subject)


@pytest.mark.parametrize(
    "subject",
    [
        *(">", "*.>", "llm.>", subjects.LIVE_ALL, subjects.OUTPUT_ALL, subjects.REQUESTS_ALL),
        *(subjects.live_of_tenant(GLOBEX), subjects.live(GLOBEX, RID), subjects.output_log(ACME, RID)),
        *(subjects.WORK_ALL, subjects.PULL, subjects.LEADER, subjects.EDGE, subjects.CANCEL_ALL),
        *(subjects.requests_of_tenant(ACME), "*.*", "$SYS.>", "$JS.>", "$SRV.>"),
    ],
)
async def test_a_tenant_may_not_listen(secured: SecuredBroker, subject: str) -> None:
    async with secured.client(f"tenants/{ACME}") as acme:
        assert not await acme.may_subscribe(subject)


async def test_an_answer_never_leaves_the_account_that_asked(secured: SecuredBroker, system: System) -> None:
    """The server answers to any subject, whoever may publish there: inside an account that is a way around its
    permissions (seen here with an edge), which a tenant must not have."""
    letter = subjects.dead(MODEL, GLOBEX, RID)
    async with (
        secured.client("observer") as observer,
        secured.client("edge") as edge,
        secured.client(f"tenants/{ACME}") as acme,
        listening(observer, subjects.DEAD_ALL) as letters,
        listening(acme, f"llm.v1.live.{ACME}.{'d' * 26}.*") as records,
    ):
        assert not await acme.may_publish(letter)
        assert not await edge.may_publish(letter)
        request = subjects.request("standard", MODEL, ACME, "d" * 26)
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 3})
        await acme.publish(request, body.encode(), reply=letter)
        await acme.publish(f"$JS.API.DIRECT.GET.OUTPUT.llm.v1.out.{ACME}.{RID}.tok", b"", reply=letter)
        await until(lambda: end_of(records), "the request was taken", DONE_WITHIN_S)
        assert not letters
        await edge.publish(subjects.js_stream("MSG.GET", OUTPUT), b"{}", reply=letter)
        await edge.flush()
        await until(lambda: letters, "this is why tenants have accounts of their own")


async def test_tenants_come_and_go_while_the_broker_runs(secured: SecuredBroker, system: System) -> None:
    def streams() -> None:
        for number in range(4):
            assert_whole(stream(system.url, f"meanwhile {number}", 100), f"meanwhile {number}", 100)

    before = {process.pid for process in system.processes()}
    meanwhile = asyncio.create_task(asyncio.to_thread(streams))
    await asyncio.sleep(0)
    assert penstock("broker", "add-tenant", "initech", str(secured.directory)).returncode == 0
    assert penstock("broker", "reload", str(secured.directory)).returncode == 0
    rid = "e" * 26
    async with (
        secured.client("tenants/initech") as initech,
        listening(initech, f"llm.v1.live.initech.{rid}.*") as records,
    ):
        await ask(initech, "initech", rid, "new here", 5)
        await until(lambda: end_of(records), "END", DONE_WITHIN_S)
        key = (secured.directory / "tenants" / "initech" / "initech.nk").read_bytes()
        assert penstock("broker", "remove-tenant", "initech", str(secured.directory)).returncode == 0
        assert penstock("broker", "reload", str(secured.directory)).returncode == 0
        await until(lambda: not initech.is_connected, "who is no user any more is cut off")
    (secured.directory / "tenants" / "initech").mkdir()
    (secured.directory / "tenants" / "initech" / "initech.nk").write_bytes(key)
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        async with secured.client("tenants/initech"):
            pass
    await meanwhile
    assert {process.pid for process in system.processes()} == before
    assert "disconnected" not in system.log_path.read_text(), "nobody else had to connect anew"
