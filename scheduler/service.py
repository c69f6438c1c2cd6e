"""The thin shell of a scheduler: messages become events, actions become messages. Every decision is in the cores."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf
from typing import assert_never

from msgspec.structs import replace

from infra import clock
from infra.consumers import Consumer, Delivered
from infra.jetstream import SERVICE_UNAVAILABLE, JetStream
from infra.lifecycle import RoleContext
from infra.log_traces import know_trace
from infra.logs import get_logger
from infra.metrics.page import Page
from infra.micro import Endpoint, Micro
from infra.wire import parse_headers, status_of
from scheduler import events, metrics, quota_events
from scheduler.broker_calls import BrokerCalls
from scheduler.core import Core
from scheduler.counting import CountAnswers, Counting
from scheduler.figures import Figures
from scheduler.leadership import Leadership
from scheduler.limits import Limits
from scheduler.quota_calls import QuotaCalls
from scheduler.tracing import Spans
from schemas import dispatch, streams, subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import ModelKey, WorkerId
from schemas.requests import CLASSES, Klass, RequestMeta, parse_meta

STREAMS_INTERVAL_S = 0.5
"""As often as the leader's heartbeat carries it."""

CONSUMERS_INTERVAL_S = 0.2
"""How often the core is asked which consumers to look at; it says how often each."""

RESTORE_PAUSE_S = 0.5
"""Between two tries to bring streams back; a broker that recovers answers within a few."""

HAND_OVER_S = 1.0
"""A stopping leader waits this long for what is under way; it is several offer time-outs and a few round trips."""


_log = get_logger("scheduler")

EnsureStreams = Callable[[], Awaitable[None]]
"""Makes every stream and bucket that is missing."""


