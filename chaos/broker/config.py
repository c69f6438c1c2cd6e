"""Configurations of streams and consumers as the server completes and checks them."""

from __future__ import annotations

from typing import Any, NamedTuple

NS_PER_S = 1_000_000_000

_DUPLICATE_WINDOW_NS = 120 * NS_PER_S

_STREAM_DEFAULTS: dict[str, Any] = {
    "name": "",
    "subjects": [],
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "duplicate_window": 0,
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
    "metadata": {},
}
_STREAM_OPTIONAL = frozenset(
    {"allow_msg_counter", "description", "discard_new_per_subject", "first_seq", "republish"}
)
_STREAM_VALUES: dict[str, tuple[Any, ...]] = {
    "retention": ("limits", "workqueue"),
    "discard": ("old", "new"),
    "storage": ("file", "memory"),
    "compression": ("none",),
    "sealed": (False,),
    "mirror_direct": (False,),
    "max_consumers": (-1,),
    "max_msg_size": (-1,),
    "allow_msg_ttl": (False,),
}
"""What this broker can do, where it can do less than the real one: anything else is refused, never ignored."""

_CONSUMER_DEFAULTS: dict[str, Any] = {
    "durable_name": "",
    "name": "",
    "deliver_policy": "all",
    "ack_policy": "none",
    "ack_wait": 30 * NS_PER_S,
    "max_deliver": -1,
    "replay_policy": "instant",
    "max_waiting": 512,
    "max_ack_pending": 1000,
    "num_replicas": 0,
    "metadata": {},
}
_CONSUMER_OPTIONAL = frozenset({"description", "filter_subject"})
_CONSUMER_VALUES: dict[str, tuple[Any, ...]] = {
    "deliver_policy": ("all",),
    "ack_policy": ("explicit",),
    "max_deliver": (-1,),
    "replay_policy": ("instant",),
}


class ApiFault(NamedTuple):
    """What the JetStream API answers when it refuses."""

    code: int
    err_code: int
    description: str


class Refused(Exception):
    """A call of the API was refused with `fault`."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(description)
        self.fault = ApiFault(code, err_code, description)


def stream_config(given: dict[str, Any]) -> dict[str, Any]:
    """`given` with what the server adds. Raises Refused."""
    if given.get("allow_msg_counter"):
        _check_counters(given)
    config = _complete(given, _STREAM_DEFAULTS, _STREAM_OPTIONAL, _STREAM_VALUES)
    for limit in ("max_msgs", "max_bytes", "max_msgs_per_subject"):
        config[limit] = config[limit] or -1
    config["subjects"] = config["subjects"] or [config["name"]]
    max_age = config["max_age"]
    if not config["duplicate_window"]:
        config["duplicate_window"] = min(max_age or _DUPLICATE_WINDOW_NS, _DUPLICATE_WINDOW_NS)
    if max_age and config["duplicate_window"] > max_age:
        raise Refused(500, 10052, "duplicates window can not be larger then max age")
    republish = config.get("republish")
    if republish is not None and not (_is_tail(republish["src"]) and _is_tail(republish["dest"])):
        raise Refused(500, 10052, "this broker republishes from one `prefix.>` to another only")
    return config


def consumer_config(given: dict[str, Any], name: str) -> dict[str, Any]:
    """`given` with what the server adds. Raises Refused."""
    config = _complete(given, _CONSUMER_DEFAULTS, _CONSUMER_OPTIONAL, _CONSUMER_VALUES)
    if config["durable_name"] != name:
        raise Refused(400, 10017, "consumer name in subject does not match durable name in request")
    config["name"] = name
    return config


def _check_counters(given: dict[str, Any]) -> None:
    if given.get("discard") == "new":
        raise Refused(500, 10052, "counter stream cannot use discard new")
    if given.get("retention", "limits") != "limits":
        raise Refused(500, 10052, "counter stream can only use limits retention")
    if given.get("allow_msg_ttl"):
        raise Refused(500, 10052, "counter stream cannot use message TTLs")


def _complete(
    given: dict[str, Any],
    defaults: dict[str, Any],
    optional: frozenset[str],
    values: dict[str, tuple[Any, ...]],
) -> dict[str, Any]:
    unknown = [field for field in given if field not in defaults and field not in optional]
    if unknown:
        raise Refused(400, 10025, f'invalid JSON: json: unknown field "{unknown[0]}"')
    # As the server does, an optional field that says nothing is left out.
    config = {**defaults, **{field: value for field, value in given.items() if field in defaults or value}}
    for field, supported in values.items():
        if config[field] not in supported:
            raise Refused(500, 10052, f"this broker has no {field} {config[field]!r}")
    return config


def _is_tail(pattern: str) -> bool:
    return pattern.endswith(".>") and "*" not in pattern and ">" not in pattern[:-1]
