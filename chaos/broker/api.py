"""The JetStream API: requests in JSON to streams and consumers, and their answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from chaos.broker import protocol
from chaos.broker.config import ApiFault, Refused, consumer_config, stream_config
from chaos.broker.consumer import Consumer
from chaos.broker.interest import overlap
from chaos.broker.stream import Message, Stream, copy_headers

_TYPE = "io.nats.jetstream.api.v1."
_NEVER = "0001-01-01T00:00:00Z"
_BATCH_MAX = 1024
"""Messages of one direct get, at most."""

_SUBJECTS_MAX = 100_000
"""Subjects in one answer, at most."""

_Answer = dict[str, Any]


class Host(Protocol):
    """What the API needs of the broker around it."""

    streams: dict[str, Stream]
    consumers: dict[str, dict[str, Consumer]]
    stamps: protocol.Stamps

    def now(self) -> float: ...
    def now_ns(self) -> int: ...
    def open_stream(self, config: dict[str, Any]) -> Stream: ...
    def close_stream(self, stream: Stream) -> None: ...
    def open_consumer(self, stream: Stream, config: dict[str, Any]) -> Consumer: ...
    def close_consumer(self, consumer: Consumer) -> None: ...


class _MessageQuery(msgspec.Struct):
    """Which stored message, for MSG.GET and DIRECT.GET."""

    seq: int = 0
    last_by_subj: str = ""
    next_by_subj: str = ""
    batch: int = 0


_query = msgspec.json.Decoder(_MessageQuery)
_object = msgspec.json.Decoder(dict[str, Any])


class Api:
    """Answers the calls; one method each. Unknown calls get no answer, as from the real server."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._calls = {
            b"STREAM.CREATE": ("stream_create_response", self._stream_create),
            b"STREAM.INFO": ("stream_info_response", self._stream_info),
            b"STREAM.PURGE": ("stream_purge_response", self._stream_purge),
            b"STREAM.DELETE": ("stream_delete_response", self._stream_delete),
            b"STREAM.MSG.GET": ("stream_msg_get_response", self._msg_get),
            b"STREAM.MSG.DELETE": ("stream_msg_delete_response", self._msg_delete),
            b"CONSUMER.CREATE": ("consumer_create_response", self._consumer_create),
            b"CONSUMER.INFO": ("consumer_info_response", self._consumer_info),
            b"CONSUMER.DELETE": ("consumer_delete_response", self._consumer_delete),
        }

    def answer(self, call: bytes, stream: str, consumer: str, body: bytes) -> bytes | None:
        """The JSON answer to a call, None for a call that does not exist."""
        known = self._calls.get(call)
        if known is None:
            return None
        kind, method = known
        answer: _Answer = {"type": _TYPE + kind}
        try:
            answer |= method(stream, consumer, body)
        except Refused as refused:
            answer["error"] = _error(refused.fault)
        except msgspec.DecodeError as error:
            answer["error"] = _error(ApiFault(400, 10025, f"invalid JSON: {error}"))
        return msgspec.json.encode(answer)

    def direct_get(self, stream: Stream, body: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The (header block, payload) of each message that answers a direct get."""
        try:
            query = _query.decode(body) if body else _MessageQuery()
        except msgspec.DecodeError:
            yield protocol.status(b"408 Malformed Request"), b""
            return
        if query.batch and (query.seq or query.next_by_subj):
            yield from self._direct_batch(stream, query)
            return
        if not (query.seq or query.last_by_subj or query.next_by_subj):
            yield protocol.status(b"408 Empty Request"), b""
            return
        message = _find(stream, query)
        if message is None:
            yield protocol.status(b"404 Message Not Found"), b""
            return
        lines = copy_headers(message, stream.name, self._host.stamps)
        yield protocol.with_headers(message.headers, lines), message.payload

    def _direct_batch(self, stream: Stream, query: _MessageQuery) -> Iterator[tuple[bytes, bytes]]:
        found = stream.sequences(query.next_by_subj.encode() or b">", query.seq)
        if not found:
            yield protocol.status(b"404 Message Not Found"), b""
            return
        batch = min(query.batch, _BATCH_MAX)
        last = 0
        for index, seq in enumerate(found[:batch], 1):
            message = stream.messages[seq]
            pending = b"Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n" % (len(found) - index, last)
            lines = copy_headers(message, stream.name, self._host.stamps) + pending
            yield protocol.with_headers(message.headers, lines), message.payload
            last = seq
        left = max(0, len(found) - batch)
        yield (
            protocol.status(b"204 EOB", b"Nats-Num-Pending: %d" % left, b"Nats-Last-Sequence: %d" % last),
            b"",
        )

    def _stream_create(self, name: str, _consumer: str, body: bytes) -> _Answer:
        given = _object.decode(body)
        if given.get("name") != name:
            raise Refused(400, 10056, "stream name in subject does not match request")
        config = stream_config(given)
        stream = self._host.streams.get(name)
        if stream is not None and stream.config != config:
            raise Refused(400, 10058, "stream name already in use with a different configuration")
        if stream is None:
            taken = [one for other in self._host.streams.values() for one in other.config["subjects"]]
            if any(overlap(mine.encode(), one.encode()) for mine in config["subjects"] for one in taken):
                raise Refused(400, 10065, "subjects overlap with an existing stream")
            stream = self._host.open_stream(config)
        return {**self._stream_facts(stream), "did_create": True}

    def _stream_info(self, name: str, _consumer: str, body: bytes) -> _Answer:
        stream = self._stream(name)
        answer = {"total": 0, "offset": 0, "limit": 0, **self._stream_facts(stream)}
        asked = _object.decode(body) if body else {}
        if asked.get("subjects_filter"):
            counts = stream.counts_by_subject(asked["subjects_filter"].encode())
            offset = asked.get("offset", 0)
            page = dict(sorted(counts.items())[offset : offset + _SUBJECTS_MAX])
            answer |= {"total": len(counts), "offset": offset, "limit": _SUBJECTS_MAX}
            answer["state"] |= {"subjects": page} if page else {}
        return answer

    def _stream_delete(self, name: str, _consumer: str, _body: bytes) -> _Answer:
        self._host.close_stream(self._stream(name))
        return {"success": True}

    def _stream_purge(self, name: str, _consumer: str, body: bytes) -> _Answer:
        stream = self._stream(name)
        pattern = _object.decode(body).get("filter", ">") if body else ">"
        purged = stream.sequences(pattern.encode(), 0)
        for seq in purged:
            stream.remove(seq, "purged")
        return {"success": True, "purged": len(purged)}

    def _msg_get(self, name: str, _consumer: str, body: bytes) -> _Answer:
        stream = self._stream(name)
        query = _query.decode(body) if body else _MessageQuery()
        if bool(query.last_by_subj) == bool(query.seq or query.next_by_subj):
            raise Refused(400, 10003, "bad request")
        message = _find(stream, query)
        if message is None:
            raise Refused(404, 10037, "no message found")
        found = {
            "subject": message.subject.decode(),
            "seq": message.seq,
            "data": base64.b64encode(message.payload).decode(),
            "time": self._host.stamps.text(message.stored_ns).decode(),
        }
        if message.headers:
            found["hdrs"] = base64.b64encode(message.headers).decode()
        return {"message": found}

    def _msg_delete(self, name: str, _consumer: str, body: bytes) -> _Answer:
        stream = self._stream(name)
        seq = _object.decode(body).get("seq", 0) if body else 0
        if not seq:
            raise Refused(400, 10003, "bad request")
        if stream.config["deny_delete"]:
            raise Refused(500, 10057, "message delete not permitted")
        if not stream.remove(seq, "deleted"):
            if stream.config["storage"] == "memory":
                raise Refused(400, 10043, f"sequence {seq} not found")
            raise Refused(500, 10057, "stream store EOF" if seq > stream.last_seq else "no message found")
        return {"success": True}

    def _consumer_create(self, name: str, consumer_name: str, body: bytes) -> _Answer:
        stream = self._stream(name)
        request = _object.decode(body)
        config = consumer_config(request.get("config", {}), consumer_name)
        consumers = self._host.consumers[name]
        consumer = consumers.get(consumer_name)
        if consumer is not None and consumer.config != config:
            if request.get("action") == "create":
                raise Refused(400, 10148, "consumer already exists")
            raise Refused(500, 10052, "this broker does not change consumers")
        if consumer is None:
            if stream.config["retention"] == "workqueue":
                _check_unique(config, consumers)
            consumer = self._host.open_consumer(stream, config)
        return self._consumer_facts(consumer)

    def _consumer_info(self, name: str, consumer_name: str, _body: bytes) -> _Answer:
        return self._consumer_facts(self._consumer(name, consumer_name))

    def _consumer_delete(self, name: str, consumer_name: str, _body: bytes) -> _Answer:
        self._host.close_consumer(self._consumer(name, consumer_name))
        return {"success": True}

    def _stream(self, name: str) -> Stream:
        stream = self._host.streams.get(name)
        if stream is None:
            raise Refused(404, 10059, "stream not found")
        return stream

    def _consumer(self, stream: str, name: str) -> Consumer:
        self._stream(stream)
        consumer = self._host.consumers[stream].get(name)
        if consumer is None:
            raise Refused(404, 10014, "consumer not found")
        return consumer

    def _stream_facts(self, stream: Stream) -> _Answer:
        first = stream.messages.get(stream.first_seq)
        state = {
            "messages": len(stream.messages),
            "bytes": stream.bytes,
            "first_seq": stream.first_seq if stream.last_seq else 0,
            "first_ts": self._time(first.stored_ns) if first else _NEVER,
            "last_seq": stream.last_seq,
            "last_ts": self._time(stream.last_ns) if stream.last_ns else _NEVER,
            "consumer_count": len(self._host.consumers[stream.name]),
        }
        if stream.messages:
            state["num_subjects"] = stream.subject_count
            deleted = stream.last_seq - stream.first_seq + 1 - len(stream.messages)
            state |= {"num_deleted": deleted} if deleted else {}
        return {
            "config": stream.config,
            "created": self._time(stream.created_ns),
            "state": state,
            "cluster": {"leader": "penstock"},
            "ts": self._time(self._host.now_ns()),
        }

    def _consumer_facts(self, consumer: Consumer) -> _Answer:
        unsettled = consumer.unsettled
        floor = min(unsettled, default=consumer.last_seq + 1) - 1
        return {
            "stream_name": consumer.stream.name,
            "name": consumer.name,
            "created": self._time(consumer.created_ns),
            "config": consumer.config,
            "delivered": {"consumer_seq": consumer.last_delivery, "stream_seq": consumer.last_seq},
            "ack_floor": {"consumer_seq": consumer.floor(), "stream_seq": floor},
            "num_ack_pending": len(unsettled),
            "num_redelivered": len(consumer.delivered),
            "num_waiting": len(consumer.waiting),
            "num_pending": len(consumer.todo),
            "ts": self._time(self._host.now_ns()),
        }

    def _time(self, time_ns: int) -> str:
        return self._host.stamps.text(time_ns).decode()


def _find(stream: Stream, query: _MessageQuery) -> Message | None:
    if query.last_by_subj:
        return stream.messages.get(stream.last_of(query.last_by_subj.encode()))
    if query.next_by_subj:
        found = stream.sequences(query.next_by_subj.encode(), query.seq)
        return stream.messages[found[0]] if found else None
    return stream.messages.get(query.seq)


def _check_unique(config: dict[str, Any], consumers: dict[str, Consumer]) -> None:
    """A work queue hands a message to one consumer only, so their filters must not overlap."""
    filter_subject = config.get("filter_subject", "").encode()
    for other in consumers.values():
        if not filter_subject or not other.filter:
            raise Refused(400, 10099, "multiple non-filtered consumers not allowed on workqueue stream")
        if overlap(filter_subject, other.filter):
            raise Refused(400, 10100, "filtered consumer not unique on workqueue stream")


def _error(fault: ApiFault) -> _Answer:
    return {"code": fault.code, "err_code": fault.err_code, "description": fault.description}
