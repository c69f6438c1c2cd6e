"""Clients over HTTP: they ask, read, leave, come back elsewhere, ask again, cancel, and tell everything they see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import msgspec

from chaos.real.clients_events import PATHS, Answer, Splitter
from chaos.real.history import Asked, Cancelled, Headed, Line, Outcome, Over, Told, Way
from chaos.real.workload import Visit, Wish
from edge.admission import CLASS_HEADER
from edge.forecast.door import RETRY_COUNT_HEADER
from edge.paths import request_path, stream_path
from edge.position import LAST_EVENT_ID
from edge.wishes import DEADLINE_HEADER, KEY_HEADER, ON_DISCONNECT_HEADER

CONNECT_TIMEOUT_S = 3.0
SILENCE_S = 40.0
"""The head comes within `head_wait_s` and comments every `keep_alive_s`: a connection that says less is broken."""

TRIES_MAX = 60
"""Of one wish: refusals waited out, connections that broke."""

RETRY_AFTER_MAX_S = 5.0
PAUSE_S = 0.5
SPY_AFTER_S = 0.3

REFUSALS = (429, 503, 529)
"""Come again later. The last one is how Anthropic's dialect says the second."""

NOTHING = msgspec.Raw(b"null")
UNKNOWN = "outcome_unknown"
DRAINING = "draining"


@dataclass
class Surroundings:
    """What clients share: `doors` are edges, `keys` API keys by tenant; each connection gets a number of its own."""

    http: httpx.AsyncClient
    doors: list[str]
    keys: dict[str, str]
    tell: Callable[[Line], None]
    asks: int = 0

    def door(self, number: int) -> str:
        """A door by any number."""
        return self.doors[number % len(self.doors)]

    def new_ask(self) -> int:
        """The number of a connection."""
        self.asks += 1
        return self.asks

    def allowed(self, tenant: str) -> dict[str, str]:
        """The header that says who asks."""
        return {"authorization": f"Bearer {self.keys[tenant]}"} if tenant in self.keys else {}


@dataclass
class Talk:
    """How one connection went."""

    outcome: Outcome = "broken"
    reason: str = ""
    rid: str = ""
    last_id: str = ""
    retry_after_s: float | None = None
    tokens: int = -1
    finish_reason: str = ""


