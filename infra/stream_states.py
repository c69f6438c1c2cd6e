"""How streams and consumers stand, as JetStream's INFO tells it."""

from __future__ import annotations

from typing import Any, NamedTuple


class StreamState(NamedTuple):
    """What a stream holds, how many bytes it may hold (-1: no limit), its first and its last sequence, and how many
    consumers it has."""

    messages: int
    bytes: int
    bytes_max: int
    first_seq: int
    last_seq: int
    consumers: int

    @property
    def share(self) -> float:
        """The share of its bytes that is taken, 0 to 1."""
        return self.bytes / self.bytes_max if self.bytes_max > 0 else 0.0


class ConsumerState(NamedTuple):
    """Where a consumer stands: messages it has yet to deliver for the first time, deliveries that are not settled and
    those of them that were repeated, open fetches; the last delivery, and the one up to which all are settled, each as
    a number of its own and as a sequence of the stream."""

    num_pending: int
    num_ack_pending: int
    num_redelivered: int
    num_waiting: int
    delivered_consumer_seq: int
    delivered_stream_seq: int
    ack_floor_consumer_seq: int
    ack_floor_stream_seq: int


def stream_state(info: dict[str, Any]) -> StreamState:
    """Of an answer to STREAM.INFO."""
    state, bytes_max = info["state"], info["config"]["max_bytes"]
    held = (state["messages"], state["bytes"], bytes_max)
    return StreamState(
        *map(int, held), *(int(state[key]) for key in ("first_seq", "last_seq", "consumer_count"))
    )


def consumer_state(info: dict[str, Any]) -> ConsumerState:
    """Of an answer to CONSUMER.INFO."""
    counts = [info[key] for key in ("num_pending", "num_ack_pending", "num_redelivered", "num_waiting")]
    ends = [info[end][key] for end in ("delivered", "ack_floor") for key in ("consumer_seq", "stream_seq")]
    return ConsumerState(*map(int, [*counts, *ends]))
