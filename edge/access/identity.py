"""Who a request comes from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from starlette.datastructures import Headers

from edge.access.addresses import client_of, is_loopback, networks_of
from edge.access.key_source import KeySource
from edge.call import Caller, Rate
from edge.errors import Problem
from infra.keys import Key
from infra.logs import get_logger
from infra.settings import Settings, SettingsError
from schemas.ids import TenantKey
from schemas.requests import Klass

KEY_HEADERS = ("x-api-key", "api-key")
"""Besides `Authorization: Bearer`: those of Anthropic's and Azure's clients."""

KEYS_PER_REQUEST_MAX = 4
"""A client that must send some bearer may send its key beside it; nobody tries out a list."""

KEY_RATE_WINDOW_S = 60
"""What a key says of itself, it says per minute."""

REFUSAL = Problem(
    "invalid_api_key",
    "a valid API key is needed: send it as `Authorization: Bearer` or `X-API-Key`",
    headers=((b"www-authenticate", b"Bearer"),),
)
"""One answer for a key that is missing, unknown, revoked or expired: it must not tell which."""

_log = get_logger("edge.access")


class Access:
    """Without keys everybody is one tenant, and limits count by address. Raises SettingsError."""

    def __init__(self, settings: Settings) -> None:
        self._keys = KeySource(settings)
        try:
            self._proxies = networks_of(settings.trusted_proxies)
        except ValueError as error:
            raise SettingsError(f"bad setting trusted_proxies: {error}") from None
        self._requests = Rate(settings.rate_requests_max, settings.rate_window_s)
        self._tokens = Rate(settings.rate_tokens_max, settings.rate_window_s)
        self._streams_max = settings.streams_per_key_max
        if not self._keys.is_on and not is_loopback(settings.host):
            _log.warning(
                "anybody who reaches this address may ask: set api_keys or keys_file", host=settings.host
            )

    def identify(self, headers: Headers, address: str) -> Caller | Problem:
        """`address` is the other end of the connection."""
        if not self._keys.is_on:
            forwarded = headers.getlist("x-forwarded-for")
            return Caller(
                id=client_of(address, forwarded, self._proxies),
                requests=self._requests,
                tokens=self._tokens,
                streams_max=self._streams_max,
            )
        ring, now = self._keys.ring(), datetime.now(UTC)
        found = [ring.find(text, now) for text in _presented(headers)]
        key = next((key for key in found if key is not None), None)
        return REFUSAL if key is None else self._caller(key)

    def absent(self, tenant: TenantKey, key_id: str, klass: Klass) -> Caller | None:
        """Who asks in the name of a key that made something that runs for long: whatever rates the key has now hold for
        it, while none of its answers is open. None: the key is good no more, or not for this. `key_id` is empty where
        none was needed."""
        if not key_id or not self._keys.is_on:
            return Caller(tenant, f"{klass}:{tenant}")
        key = self._keys.ring().named(key_id, datetime.now(UTC))
        if key is None or key.tenant != tenant or klass not in key.classes:
            return None
        return replace(self._caller(key), streams_max=0)

    def _caller(self, key: Key) -> Caller:
        return Caller(
            tenant=TenantKey(key.tenant),
            id=key.id,
            classes=key.classes,
            requests=Rate(key.requests_per_min, KEY_RATE_WINDOW_S)
            if key.requests_per_min
            else self._requests,
            tokens=Rate(key.tokens_per_min, KEY_RATE_WINDOW_S) if key.tokens_per_min else self._tokens,
            streams_max=key.streams_max or self._streams_max,
            key=key.id,
        )


def _presented(headers: Headers) -> list[str]:
    """The keys that came along, in the order in which they are believed; one at least, so that none costs as much."""
    keys = []
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            keys.append(key.strip())
    for name in KEY_HEADERS:
        keys += [value.strip() for value in headers.getlist(name)]
    return keys[:KEYS_PER_REQUEST_MAX] or [""]
