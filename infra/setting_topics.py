"""What documentation and `--help` say about the settings, by topic."""

from __future__ import annotations

from typing import NamedTuple

from infra.settings import Settings, shown

STARTS = {
    "engine": "Engine",
    "max_model_len": "vLLM",
    "ctx_size": "llama.cpp",
    "upstream": "Upstream",
    "ttft_ms": "Simulator",
    "api_keys": "Who may ask",
    "queue_mode": "How much",
    "files_bytes_max": "Files and batches",
    "nats_nkey_file": "Broker",
    "trace_sample_ratio": "Traces and metrics",
    "nats_url": "Broker",
    "host": "Processes",
    "broker_port": "Broker",
    "queue_max": "Requests",
    "head_wait_s": "Edge",
    "ack_wait_s": "Scheduler",
    "dead_ttl_s": "Dead letters",
    "append_interval_s": "Worker",
    "drain": "Stopping and logs",
    "ready_file": "Stopping and logs",
}
"""Topics by the setting that each begins with: it holds for those declared after it, up to the next one here."""


class Described(NamedTuple):
    """One setting as documentation shows it."""

    name: str
    default: str
    meaning: str
    topic: str


def describe() -> list[Described]:
    """All settings in the order of declaration."""
    described, topic = [], ""
    for name, field in Settings.model_fields.items():
        topic = STARTS.get(name, topic)
        described.append(Described(name, shown(field.default), str(field.description), topic))
    return described


def by_topic() -> dict[str, list[Described]]:
    """All settings under their topics; what a heading says is left out of what a setting says."""
    topics: dict[str, list[Described]] = {}
    for setting in describe():
        meaning = setting.meaning.removeprefix(f"{setting.topic}: ")
        topics.setdefault(setting.topic, []).append(
            setting._replace(meaning=meaning[0].upper() + meaning[1:])
        )
    return topics


def settings_tables() -> str:
    """The README's tables: one for each topic."""
    return "\n".join(f"### {topic}\n\n{settings_table(topic)}" for topic in by_topic())


def settings_table(topic: str) -> str:
    """One topic's: one markdown row for each setting."""
    rows = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |"
        for name, default, meaning, _ in by_topic()[topic]
    ]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows, ""])
