"""JetStream: streams and consumers by name, what clients ask of them, and when they have to be woken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from chaos.broker import protocol
from chaos.broker.alarm import Alarm, CallAt
from chaos.broker.api import Api
from chaos.broker.config import NS_PER_S
from chaos.broker.consumer import Consumer, Outgoing
from chaos.broker.faults import BrokerFaults
from chaos.broker.interest import Interest
from chaos.broker.router import Router
from chaos.broker.stream import Duplicate, Message, Refusal, Stream, copy_headers
from schemas import subjects

StoredTap = Callable[[str, int, str, bytes, bytes], None]
"""Gets (stream, sequence, subject, header block, payload) of a message that was stored."""

RemovedTap = Callable[[str, int, str, str], None]
"""Gets (stream, sequence, subject, why) of a message that left a stream."""

_API = subjects.JS_API.encode()
_ACK = subjects.JS_ACK.encode()
_NEXT = b"CONSUMER.MSG.NEXT."
_DIRECT = b"DIRECT.GET."
_ACK_TOKENS = 9
_BUSY = Refusal(400, 10164, "wrong last sequence")
_EXPECTATION = b"\r\nNats-Expected-Last-Subject-Sequence:"


class JetStream:
    """All streams and consumers of one broker. `call_at` schedules; nothing here blocks or waits."""

    def __init__(
        self, router: Router, faults: BrokerFaults, now: Callable[[], float], call_at: CallAt
    ) -> None:
        self.now = now
        self.streams: dict[str, Stream] = {}
        self.consumers: dict[str, dict[str, Consumer]] = {}
        self.stamps = protocol.Stamps()
        self.stored_taps: list[StoredTap] = []
        self.removed_taps: list[RemovedTap] = []
        self._router = router
        self._faults = faults
        self._call_at = call_at
        self._captures: Interest[Stream] = Interest()
        self._alarms: dict[Stream | Consumer, Alarm] = {}
        self._elections: dict[str, float] = {}
        self._api = Api(self)

    def now_ns(self) -> int:
        """The time in nanoseconds since the epoch."""
        return int(self.now() * NS_PER_S)

    def capture(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bool:
        """A client published; stored if a stream wants the subject. False: none does, or nobody answers for it."""
        found = self._captures.match(subject)
        if not found or not self._has_leader(found[0].name):
            return False
        self._publish(found[0], subject, reply, headers, payload)
        return True

    def call(self, subject: bytes, reply: bytes, payload: bytes) -> bool:
        """A client published to the server itself: an acknowledgement or a call. False: nobody listens there."""
        if subject.startswith(_ACK):
            return self._acknowledge(subject, reply, payload)
        if not subject.startswith(_API):
            return False
        call = subject[len(_API) :]
        if call.startswith(_NEXT):
            return self._fetch(call, reply, payload)
        if call.startswith(_DIRECT):
            return self._direct_get(call, reply, payload)
        tokens = call.split(b".")
        names = 2 if tokens[0] == b"CONSUMER" else 1
        method, (*stream, name) = (
            b".".join(tokens[:-names]),
            [one.decode("latin-1") for one in tokens[-names:]],
        )
        stream_name, consumer_name = (stream[0], name) if stream else (name, "")
        if not self._has_leader(stream_name):
            return False
        answer = self._api.answer(method, stream_name, consumer_name, payload)
        if reply and answer is not None:
            self._answer(reply, b"", answer)
        return True

    def open_stream(self, config: dict[str, Any]) -> Stream:
        """A stream that was not there."""
        stream = Stream(config, self.now(), self._removed)
        self.streams[stream.name] = stream
        self.consumers[stream.name] = {}
        for subject in config["subjects"]:
            self._captures.add(subject.encode(), stream)
        return stream

    def close_stream(self, stream: Stream, why: str = "deleted") -> None:
        """A stream goes, with its consumers and messages."""
        for consumer in list(self.consumers[stream.name].values()):
            self.close_consumer(consumer)
        for seq in list(stream.messages):
            stream.remove(seq, why)
        for subject in stream.config["subjects"]:
            self._captures.remove(subject.encode(), stream)
        self._hush(stream)
        del self.streams[stream.name], self.consumers[stream.name]

    def open_consumer(self, stream: Stream, config: dict[str, Any]) -> Consumer:
        """A consumer that was not there."""
        consumer = Consumer(stream, config, self.now())
        self.consumers[stream.name][consumer.name] = consumer
        return consumer

    def close_consumer(self, consumer: Consumer) -> None:
        """A consumer goes; open fetches are told."""
        self._send(consumer.close())
        self._hush(consumer)
        del self.consumers[consumer.stream.name][consumer.name]

    def redeliver(self, consumer: Consumer, seq: int) -> None:
        """An unsettled message comes back now."""
        if seq in consumer.unsettled:  # it may have been settled while the server stood still
            consumer.come_back(seq, self.now())
            self._pump(consumer)

    def crash(self, *, forget_delivered: bool) -> None:
        """The process is gone: nothing rings any more, memory streams are lost, files stay."""
        for alarm in self._alarms.values():
            alarm.cancel()
        self._alarms.clear()
        for stream in list(self.streams.values()):
            for consumer in self.consumers[stream.name].values():
                consumer.recover(forget_delivered=forget_delivered)
            if stream.config["storage"] == "memory":
                self.close_stream(stream, "lost")

    def recover(self) -> None:
        """The process runs again, on the files that are there."""
        for stream in self.streams.values():
            stream.recover(self.now())
            self._watch(stream)
            for consumer in self.consumers[stream.name].values():
                self._watch(consumer)

    def _publish(self, stream: Stream, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        now = self.now()
        busy, lose_ack = self._faults.busy, self._faults.lose_ack
        if busy is not None and _EXPECTATION in headers and busy(subject.decode()):
            outcome: Message | Duplicate | Refusal = _BUSY
        else:
            outcome = stream.publish(subject, headers, payload, now)
        if isinstance(outcome, Refusal):
            if reply:
                self._answer(reply, b"", _refusal(stream.name, outcome))
            return
        if isinstance(outcome, Message):
            self._stored(stream, outcome)
        if reply and not (lose_ack is not None and lose_ack(subject.decode())):
            self._answer(reply, b"", _confirmation(stream, outcome))
        for consumer in self.consumers[stream.name].values():
            if not consumer.is_idle():
                self._pump(consumer)

    def _stored(self, stream: Stream, message: Message) -> None:
        for consumer in self.consumers[stream.name].values():
            consumer.offer(message)
        if stream.republish is not None:
            self._republish(stream, message, *stream.republish)
        alarm = self._alarms.get(stream)
        if alarm is None or not alarm.is_set:
            self._watch(stream)
        if self.stored_taps:
            subject = message.subject.decode()
            for tap in self.stored_taps:
                tap(stream.name, message.seq, subject, message.headers, message.payload)

    def _republish(self, stream: Stream, message: Message, source: bytes, target: bytes) -> None:
        if not message.subject.startswith(source):
            return
        live = target + message.subject[len(source) :]
        listeners = self._router.listeners(live)
        if not listeners:
            return
        lines = copy_headers(message, stream.name, self.stamps)
        lines += b"Nats-Last-Sequence: %d\r\n" % stream.before(message)
        headers = protocol.with_headers(message.headers, lines)
        self._router.hand_out(listeners, live, b"", headers, message.payload, drop=self._faults.drop_live)

    def _removed(self, stream: Stream, message: Message, why: str) -> None:
        for consumer in self.consumers[stream.name].values():
            consumer.forget(message.seq)
        if self.removed_taps:
            subject = message.subject.decode()
            for tap in self.removed_taps:
                tap(stream.name, message.seq, subject, why)

    def _acknowledge(self, subject: bytes, reply: bytes, body: bytes) -> bool:
        tokens = subject.split(b".")
        consumer = self._consumer(tokens[2], tokens[3]) if len(tokens) == _ACK_TOKENS else None
        if consumer is None:
            return False
        if not (tokens[5].isdigit() and tokens[6].isdigit()):
            return True
        settled = consumer.settle(int(tokens[5]), int(tokens[6]), body, self.now())
        if settled.why and consumer.stream.config["retention"] == "workqueue":
            consumer.stream.remove(int(tokens[5]), settled.why)
        if reply and settled.answered:
            self._answer(reply, b"", b"")
        self._pump(consumer)
        return True

    def _fetch(self, call: bytes, inbox: bytes, body: bytes) -> bool:
        names = call[len(_NEXT) :].split(b".")
        consumer = self._consumer(names[0], names[1]) if len(names) == 2 else None
        if consumer is None:
            return False
        self._send(consumer.fetch(inbox, body, self.now()))
        self._pump(consumer)
        return True

    def _direct_get(self, call: bytes, inbox: bytes, body: bytes) -> bool:
        name, _, subject = call[len(_DIRECT) :].partition(b".")
        stream = self.streams.get(name.decode("latin-1"))
        if stream is None or not stream.config["allow_direct"] or not self._has_leader(stream.name):
            return False
        if subject:
            body = msgspec.json.encode({"last_by_subj": subject.decode("latin-1")})
        for headers, payload in self._api.direct_get(stream, body):
            self._answer(inbox, headers, payload)
        return True

    def _consumer(self, stream: bytes, name: bytes) -> Consumer | None:
        consumers = self.consumers.get(stream.decode("latin-1"))
        consumer = None if consumers is None else consumers.get(name.decode("latin-1"))
        return consumer if consumer is not None and self._has_leader(consumer.stream.name) else None

    def _has_leader(self, stream: str) -> bool:
        """Whether somebody answers for the stream; a new election makes its consumers forget their fetches."""
        until = self._faults.stream_unavailable_until.get(stream)
        if until is None:
            return True
        if self._elections.get(stream) != until:
            self._elections[stream] = until
            for consumer in self.consumers.get(stream, {}).values():
                consumer.drop_fetches()
        return self.now() >= until

    def _pump(self, consumer: Consumer) -> None:
        if not consumer.is_idle() and self._has_leader(consumer.stream.name):
            self._send(consumer.pump(self.now(), self._router.listeners))
        self._watch(consumer)

    def _send(self, outgoing: list[Outgoing]) -> None:
        for inbox, shown, reply, headers, payload in outgoing:
            self._router.deliver(inbox, shown, reply, headers, payload)

    def _answer(self, inbox: bytes, headers: bytes, payload: bytes) -> None:
        self._router.deliver(inbox, inbox, b"", headers, payload)

    def _watch(self, one: Stream | Consumer) -> None:
        """Sees to it that `one` is woken when its time has come."""
        when = one.next_deadline()
        if when is None:
            return
        alarm = self._alarms.get(one)
        if alarm is None:
            alarm = self._alarms[one] = Alarm(self._call_at, lambda: self._ring(one))
        alarm.set(when)

    def _ring(self, one: Stream | Consumer) -> None:
        name = one.name if isinstance(one, Stream) else one.stream.name
        if not self._has_leader(name):
            self._alarms[one].set(self._elections[name])
            return
        if isinstance(one, Stream):
            self._hush(one)  # an emptied stream has no alarm: the next message sets one
            one.expire(self.now())
        else:
            self._send(one.expire(self.now(), self._router.listeners))
        self._watch(one)

    def _hush(self, one: Stream | Consumer) -> None:
        alarm = self._alarms.pop(one, None)
        if alarm is not None:
            alarm.cancel()


def _confirmation(stream: Stream, outcome: Message | Duplicate) -> bytes:
    ending = b',"duplicate": true}'
    if isinstance(outcome, Message):
        ending = b"," + outcome.payload[1:] if stream.counts else b"}"
    return b'{"stream":"%b","seq":%d%b' % (stream.name.encode(), outcome.seq, ending)


def _refusal(stream: str, refusal: Refusal) -> bytes:
    return b'{"error":{"code":%d,"err_code":%d,"description":"%b"},"stream":"%b","seq":0}' % (
        *(refusal.code, refusal.err_code),
        *(refusal.description.encode(), stream.encode()),
    )
