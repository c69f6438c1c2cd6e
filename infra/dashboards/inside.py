"""The dashboards of what the service runs on: machines and broker, and how it recovers."""

from __future__ import annotations

from infra.dashboards.panels import Board, Panel, Query, Row, quantiles, rate


def _gpu(title: str, says: str, expr: str, unit: str) -> Panel:
    return Panel(title, says, [Query(expr, "{{Hostname}} {{gpu}}", "gpu")], unit, width=8)


_MEMORY = "(DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)"

INFRASTRUCTURE = Board(
    "penstock-infrastructure",
    "Penstock: infrastructure",
    "GPUs (by NVIDIA's DCGM exporter), processes, and the broker.",
    [
        Row(
            "GPUs",
            [
                _gpu(
                    "Utilisation",
                    "The share of time in which a kernel ran.",
                    "DCGM_FI_DEV_GPU_UTIL",
                    "percent",
                ),
                _gpu("Memory used", "Memory that is taken.", "DCGM_FI_DEV_FB_USED", "decmbytes"),
                _gpu(
                    "Memory share",
                    "Memory that is taken, of all.",
                    f"DCGM_FI_DEV_FB_USED / {_MEMORY}",
                    "percentunit",
                ),
                _gpu("Temperature", "Of the GPU.", "DCGM_FI_DEV_GPU_TEMP", "celsius"),
                _gpu("Power", "That the GPU draws.", "DCGM_FI_DEV_POWER_USAGE", "watt"),
                _gpu("Memory", "That each GPU has.", _MEMORY, "decmbytes"),
            ],
        ),
        Row(
            "Processes",
            [
                Panel(
                    "CPU",
                    "Cores that each process uses.",
                    [Query("rate(process_cpu_seconds_total[$__rate_interval])", "{{role}} {{process}}")],
                    width=8,
                ),
                Panel(
                    "Memory",
                    "Resident memory of each process.",
                    [Query("process_resident_memory_bytes", "{{role}} {{process}}")],
                    "bytes",
                    width=8,
                ),
                Panel(
                    "Open files",
                    "Of each process; connections are files, too.",
                    [Query("process_open_fds", "{{role}} {{process}}")],
                    width=8,
                ),
            ],
        ),
        Row(
            "Broker",
            [
                Panel(
                    "Messages",
                    "That each stream holds. REQUESTS: what is queued or running.",
                    [Query("max by (stream_name) (jetstream_stream_total_messages)", "{{stream_name}}")],
                    width=8,
                ),
                Panel(
                    "Bytes",
                    "That each stream holds.",
                    [Query("max by (stream_name) (jetstream_stream_total_bytes)", "{{stream_name}}")],
                    "bytes",
                    width=8,
                ),
                Panel(
                    "Room for output",
                    "The share of OUTPUT's bytes that is taken: from 80 % on edges refuse new requests.",
                    [Query("max(penstock_output_used_ratio)", "used")],
                    "percentunit",
                    width=8,
                ),
                Panel(
                    "Appends",
                    "How long the broker takes to store tokens.",
                    quantiles("penstock_append_latency_seconds"),
                    "s",
                ),
                Panel(
                    "Connections",
                    "Processes that are connected to the broker, and all there are.",
                    [
                        Query("sum(penstock_broker_connected)", "connected"),
                        Query("count(penstock_build_info)", "processes"),
                    ],
                ),
            ],
        ),
    ],
)

RECOVERY = Board(
    "penstock-recovery",
    "Penstock: recovery",
    "What failed, and what was done about it. Nothing here is lost work unless a panel says so.",
    [
        Row(
            "What failed",
            [
                Panel(
                    "Workers lost",
                    "In a second, by how it was noticed.",
                    [rate("penstock_workers_lost_total", "reason")],
                    width=8,
                ),
                Panel(
                    "Leader changes",
                    "In the last hour.",
                    [Query("sum(increase(penstock_leader_changes_total[1h]))", "changes")],
                    width=8,
                ),
                Panel(
                    "Leaders", "One, but for moments.", [Query("sum(penstock_leader)", "leaders")], width=8
                ),
            ],
        ),
        Row(
            "What was done",
            [
                Panel(
                    "Redeliveries",
                    "Requests given to a worker again, in a second, by cause.",
                    [rate("penstock_redeliveries_total", "cause")],
                    width=8,
                ),
                Panel(
                    "Attempts",
                    "Of workers, in a second, by cause: `first` is no repeat.",
                    [rate("penstock_attempts_total", "cause")],
                    width=8,
                ),
                Panel(
                    "Readers that went back",
                    "To the log, in a second: edges over a gap, clients with an event id.",
                    [
                        rate("penstock_replays_total", legend="edges"),
                        rate("penstock_resumes_total", legend="clients"),
                    ],
                    width=8,
                ),
                Panel(
                    "Cancels",
                    "In a second.",
                    [
                        rate("penstock_cancels_total", legend="by edges"),
                        rate("penstock_leader_cancels_total", legend="by the leader"),
                    ],
                    width=8,
                ),
                Panel(
                    "Time until a cancelled slot is free",
                    "On its worker, from the hint on.",
                    quantiles("penstock_cancel_to_free_seconds"),
                    "s",
                    width=8,
                ),
                Panel(
                    "Unfinished deliveries",
                    "That consumers wait for an acknowledgement of, and that were delivered before.",
                    [
                        Query("sum(max by (consumer_name) (jetstream_consumer_num_ack_pending))", "pending"),
                        Query(
                            "sum(max by (consumer_name) (jetstream_consumer_num_redelivered))", "redelivered"
                        ),
                    ],
                    width=8,
                ),
            ],
        ),
        Row(
            "What it cost",
            [
                Panel(
                    "Tokens of workers",
                    "In a second: made, read back from logs, and made for nothing.",
                    [rate("penstock_tokens_total", "kind")],
                    width=8,
                ),
                Panel(
                    "Leases lost",
                    "Appends of attempts that had been replaced, in a second.",
                    [rate("penstock_lease_conflicts_total", legend="conflicts")],
                    width=8,
                ),
                Panel(
                    "Poison",
                    "Requests given up because they brought down each worker that took them: these did fail.",
                    [Query("sum(increase(penstock_poisoned_total[1h]))", "in the last hour")],
                    width=8,
                ),
            ],
        ),
    ],
)