class SchedulerService:
    """One scheduler on one connection."""

    def __init__(self, context: RoleContext, js: JetStream, limits: Limits, ensure: EnsureStreams) -> None:
        self._context = context
        self._settings = context.settings
        self._spawn = context.spawn
        self._js = js
        self._bus = js.bus
        self._ensure_streams = ensure
        self._core = Core(context.id, limits)
        self._counting = Counting(self._core)
        self._figures = Figures(js, context.settings, lambda: self._core.leading and self._bus.connected)
        self._cancels = Endpoint("cancel", subjects.CANCEL_ALL)
        self._micro = Micro(js.bus, "scheduler", context.id, self._cancels)
        self._spans = Spans(context.tracer, context.id, self._core.is_dead)
        self._calls = BrokerCalls(js, self._handle)
        self._quota_calls = QuotaCalls(js, self._handle)
        self._leadership = Leadership(
            context, js, clock=clock.now, handle=self._on_leadership, rearm=self._arm
        )
        self._waiting: deque[events.Event] = deque()
        self._handling = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._consumers: dict[ModelKey, list[tuple[Klass, Consumer]]] = {}
        self._offers: dict[tuple[WorkerId, int], int] = {}
        self._probes: dict[WorkerId, int] = {}

    def start(self) -> None:
        """Begins to listen and to stand for election."""
        self._bus.on_state(self._on_state)
        self._bus.subscribe(subjects.PULL, self._on_pull)
        self._bus.subscribe(subjects.EDGE, self._on_edge)
        self._bus.subscribe(subjects.CANCEL_ALL, self._on_cancel)
        self._handle(events.ConnectionChanged(self._bus.connected))
        self._leadership.start()
        self._spawn(self._poll_streams(), "streams")
        self._spawn(self._poll_consumers(), "consumers")
        self._spawn(self._figures.poll(), "figures")
        self._micro.start()

    def page(self) -> Page:
        """What is shown of this scheduler, and of the broker while it leads."""
        return Page("scheduler", metrics.TABLE, lambda: self._bus.connected, refresh=self._refresh)

    async def hand_over(self) -> None:
        """Gives up leadership and everything held; returns when that is done or has taken too long."""
        self._leadership.stop()
        until = clock.now() + HAND_OVER_S
        while (self._leadership.busy or self._core.held) and clock.now() < until:
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Nothing is done after this, whatever still arrives."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _handle(self, event: events.Event) -> None:
        """Runs an event, then those that come of its actions."""
        if self._closed:
            return
        self._waiting.append(event)
        if self._handling:
            return
        self._handling = True
        while self._waiting:
            event, now = self._waiting.popleft(), clock.now()
            self._counting.came(event)
            actions = self._core.handle(event, now)
            self._spans.saw(event, actions, now)
            for action in actions:
                self._counting.wanted(action)
                self._act(action)
        self._handling = False
        self._arm()

    def _act(self, action: events.Action) -> None:
        match action:
            case events.Offer():
                self._offer(action)
            case events.Fetch():
                self._fetch(action)
            case events.Ack(ack):
                self._js.ack(ack)
            case events.Nak(ack, delay_s):
                self._js.nak(ack, delay_s)
            case events.Progress(ack):
                self._js.progress(ack)
            case events.ForgetOffer(worker, seq):
                self._bus.forget(self._offers.pop((worker, seq), 0))
            case events.ReadCtl(tenant, rid):
                self._spawn(self._calls.read_ctl(tenant, rid), "read ctl")
            case events.ReadHistory(tenant, rid):
                self._spawn(self._calls.read_history(tenant, rid), "read history")
            case events.Close():
                self._spawn(self._calls.close(action), "close")
            case events.Cancel():
                self._spawn(self._calls.cancel(action), "cancel")
            case events.DeleteQueued(tenant, rid):
                self._spawn(self._calls.delete_queued(tenant, rid), "delete queued")
            case events.EnsureConsumers():
                self._spawn(self._ensure_consumers(action), "ensure consumers")
            case events.StopFetching(model):
                for _, consumer in self._consumers.pop(model, []):
                    consumer.close()
            case events.Probe(worker):
                self._probe(worker)
            case events.WorkerGone(worker, reason, requests):
                self._bus.forget(self._probes.pop(worker, 0))
                _log.warning("worker gone", worker=worker, reason=reason, requests=requests)
            case events.ConsumerStuck(klass, model, remedy, times):
                _log.error("consumer stuck", klass=klass, model=model, remedy=remedy, times=times)
            case events.OutputFull(is_full, refused):
                if is_full:
                    _log.error("OUTPUT is full: no END can be stored")
                else:
                    _log.warning("OUTPUT takes records again", refused=refused)
            case events.Announce(leader):
                self._bus.publish(subjects.LEADER, dispatch.encode(leader))
            case quota_events.CountQueue():
                self._spawn(self._quota_calls.count(), "count queue")
            case quota_events.FindOver():
                self._spawn(self._quota_calls.find(action), "find over quota")
            case quota_events.RefuseQueued():
                self._spawn(self._quota_calls.refuse(action), "refuse")
            case events.RememberModel(card):
                self._spawn(self._leadership.remember(card), "remember model")
            case _:
                assert_never(action)

    def _refresh(self) -> None:
        self._counting.refresh()
        self._figures.refresh()

    # Messages in.

    def _on_state(self, connected: bool) -> None:
        self._handle(events.ConnectionChanged(connected))
        if connected and not self._closed:
            self._spawn(self._restore_streams(), "restore streams")

    async def _restore_streams(self) -> None:
        """A broker that came back may have lost what it kept in memory, or everything."""
        while True:
            try:
                return await self._ensure_streams()
            except (BrokerAway, BrokerRefused) as error:
                _log.warning("streams not ensured yet", error=str(error))
            await asyncio.sleep(RESTORE_PAUSE_S)

    def _on_delivery(self, klass: Klass, model: ModelKey, message: Delivered) -> None:
        delivery = subjects.parse_ack(message.ack)
        if delivery is None:
            _log.error("a delivery without an ack subject", subject=message.subject)
            return
        named = subjects.parse_request(message.subject)
        meta = parse_meta(parse_headers(message.headers))
        if named is None:
            _log.warning("not a request's subject: dropped", subject=message.subject)
        elif isinstance(meta, RequestMeta):
            know_trace(named.tenant, named.rid, meta.traceparent)
        self._handle(
            events.Delivered(
                klass=klass,
                model=model,
                subject=named,
                ack=message.ack,
                stream_seq=delivery.stream_seq,
                attempt=delivery.delivered,
                age_s=max(0.0, time.time() - delivery.stored_ns / streams.NS_PER_S),
                meta=meta,
                body=message.payload,
            )
        )

    def _on_fetch_ended(self, klass: Klass, model: ModelKey, unused: int) -> None:
        self._handle(events.FetchEnded(klass, model, unused))

    def _on_pull(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        try:
            pull = dispatch.decode_pull(payload)
        except ValueError as error:
            _log.warning("a pull that cannot be read", error=str(error))
            return
        self._handle(events.PullReceived(pull))

    def _on_edge(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        try:
            beat = dispatch.decode_edge_beat(payload)
        except ValueError as error:
            _log.warning("an edge's heartbeat that cannot be read", error=str(error))
            return
        self._handle(events.EdgeHeard(beat))

    def _on_cancel(self, subject: str, reply: str, _headers: bytes, payload: bytes) -> None:
        name = subjects.parse_cancel(subject)
        if name is None:
            return
        try:
            cancel = dispatch.decode_cancel(payload)
        except ValueError as error:
            _log.warning("a cancel that cannot be read", error=str(error))
            return
        if cancel.close:
            begun = clock.now()
            self._handle(events.CancelWished(*name, cancel.reason, reply))
            self._cancels.count(clock.now() - begun)
        else:
            self._handle(events.CancelHinted(*name))

    def _on_leadership(self, event: events.Event) -> None:
        if isinstance(event, events.LostLeadership):
            while self._probes:  # nobody says of the probed that they are gone any more
                self._bus.forget(self._probes.popitem()[1])
        self._handle(event)

    def _on_answer(
        self, worker: WorkerId, seq: int, count: CountAnswers, headers: bytes, payload: bytes
    ) -> None:
        self._offers.pop((worker, seq), None)
        if status_of(headers) != SERVICE_UNAVAILABLE:
            try:
                reply = dispatch.decode_reply(payload)
            except ValueError as error:
                _log.warning("an answer that cannot be read", worker=worker, error=str(error))
            else:
                count(reply.answers)
                self._handle(events.Answered(worker, seq, reply.answers))
                return
        self._handle(events.OfferFailed(worker, seq))

    def _on_probe(self, worker: WorkerId, headers: bytes, _payload: bytes) -> None:
        self._probes.pop(worker, None)
        self._handle(events.ProbeAnswered(worker, status_of(headers) != SERVICE_UNAVAILABLE))

    # Messages out.

    def _offer(self, offer: events.Offer) -> None:
        worker, seq = offer.worker, offer.work.seq
        on_answer = partial(self._on_answer, worker, seq, self._counting.offer(offer))
        trace = self._spans.trace_of(offer)
        work = replace(offer.work, trace=trace) if trace else offer.work
        token = self._bus.call(subjects.work(worker), dispatch.encode_work(work), on_answer)
        if token:
            self._offers[worker, seq] = token
        else:
            self._handle(events.OfferFailed(worker, seq))

    def _probe(self, worker: WorkerId) -> None:
        self._bus.forget(self._probes.pop(worker, 0))
        token = self._bus.call(subjects.work(worker), b"", partial(self._on_probe, worker))
        if token:
            self._probes[worker] = token

    def _fetch(self, fetch: events.Fetch) -> None:
        """One that cannot be sent is written off by the core like one whose end got lost."""
        for klass, consumer in self._consumers.get(fetch.model, ()):
            if klass == fetch.klass:
                consumer.fetch(fetch.batch, fetch.expires_s)

    async def _ensure_consumers(self, wanted: events.EnsureConsumers) -> None:
        model = wanted.model
        ack_wait_s, queue_max = self._settings.ack_wait_s, self._settings.queue_max
        specs = streams.consumers_of(model, ack_wait_s=ack_wait_s, queue_max=queue_max)
        try:
            await self._ensure_streams()
            if wanted.remake is not None:
                await self._js.delete_consumer(specs[CLASSES.index(wanted.remake)])
            age_s = min([await self._js.ensure_consumer(spec) for spec in specs])
        except (BrokerAway, BrokerRefused) as error:
            _log.warning("consumers not ensured yet", model=model, error=str(error))
            return
        if model not in self._consumers:
            self._consumers[model] = [
                (klass, self._consume(klass, model, spec)) for klass, spec in zip(CLASSES, specs, strict=True)
            ]
        self._handle(events.ConsumersReady(model, age_s))

    def _consume(self, klass: Klass, model: ModelKey, spec: streams.ConsumerSpec) -> Consumer:
        on_end = partial(self._on_fetch_ended, klass, model)
        on_gone = partial(self._handle, events.ConsumerGone(model))
        return self._js.consume(spec, partial(self._on_delivery, klass, model), on_end, on_gone)

    async def _poll_streams(self) -> None:
        while True:
            if self._core.leading and self._bus.connected:
                try:
                    requests = await self._js.usage(streams.REQUESTS)
                    self._figures.stream(streams.REQUESTS, requests)
                    self._handle(events.QueueDepth(requests.messages))
                    output = await self._js.usage(streams.OUTPUT)
                    self._figures.stream(streams.OUTPUT, output)
                    self._handle(events.OutputUsed(output.share))
                except (BrokerAway, BrokerRefused) as error:
                    _log.warning("streams not looked at", error=str(error))
            await asyncio.sleep(STREAMS_INTERVAL_S)

    async def _poll_consumers(self) -> None:
        while True:
            for klass, model in self._core.to_look_at(clock.now()):
                for consumer in [one for of, one in self._consumers.get(model, ()) if of == klass]:
                    spec = consumer.spec
                    try:
                        state = await self._js.consumer_state(spec)
                    except (BrokerAway, BrokerRefused) as error:
                        _log.debug("consumer not looked at", model=model, klass=klass, error=str(error))
                        continue
                    if state is not None:
                        self._figures.consumer(spec.stream, spec.name, state)
                    undelivered = None if state is None else state.num_pending
                    self._handle(events.ConsumerSeen(klass, model, undelivered))
            await asyncio.sleep(CONSUMERS_INTERVAL_S)

    # Time.

    def _arm(self) -> None:
        """One timer for both cores. One that rings too early costs a tick; so it is only ever moved forward."""
        at = min(self._core.next_deadline() or inf, self._leadership.next_deadline())
        if self._closed or at == inf:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - clock.now()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._handle(events.Tick())
        self._leadership.tick()
