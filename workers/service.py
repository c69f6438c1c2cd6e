"""The worker's shell: messages become events, actions become messages, and one timer. It decides nothing."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from math import inf

from infra import clock
from infra.access import access_of
from infra.bus import Bus
from infra.jetstream import TOO_LARGE, JetStream, decode_puback, expect_headers, fence_headers
from infra.lifecycle import RoleContext
from infra.log_traces import know_trace
from infra.logs import get_logger
from infra.majority import stay_with_majority
from infra.metrics.page import Page
from infra.micro import Endpoint, Micro
from infra.output_log import OutputLog
from infra.settings import Settings
from schemas import dispatch, subjects
from schemas.errors import BrokerAway, PenstockError
from schemas.ids import model_key
from schemas.streams import OUTPUT
from workers import metrics
from workers.core import WorkerCore
from workers.counting import Counting
from workers.engine_page import EnginePage
from workers.engines.base import Capabilities, Engine
from workers.engines.registry import make_engine
from workers.events import (
    Ack,
    Action,
    CancelHinted,
    ConnectionChanged,
    Drain,
    EngineHung,
    EngineProgress,
    Event,
    Forget,
    HandOff,
    LeaderSeen,
    LetterLost,
    Nak,
    Offered,
    Progress,
    Publish,
    ReadCtl,
    ReadLog,
    Refused,
    Reply,
    SendPull,
    Settled,
    StartEngine,
    StopEngine,
    Stored,
    Tick,
)
from workers.limits import WorkerLimits
from workers.log_reads import LogReads
from workers.tracing import Spans, Who

OUTPUT_POLL_S = 0.2
"""How often a worker that came up before the first scheduler looks for the stream that the scheduler makes."""

FINISH_SHARE = 0.8
"""Of the time to drain, the part in which requests may finish; in the rest they are handed off."""

WORKER_ID_MAX = 57
"""A worker id is a subject token of at most 64 characters; a dash and six of them make each process new."""

log = get_logger("worker")


class EngineStopped(PenstockError):
    """The engine ended by itself. Look at what it logged; the supervisor starts the worker again."""


class EngineStalled(PenstockError):
    """The engine hangs. Look at the device; the supervisor starts the worker again, others continue its requests."""


async def serve(context: RoleContext) -> None:
    """Runs a worker until it is told to stop and has drained."""
    settings = context.settings
    access = access_of(settings, "worker")
    engine = make_engine(settings)
    worker_id = f"{context.id[:WORKER_ID_MAX]}-{secrets.token_hex(3)}"
    bus = await Bus.connect(settings.nats_url, name=worker_id, fail=context.fail, access=access)
    context.spawn(stay_with_majority(bus), "majority")
    try:
        await WorkerService(context, bus, engine, worker_id).run()
    finally:
        await bus.close()


class WorkerService:
    """One worker process: its engine, its core and its connection."""

    def __init__(self, context: RoleContext, bus: Bus, engine: Engine, worker_id: str) -> None:
        self._context = context
        self._bus = bus
        self._js = JetStream(bus)
        self._engine = engine
        self._worker_id = worker_id
        self._core: WorkerCore
        self._counting: Counting
        self._work = Endpoint("work", subjects.work(worker_id))
        self._micro = Micro(bus, "worker", worker_id, self._work)
        self._spans: Spans
        self._reads: LogReads
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._calls: dict[int, tuple[int, ...]] = {}
        self._drained = asyncio.Event()

    async def run(self) -> None:
        """Starts, serves, drains."""
        settings = self._context.settings
        log.info("engine starts", engine=settings.engine, model=settings.model)
        can = await self._start_engine()
        if can is None:
            return
        limits = _limits(settings, settings.slots or can.slots)
        card = _card(settings.model, can)
        self._core = WorkerCore(self._worker_id, card, can, limits)
        self._counting = Counting(can.name or settings.model, limits.slots)
        self._spans = Spans(
            self._context.tracer, Who(self._worker_id, card.name, can), with_content=settings.trace_content
        )
        self._reads = LogReads(OutputLog(self._js), self._spans, self._feed)
        await self._context.show_metrics(self._page(), settings.worker_metrics_port)
        log.info("engine started", engine=can.engine, revision=can.revision, slots=limits.slots)
        self._context.spawn(self._watch_engine(), "engine")
        if await self._output_is_there():
            self._bus.on_state(lambda connected: self._feed(ConnectionChanged(connected)))
            self._bus.subscribe(subjects.work(self._worker_id), self._on_work)
            self._bus.subscribe(subjects.CANCEL_ALL, self._on_cancel)
            self._bus.subscribe(subjects.LEADER, self._on_leader)
            self._micro.start()
            self._feed(ConnectionChanged(self._bus.connected))
            self._context.ready()
            await self._context.stop.wait()
            await self._drain()
        await self._engine.stop()

    def _page(self) -> Page:
        """What is shown of this worker, and of its engine."""
        return Page(
            "worker",
            metrics.TABLE,
            lambda: self._bus.connected,
            refresh=lambda: self._counting.looked(self._engine.load()),
            beside=EnginePage(self._engine).families,
        )

    async def _start_engine(self) -> Capabilities | None:
        """Loading may take minutes. None: told to stop meanwhile."""
        starting = asyncio.ensure_future(self._engine.start(self._feed))
        stopping = asyncio.ensure_future(self._context.stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            return starting.result()
        starting.cancel()
        await asyncio.wait({starting})
        await self._engine.stop()
        return None

    async def _output_is_there(self) -> bool:
        """Waits for the stream of output logs. False: told to stop before that."""
        stop = self._context.stop
        while not stop.is_set():
            try:
                if await self._js.exists(OUTPUT):
                    return True
                log.info("waiting for a scheduler: it makes the streams")
            except BrokerAway:
                log.info("waiting for the broker")
            try:
                async with asyncio.timeout(OUTPUT_POLL_S):
                    await stop.wait()
            except TimeoutError:
                continue
        return False

    async def _drain(self) -> None:
        """Lets requests finish, if that is wanted, then hands off what is left; the process's own deadline is behind
        all of it."""
        if self._context.settings.drain == "handoff":
            self._feed(HandOff())
            self._note_drained()
            await self._drained.wait()
            return
        self._feed(Drain())
        self._note_drained()
        try:
            async with asyncio.timeout(self._context.settings.drain_timeout_s * FINISH_SHARE):
                await self._drained.wait()
        except TimeoutError:
            log.info("handing off what did not finish in time")
            self._feed(HandOff())
            await self._drained.wait()

    def _note_drained(self) -> None:
        if self._core.drained:
            self._drained.set()

    async def _watch_engine(self) -> None:
        await self._engine.wait()
        if not self._context.stop.is_set():
            raise EngineStopped("the engine ended by itself")

    def _feed(self, event: Event) -> None:
        now = clock.now()
        actions = self._core.handle(event, now)
        if self._spans.watched:
            self._spans.saw(event, actions, now)
        for action in actions:
            self._do(action)
        self._arm()

    def _arm(self) -> None:
        """One timer. It may fire too early, after a deadline moved back: a tick with nothing due does nothing."""
        at = self._core.next_deadline()
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(at - clock.now(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        load, now = self._engine.load(), clock.now()
        # The loop's clock stands still in a suspended machine, as the engine does: what counts is the age.
        last_step_at = now - (self._loop.time() - load.last_step_at)
        self._core.handle(EngineProgress(load.steps, last_step_at), now)
        self._feed(Tick())

    def _do(self, action: Action) -> None:
        match action:
            case Publish():
                self._publish(action)
            case Progress():
                self._js.progress(action.ack)
            case SendPull():
                self._bus.publish(subjects.PULL, dispatch.encode(action.pull))
            case StartEngine():
                self._engine.submit(action.request)
                self._counting.started(action.request)
            case StopEngine():
                self._engine.cancel(action.key)
                self._counting.freed(action.key)
            case Ack():
                self._js.ack(action.ack)
            case Nak():
                self._js.nak(action.ack, action.delay_s)
            case Reply():
                self._bus.publish(action.to, dispatch.encode(dispatch.WorkReply(action.answers)))
                self._counting.answered(action.answers)
            case ReadCtl():
                self._context.spawn(self._reads.ctl(action), "read ctl")
            case ReadLog():
                self._context.spawn(self._reads.whole(action), "read log")
            case Forget():
                self._forget(action.op)
                self._counting.forgotten(action.op)
            case LetterLost():
                self._counting.letter_lost()
                log.error(
                    "a poisoned request ends without a copy in DEAD: it cannot be redriven",
                    **_name(action.key),
                    tries=action.tries,
                    err_code=action.err_code,
                )
            case EngineHung():
                stalled = EngineStalled(f"requests run and no step was made for {action.step_s_max:g} s")
                self._context.fail(stalled)
            case Settled():
                say = log.debug if action.outcome == "ended" else log.info
                say("settled", **_name(action.key), outcome=action.outcome, tokens=action.tokens)
                self._counting.settled(action)
                self._note_drained()

    def _publish(self, action: Publish) -> None:
        if action.kind == "append":
            headers = fence_headers(action.expect, action.fence)
        else:
            headers = expect_headers(action.expect, action.headers)
        if len(headers) + len(action.body) > self._bus.max_payload:
            # Sent all the same, it would make the server close the connection for good.
            self._loop.call_soon(self._feed, Refused(action.key, action.op, TOO_LARGE))
            return
        on_reply = partial(self._on_puback, action.key, action.op)
        token = self._bus.call(action.subject, action.body, on_reply, headers=headers)
        if token:
            self._calls[action.op] = (*self._calls.get(action.op, ()), token)
            self._counting.sent(action.op, action.kind)

    def _on_puback(self, key: str, op: int, headers: bytes, payload: bytes) -> None:
        """An answer to any of the tries counts: they carried the same bytes."""
        self._forget(op)
        ack = decode_puback(headers, payload)
        if ack.stored:
            self._counting.stored(op)
            self._feed(Stored(key, op, ack.seq))
            return
        self._counting.refused(op, ack.err_code)
        log.debug("publish refused", **_name(key), err_code=ack.err_code, reason=ack.description)
        self._feed(Refused(key, op, ack.err_code, ack.last_seq or 0))

    def _forget(self, op: int) -> None:
        for token in self._calls.pop(op, ()):
            self._bus.forget(token)

    def _on_work(self, _subject: str, reply: str, _headers: bytes, payload: bytes) -> None:
        if not reply:  # nobody waits for an answer, so nobody counts on the work
            return
        if not payload:  # a probe: any answer says that this worker is there
            self._bus.publish(reply)
            return
        try:
            work = dispatch.decode_work(payload)
        except ValueError as error:
            log.error("a batch that cannot be read", error=str(error))
            self._work.count(0.0, "a batch that cannot be read")
            return
        for item in work.items:
            know_trace(item.tenant, item.rid, item.meta.traceparent)
        begun = clock.now()
        self._counting.offered(work)
        self._feed(Offered(work, reply, self._spans.expect(work, begun)))
        self._work.count(clock.now() - begun)

    def _on_leader(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        try:
            leader = dispatch.decode_leader(payload)
        except ValueError as error:
            log.error("a leader's heartbeat that cannot be read", error=str(error))
            return
        self._feed(LeaderSeen(leader.term, leader.output_used))

    def _on_cancel(self, subject: str, _reply: str, _headers: bytes, _payload: bytes) -> None:
        request = subjects.parse_cancel(subject)
        if request is not None:
            tenant, rid = request
            key = f"{tenant}.{rid}"
            if self._core.has(key):
                self._counting.cancelled(key)
            self._feed(CancelHinted(key))


def _name(key: str) -> dict[str, str]:
    tenant, _, rid = key.rpartition(".")
    return {"tenant": tenant, "rid": rid}


def _card(model: str, capabilities: Capabilities) -> dispatch.ModelCard:
    name = capabilities.name or model
    return dispatch.ModelCard(
        key=model_key(name),
        name=name,
        engine=capabilities.engine,
        context_tokens_max=capabilities.context_tokens_max,
        max_tokens_default=capabilities.max_tokens_default,
        adapters=capabilities.adapters,
    )


def _limits(settings: Settings, slots: int) -> WorkerLimits:
    return WorkerLimits(
        slots=slots,
        queue_timeout_s=settings.queue_timeout_s,
        request_timeout_s=settings.request_timeout_s,
        request_timeout_max_s=settings.request_timeout_max_s,
        ack_wait_s=settings.ack_wait_s,
        pull_interval_s=settings.pull_interval_s,
        append_interval_s=settings.append_interval_s,
        append_bytes_max=settings.append_bytes_max,
        append_timeout_s=settings.append_timeout_s,
        step_s_max=settings.step_s_max,
        strikes_max=settings.strikes_max,
        attempts_max=settings.attempts_max,
    )