class Client:
    """One wish over HTTP, from its first question to its last answer."""

    def __init__(self, wish: Wish, around: Surroundings) -> None:
        self._wish = wish
        self._around = around
        self._rid = ""
        self._last_id = ""
        self._beside: list[asyncio.Task[None]] = []
        self._waiting: list[asyncio.Task[None]] = []
        """Those that need the request's name."""
        self._is_known = asyncio.Event()

    async def run(self) -> None:
        """Returns when the client wants nothing more."""
        wish = self._wish
        if wish.cancel is not None:
            self._waiting.append(asyncio.create_task(self._cancels(wish.cancel)))
        if wish.spy:
            self._waiting.append(asyncio.create_task(self._spies()))
        if wish.twice is not None:
            self._beside.append(asyncio.create_task(self._asks_twice(wish.twice)))
        try:
            await self._pursue(wish.door, leaves_after_s=wish.leave_after_s, visits=list(wish.visits))
            await asyncio.gather(*self._beside)
            if self._is_known.is_set():
                await asyncio.gather(*self._waiting)
        finally:
            beside = [*self._beside, *self._waiting]
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _pursue(self, door: int, *, leaves_after_s: float | None, visits: list[Visit]) -> None:
        """Asks until there is an answer that is one; visits are the times at which it comes back after leaving."""
        wish, rid, last_id = self._wish, "", ""
        for tried in range(TRIES_MAX):
            if rid and wish.way == "stream":
                talk = await self._reads_on(door, rid, last_id, leaves_after_s)
            else:
                talk = await self._asks(door, tried, leaves_after_s)
            rid, last_id = talk.rid or rid, talk.last_id or last_id
            if talk.outcome == "left":
                if not visits:
                    return
                visit = visits.pop(0)
                # The last time it stays.
                leaves_after_s = leaves_after_s if visits else None
                await asyncio.sleep(visit.after_s)
                door = visit.door
                continue
            pause_s = self._pause_s(talk, has_rid=bool(rid))
            if pause_s is None:
                return
            await asyncio.sleep(pause_s)
            door += 1

    def _pause_s(self, talk: Talk, *, has_rid: bool) -> float | None:
        """How long it waits before it tries again; None: that was its answer."""
        goes_on = has_rid and self._wish.way == "stream"
        match talk.outcome:
            case "complete":
                return None
            case "error":
                return PAUSE_S if talk.reason == DRAINING and goes_on else None
            case "refused":
                return min(talk.retry_after_s or PAUSE_S, RETRY_AFTER_MAX_S)
            case _:
                # Without a name or a key nobody can tell whether another try would be a second request.
                return PAUSE_S if goes_on or self._wish.key else None

    async def _asks(self, door: int, tried: int, leaves_after_s: float | None) -> Talk:
        wish = self._wish
        headers = {"content-type": "application/json", CLASS_HEADER: wish.klass}
        said = {KEY_HEADER: wish.key, ON_DISCONNECT_HEADER: wish.leaving}
        headers |= {name: value for name, value in said.items() if value}
        if wish.deadline_s is not None:
            headers[DEADLINE_HEADER] = f"{wish.deadline_s:.3f}"
        if tried:
            headers[RETRY_COUNT_HEADER] = str(tried)
        address = self._around.door(door)
        ask = self._told_asking(
            address, wish.way, wish.tenant, body=msgspec.Raw(wish.body), may_fail=wish.may_fail
        )
        request = self._request("POST", address + PATHS[wish.dialect], wish.tenant, headers, wish.body)
        return await self._converse(ask, request, leaves_after_s)

    async def _reads_on(self, door: int, rid: str, last_id: str, leaves_after_s: float | None) -> Talk:
        """After the last event it has seen."""
        wish = self._wish
        headers = {LAST_EVENT_ID: last_id} if last_id else {}
        if wish.leaving:
            headers[ON_DISCONNECT_HEADER] = wish.leaving
        address = self._around.door(door)
        ask = self._told_asking(
            address, "stream", wish.tenant, rid=rid, last_event_id=last_id, may_fail=wish.may_fail
        )
        request = self._request("GET", address + stream_path(rid), wish.tenant, headers)
        return await self._converse(ask, request, leaves_after_s)

    async def _asks_twice(self, visit: Visit) -> None:
        """The same under the same key, perhaps at the same time; this one stays to the end."""
        await asyncio.sleep(visit.after_s)
        await self._pursue(visit.door, leaves_after_s=None, visits=[])

    async def _spies(self) -> None:
        """Another tenant asks for this one's answer."""
        await self._is_known.wait()
        await asyncio.sleep(SPY_AFTER_S)
        address = self._around.door(self._wish.door + 1)
        ask = self._told_asking(address, "stream", self._wish.spy, rid=self._rid, may_fail="foreign")
        request = self._request("GET", address + stream_path(self._rid), self._wish.spy, {})
        await self._converse(ask, request, None)

    async def _cancels(self, visit: Visit) -> None:
        """Until somebody answers."""
        await self._is_known.wait()
        await asyncio.sleep(visit.after_s)
        rid, number = self._rid, self._wish.number
        for tried in range(TRIES_MAX):
            address = self._around.door(visit.door + tried)
            # Before it is sent: what nobody answers may have come to something, too.
            self._around.tell(Cancelled(time.time(), number, rid, 0))
            request = self._request("DELETE", address + request_path(rid), self._wish.tenant, {})
            try:
                answer = await self._around.http.send(request)
            except httpx.HTTPError:
                await asyncio.sleep(PAUSE_S)
                continue
            self._around.tell(Cancelled(time.time(), number, rid, answer.status_code))
            if answer.status_code not in REFUSALS:
                return
            await asyncio.sleep(PAUSE_S)

    def _told_asking(
        self,
        address: str,
        way: Way,
        tenant: str,
        *,
        body: msgspec.Raw = NOTHING,
        rid: str = "",
        last_event_id: str = "",
        may_fail: str = "",
    ) -> int:
        wish, ask = self._wish, self._around.new_ask()
        line = Asked(
            at=time.time(),
            ask=ask,
            request=wish.number,
            way=way,
            tenant=tenant,
            klass=wish.klass,
            door=address,
            body=body,
            key=wish.key if body is not NOTHING else "",
            rid=rid,
            last_event_id=last_event_id,
            may_fail=may_fail,
            leaving=wish.leaving if may_fail != "foreign" else "",
        )
        self._around.tell(line)
        return ask

    def _request(
        self, method: str, url: str, tenant: str, headers: dict[str, str], body: bytes | None = None
    ) -> httpx.Request:
        headers = headers | self._around.allowed(tenant)
        return self._around.http.build_request(method, url, headers=headers, content=body)

    async def _converse(self, ask: int, request: httpx.Request, leaves_after_s: float | None) -> Talk:
        """Sends it and reads until there is nothing more to read, for it or at all."""
        talk = Talk()
        try:
            answer = await self._around.http.send(request, stream=True)
            try:
                self._on_head(ask, talk, answer)
                async with asyncio.timeout(leaves_after_s):
                    await self._read(ask, talk, answer)
            except TimeoutError:
                talk.outcome = "left"
            finally:
                await answer.aclose()
        except httpx.ConnectError:
            talk.outcome, talk.reason = "refused", "no_door"
        except httpx.TimeoutException:
            talk.outcome, talk.reason = "broken", "silence"
        except httpx.HTTPError as error:
            talk.outcome, talk.reason = "broken", type(error).__name__
        except asyncio.CancelledError:
            talk.outcome, talk.reason = "broken", "no_answer"
            raise
        finally:
            line = Over(time.time(), ask, talk.outcome, talk.reason, talk.finish_reason, talk.tokens)
            self._around.tell(line)
        return talk

    def _on_head(self, ask: int, talk: Talk, answer: httpx.Response) -> None:
        talk.rid = answer.headers.get("x-request-id", "")
        self._around.tell(Headed(time.time(), ask, answer.status_code, talk.rid))
        if answer.status_code == httpx.codes.OK and talk.rid:
            self._rid = self._rid or talk.rid
            self._is_known.set()
        elif answer.status_code != httpx.codes.OK:
            talk.rid = ""
            told = answer.headers.get("retry-after")
            talk.retry_after_s = None if told is None else float(told)

    async def _read(self, ask: int, talk: Talk, answer: httpx.Response) -> None:
        read = Answer(self._wish.dialect)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            splitter = Splitter()
            async for chunk in answer.aiter_raw():
                for event in splitter.feed(chunk):
                    self._hear(ask, read.event(event))
                    talk.last_id = read.last_id
                if self._wish.read_every_s:
                    await asyncio.sleep(self._wish.read_every_s)
        else:
            self._hear(ask, read.whole(answer.status_code, await answer.aread()))
        talk.tokens, talk.finish_reason, talk.reason = read.tokens, read.finish_reason, read.error
        if read.error == UNKNOWN:
            talk.outcome = "unknown"
        elif answer.status_code in REFUSALS:
            talk.outcome = "refused"
        elif read.error:
            talk.outcome = "error"
        elif read.is_done:
            talk.outcome = "complete"

    def _hear(self, ask: int, pieces: list[tuple[str, int, str]]) -> None:
        for event_id, choice, text in pieces:
            self._around.tell(Told(time.time(), ask, event_id, text, choice))
