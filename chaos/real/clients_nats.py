"""Programs that publish requests by themselves and read their output over NATS, as the README shows it to them."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field

import httpx
import msgspec

from chaos.real.clients import PAUSE_S, REFUSALS, TRIES_MAX, Surroundings
from chaos.real.history import Asked, Cancelled, Headed, Over, Told
from chaos.real.workload import MODEL, Wish
from edge.paths import request_path
from infra import wire
from infra.jetstream import FULL, JetStream
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import RID_BYTES, request_id
from schemas.output import Delta, End, Tok, decode_ctl, decode_tok
from schemas.requests import MSG_ID
from schemas.streams import OUTPUT

PUBLISH_TIMEOUT_S = 2.0
READ_AGAIN_S = 2.0
"""Live records may be lost: after a silence the log is read."""

TOO_BUSY = "queue_full"


@dataclass
class _Log:
    """A log as its reader has it: how many tokens, and up to which sequence without a gap."""

    ask: int
    tokens: int = 0
    seq: int = 0
    end: End | None = None
    has_gap: bool = False
    live: list[tuple[int, str, bytes]] = field(default_factory=list)


class Publisher:
    """One wish, published once under one id, and read to its END."""

    def __init__(self, wish: Wish, around: Surroundings, js: JetStream) -> None:
        self._wish = wish
        self._around = around
        self._js = js
        self._rid = request_id(secrets.token_bytes(RID_BYTES))
        self._woken = asyncio.Event()
        self._log = _Log(around.new_ask())

    async def run(self) -> None:
        """Returns when it has read END, or knows that there is none to come."""
        wish, rid = self._wish, self._rid
        line = Asked(
            at=time.time(),
            ask=self._log.ask,
            request=wish.number,
            way="direct",
            tenant=wish.tenant,
            klass=wish.klass,
            door="nats",
            body=msgspec.Raw(wish.body),
            rid=rid,
            may_fail=wish.may_fail,
        )
        self._around.tell(line)
        live = self._js.bus.subscribe(subjects.live(wish.tenant, rid), self.on_live)
        over = Over(time.time(), self._log.ask, "broken", "no_answer")
        try:
            over = await self._publish_and_read()
        finally:
            live.close()
            self._around.tell(msgspec.structs.replace(over, at=time.time()))

    async def _publish_and_read(self) -> Over:
        ask = self._log.ask
        status = await self._publish()
        if status is None:
            return Over(0.0, ask, "unknown", "not_confirmed")
        self._around.tell(Headed(time.time(), ask, status, self._rid))
        if status != httpx.codes.OK:
            return Over(0.0, ask, "refused", TOO_BUSY)
        canceller = asyncio.create_task(self._cancels())
        end = await self.read()
        if end.status != "cancelled":
            canceller.cancel()
        await asyncio.gather(canceller, return_exceptions=True)
        if end.status == "ok":
            reasons = " ".join(end.finish_reasons)
            return Over(0.0, ask, "complete", "", reasons, self._log.tokens)
        return Over(0.0, ask, "error", end.reason or end.status)

    async def _publish(self) -> int | None:
        """200 or 429; None: nobody ever said. The same id every time: a second one would be a second request."""
        wish = self._wish
        subject = subjects.request(wish.klass, MODEL, wish.tenant, self._rid)
        headers = wire.encode_headers({MSG_ID: f"{wish.tenant}.{self._rid}"})
        for tried in range(TRIES_MAX):
            try:
                ack = await self._js.publish(subject, wish.body, headers=headers)
            except BrokerAway:
                await asyncio.sleep(PAUSE_S)
                continue
            if ack.stored:
                return int(httpx.codes.OK)
            if ack.err_code == FULL and not tried:
                return int(httpx.codes.TOO_MANY_REQUESTS)
            if ack.err_code == FULL and await self._is_there():
                return int(httpx.codes.OK)  # one message per subject: its own is the one
            await asyncio.sleep(PAUSE_S)
        return None

    async def _is_there(self) -> bool:
        try:
            return bool(await self._js.last(OUTPUT, subjects.output_ctl(self._wish.tenant, self._rid)))
        except (BrokerAway, BrokerRefused):
            return False

    async def read(self) -> End:
        """Until there is an END."""
        log = self._log
        while log.end is None:
            self._woken.clear()
            is_silent = False
            try:
                async with asyncio.timeout(READ_AGAIN_S):
                    if not log.live:
                        await self._woken.wait()
            except TimeoutError:
                is_silent = True
            live, log.live = log.live, []
            for seq, subject, payload in live:
                self._take(seq, subject, payload, is_live=True)
            if is_silent or log.has_gap:
                await self._read_log()
        return log.end

    async def _read_log(self) -> None:
        log, wish = self._log, self._wish
        try:
            subject = subjects.output_log(wish.tenant, self._rid)
            stored = await self._js.read(OUTPUT, subject, start_seq=log.seq + 1)
        except (BrokerAway, BrokerRefused):
            await asyncio.sleep(PAUSE_S)
            return
        log.has_gap = False
        for one in stored:
            self._take(one.seq, one.subject, one.payload, is_live=False)

    def _take(self, seq: int, subject: str, payload: bytes, *, is_live: bool) -> None:
        """A record. Of live ones, what does not follow on what is there is left to the log."""
        log = self._log
        if seq <= log.seq or log.end is not None or (is_live and log.has_gap):
            return
        if subjects.is_ctl(subject):
            record = decode_ctl(payload)
            if is_live:
                # Tokens before it may have been lost: it moves nothing on, and the log says what came before END.
                log.has_gap = log.has_gap or isinstance(record, End)
                return
            if isinstance(record, End):
                if record.tail is not None:
                    self._hear(record.tail.off, record.tail.ids, record.tail.deltas)
                log.end = record
        else:
            tok: Tok = decode_tok(payload)
            if is_live and tok.off > log.tokens:
                log.has_gap = True
                return
            self._hear(tok.off, tok.ids, tok.deltas)
        if not log.has_gap:
            log.seq = seq

    def _hear(self, off: int, ids: list[int], deltas: list[Delta]) -> None:
        log = self._log
        if off != log.tokens:
            return
        log.tokens += len(ids)
        for index, delta in enumerate(deltas):
            if delta.text:
                place = f"{log.tokens}-{index}"
                self._around.tell(Told(time.time(), log.ask, place, delta.text, delta.choice))

    def on_live(self, subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
        """A live record has come."""
        seq = wire.header_value(headers, b"Nats-Sequence")
        if seq is not None:
            self._log.live.append((int(seq), subject, payload))
            self._woken.set()

    async def _cancels(self) -> None:
        """By HTTP: a program without it would let its request run."""
        wish = self._wish
        if wish.cancel is None:
            return
        await asyncio.sleep(wish.cancel.after_s)
        for tried in range(TRIES_MAX):
            url = self._around.door(wish.cancel.door + tried) + request_path(self._rid)
            self._around.tell(Cancelled(time.time(), wish.number, self._rid, 0))
            try:
                answer = await self._around.http.delete(url, headers=self._around.allowed(wish.tenant))
            except httpx.HTTPError:
                await asyncio.sleep(PAUSE_S)
                continue
            self._around.tell(Cancelled(time.time(), wish.number, self._rid, answer.status_code))
            if answer.status_code not in REFUSALS:
                return
            await asyncio.sleep(PAUSE_S)
