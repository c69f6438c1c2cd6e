"""What a scheduler counts: names, labels, meanings. Only the leader knows the system: of a standby `penstock_leader` is
0, its counters stand still and its gauges by model are absent."""

from __future__ import annotations

from infra.metrics.tables import BATCH_SIZES, DURATION_S, Table

TABLE = Table("scheduler")

LEADER = TABLE.gauge("penstock_leader", "Whether this scheduler leads: 0 or 1.")
LEADER_CHANGES = TABLE.counter("penstock_leader_changes_total", "Times this scheduler became the leader.")
QUEUED_REQUESTS = TABLE.gauge(
    "penstock_queued_requests",
    "Requests that no worker has taken yet: those still at the broker and those that the leader holds.",
    "model",
    "klass",
)
HELD_REQUESTS = TABLE.gauge(
    "penstock_held_requests",
    "Requests in the leader's window, whatever becomes of them there: waiting, offered, being read or closed.",
    "model",
)
QUEUE_TIME = TABLE.histogram(
    "penstock_request_queue_time_seconds",
    "From the broker storing a request to a worker taking it for the first time.",
    "model",
    "klass",
    buckets=DURATION_S,
)
BATCH_SIZE = TABLE.histogram(
    "penstock_batch_size", "Requests in a batch, as it was offered to a worker.", "model", buckets=BATCH_SIZES
)
REDELIVERIES = TABLE.counter(
    "penstock_redeliveries_total",
    "Requests that a worker took again, by why: worker_dead, engine_error, hung, handoff, reconnect or redelivered.",
    "cause",
)
WORKERS = TABLE.gauge(
    "penstock_model_workers", "Live workers of a model; those that leave do not count.", "model"
)
SLOTS = TABLE.gauge(
    "penstock_slots", "Requests that live workers can run at the same time; edges repeat it.", "model"
)
FREE_SLOTS = TABLE.gauge(
    "penstock_free_slots", "Slots that can take a request now; edges repeat it.", "model"
)
SATURATION = TABLE.gauge(
    "penstock_saturation", "Share of a model's slots that are taken, 0 to 1; 1 where there are none.", "model"
)
WORKERS_LOST = TABLE.counter(
    "penstock_workers_lost_total",
    "Workers that were taken for dead, by why: disconnected, silent or restarted.",
    "reason",
)
for _reason in ("disconnected", "silent", "restarted"):
    # At 0 from the start: what begins at 1 has not grown for Prometheus, and an alarm would miss the first.
    WORKERS_LOST.labels(_reason)
LEADER_CANCELS = TABLE.counter(
    "penstock_leader_cancels_total",
    "Requests that the leader cancelled: asked to over NATS, or because nobody read them any more.",
)
EXPIRED = TABLE.counter(
    "penstock_expired_total", "Requests that the leader ended because their time was over."
)
REFUSED = TABLE.counter(
    "penstock_refused_total",
    "Requests of direct publishers that the leader ended with an error, by reason: a key of the table of errors.",
    "reason",
)
OUTPUT_USED = TABLE.gauge("penstock_output_used_ratio", "Share of the bytes of OUTPUT that is taken, 0 to 1.")

# What JetStream says, under the names of prometheus-nats-exporter and with those of its labels that tell series apart.
# The leader asks anyway; the streams that it does not look at all the time are asked every few seconds.

STREAM_MESSAGES = TABLE.gauge("jetstream_stream_total_messages", "Messages in a stream.", "stream_name")
STREAM_BYTES = TABLE.gauge("jetstream_stream_total_bytes", "Bytes in a stream.", "stream_name")
STREAM_FIRST_SEQ = TABLE.gauge("jetstream_stream_first_seq", "Its first sequence.", "stream_name")
STREAM_LAST_SEQ = TABLE.gauge("jetstream_stream_last_seq", "Its last sequence.", "stream_name")
STREAM_CONSUMERS = TABLE.gauge("jetstream_stream_consumer_count", "Its consumers.", "stream_name")

_CONSUMER = ("stream_name", "consumer_name")
CONSUMER_PENDING = TABLE.gauge(
    "jetstream_consumer_num_pending",
    "Messages that a consumer has yet to deliver for the first time.",
    *_CONSUMER,
)
CONSUMER_ACK_PENDING = TABLE.gauge(
    "jetstream_consumer_num_ack_pending", "Messages delivered and not settled: held or running.", *_CONSUMER
)
CONSUMER_REDELIVERED = TABLE.gauge(
    "jetstream_consumer_num_redelivered", "Of those, the ones delivered more than once.", *_CONSUMER
)
CONSUMER_WAITING = TABLE.gauge("jetstream_consumer_num_waiting", "Its open fetches.", *_CONSUMER)
CONSUMER_DELIVERED_CONSUMER_SEQ = TABLE.gauge(
    "jetstream_consumer_delivered_consumer_seq", "Deliveries that it has made.", *_CONSUMER
)
CONSUMER_DELIVERED_STREAM_SEQ = TABLE.gauge(
    "jetstream_consumer_delivered_stream_seq", "The last sequence that it has delivered.", *_CONSUMER
)
CONSUMER_ACK_FLOOR_CONSUMER_SEQ = TABLE.gauge(
    "jetstream_consumer_ack_floor_consumer_seq", "The delivery up to which all are settled.", *_CONSUMER
)
CONSUMER_ACK_FLOOR_STREAM_SEQ = TABLE.gauge(
    "jetstream_consumer_ack_floor_stream_seq", "The sequence up to which all are settled.", *_CONSUMER
)

# The same exporter's names for the server itself, where its monitoring port is known.

VARZ = {
    field: TABLE.gauge(f"gnatsd_varz_{field}", meaning, "server_id")
    for field, meaning in (
        ("connections", "Connections to the broker."),
        ("total_connections", "Connections since it started."),
        ("subscriptions", "Its subscriptions."),
        ("slow_consumers", "Connections that were cut off because they did not read."),
        ("in_msgs", "Messages that it got since it started."),
        ("out_msgs", "Messages that it sent."),
        ("in_bytes", "Bytes that it got."),
        ("out_bytes", "Bytes that it sent."),
        ("mem", "Its memory, in bytes."),
        ("cpu", "Its CPU, in percent of one."),
    )
}
