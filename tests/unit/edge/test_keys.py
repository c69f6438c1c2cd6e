"""Which keys are good: the ring, and the file it is made of while it changes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from edge.access.identity import REFUSAL, Access
from edge.access.key_source import LOOK_INTERVAL_S, KeySource
from edge.access.keyring import SECRET_BYTES, KeyRing
from edge.call import Caller, Rate
from infra.keys import Key, KeyFileError, add_key, new_key, remove_key
from infra.settings import SettingsError, load_settings
from schemas.ids import ANONYMOUS, TenantKey

NOW = datetime.now(UTC)
SECRET = bytes(range(SECRET_BYTES))


def made(name: str = "one", expires: datetime | None = None) -> tuple[Key, str]:
    return new_key(name, expires=expires)


def identify(access: Access, *headers: tuple[str, str]) -> Caller | None:
    """None: refused, in the one way there is."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    said = access.identify(Headers(raw=raw), "203.0.113.9")
    if isinstance(said, Caller):
        return said
    assert said is REFUSAL
    return None


def test_a_key_is_found_by_its_text_alone() -> None:
    (one, text), (two, other) = made(), made("two")
    ring = KeyRing([one, two], SECRET)
    assert ring.find(text, NOW) == one
    assert ring.find(other, NOW) == two
    for wrong in ("", one.sha256, text[:-1], text + "x", text.upper(), "\udcff", "ä"):
        assert ring.find(wrong, NOW) is None
    assert KeyRing([], SECRET).find(text, NOW) is None


def test_an_expired_key_is_not_found() -> None:
    key, text = made(expires=NOW + timedelta(hours=1))
    ring = KeyRing([key], SECRET)
    assert ring.find(text, NOW) == key
    assert ring.find(text, NOW + timedelta(hours=1)) is None


def test_where_a_ring_looks_depends_on_its_secret() -> None:
    key, text = made()
    one, other = KeyRing([key], SECRET), KeyRing([key], SECRET[::-1])
    assert one._keys.keys().isdisjoint(other._keys)
    assert one.find(text, NOW) == other.find(text, NOW) == key


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_changed_file_is_read_at_the_next_look(file: Path) -> None:
    (one, text), (two, other) = made(), made("two")
    add_key(file, one)
    clock = Clock()
    source = KeySource(load_settings({"keys_file": str(file)}), clock)
    assert source.ring().find(text, NOW) == one
    add_key(file, two)
    assert source.ring().find(other, NOW) is None, "it was looked at a moment ago"
    clock.now += LOOK_INTERVAL_S
    assert source.ring().find(other, NOW) == two
    remove_key(file, one.id)
    clock.now += LOOK_INTERVAL_S
    assert source.ring().find(text, NOW) is None
    assert source.ring().find(other, NOW) == two


@pytest.mark.parametrize("bad", [b"", b"{", b'{"keys": [{}]}', b'{"keys": [], "more": 1}', None])
def test_a_file_that_went_bad_changes_nothing(file: Path, bad: bytes | None) -> None:
    key, text = made()
    add_key(file, key)
    clock = Clock()
    source = KeySource(load_settings({"keys_file": str(file)}), clock)
    if bad is None:
        file.unlink()
    else:
        file.write_bytes(bad)
    clock.now += LOOK_INTERVAL_S
    assert source.ring().find(text, NOW) == key
    remove = json.dumps({"keys": []})
    file.write_text(remove)
    clock.now += LOOK_INTERVAL_S
    assert source.ring().find(text, NOW) is None


def test_a_change_that_could_not_be_read_is_not_missed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, text = made()
    add_key(file, key)
    clock = Clock()
    source = KeySource(load_settings({"keys_file": str(file)}), clock)
    remove_key(file, key.id)
    with monkeypatch.context() as patched:

        def out_of_descriptors(path: Path) -> list[Key]:
            raise KeyFileError(f"cannot read the key file {path}: Too many open files")

        patched.setattr("edge.access.key_source.read_keys", out_of_descriptors)
        clock.now += LOOK_INTERVAL_S
        assert source.ring().find(text, NOW) == key
    clock.now += LOOK_INTERVAL_S
    assert source.ring().find(text, NOW) is None


@pytest.mark.parametrize("bad", [b"{", None])
def test_a_bad_file_at_the_start_is_a_bad_setting(file: Path, bad: bytes | None) -> None:
    if bad is not None:
        file.write_bytes(bad)
    with pytest.raises(SettingsError, match="keys_file"):
        KeySource(load_settings({"keys_file": str(file)}))


def test_without_keys_everybody_is_its_address(file: Path) -> None:
    access = Access(load_settings({"rate_requests_max": 5, "rate_window_s": 10, "streams_per_key_max": 2}))
    assert identify(access) == Caller(
        id="203.0.113.9", requests=Rate(5, 10), tokens=Rate(0, 10), streams_max=2
    )
    assert identify(access, ("Authorization", "Bearer whatever")) == identify(access)


def test_a_key_brings_its_own_limits_or_takes_those_of_the_settings(file: Path) -> None:
    own, text = new_key(
        "own", tenant="t1", classes=("batch",), requests_per_min=7, tokens_per_min=9, streams_max=3
    )
    plain, other = new_key("Plain Key")
    add_key(file, own)
    add_key(file, plain)
    settings = {"rate_requests_max": 5, "rate_tokens_max": 6, "rate_window_s": 10, "keys_file": str(file)}
    access = Access(load_settings(settings))
    mine = identify(access, ("X-API-Key", text))
    assert mine == Caller(TenantKey("t1"), own.id, ("batch",), Rate(7, 60), Rate(9, 60), 3, own.id)
    theirs = identify(access, ("X-API-Key", other))
    assert theirs is not None
    assert (theirs.requests, theirs.tokens, theirs.streams_max) == (Rate(5, 10), Rate(6, 10), 0)
    assert theirs.tenant.startswith("plain_key-")


def test_what_runs_for_long_asks_in_the_name_of_its_key_while_that_is_good(file: Path) -> None:
    good, _ = new_key("good", tenant="t1", classes=("batch",), requests_per_min=7, streams_max=3)
    other, _ = new_key("other", tenant="t1", classes=("standard",))
    over, _ = new_key("over", tenant="t1", expires=datetime.now(UTC) - timedelta(days=1))
    for key in (good, other, over):
        add_key(file, key)
    tenant = TenantKey("t1")
    access = Access(load_settings({"keys_file": str(file)}))
    mine = access.absent(tenant, good.id, "batch")
    assert mine == Caller(tenant, good.id, ("batch",), Rate(7, 60), key=good.id), "no answer of it is open"
    assert [access.absent(tenant, key_id, "batch") for key_id in (other.id, over.id, "k0")] == [None] * 3
    assert access.absent(TenantKey("t2"), good.id, "batch") is None
    for nobody_s in (
        access.absent(tenant, "", "batch"),
        Access(load_settings({})).absent(tenant, "k", "batch"),
    ):
        assert nobody_s == Caller(tenant, "batch:t1")


def test_keys_of_the_settings_are_one_tenant() -> None:
    access = Access(load_settings({"api_keys": "first second first"}))
    callers = [identify(access, ("X-Api-Key", text)) for text in ("first", "second", "third")]
    assert [caller and (caller.tenant, caller.id) for caller in callers] == [
        (ANONYMOUS, "set-1"),
        (ANONYMOUS, "set-2"),
        None,
    ]


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer good")],
        [("Authorization", "bearer  good ")],
        [("X-API-Key", "good")],
        [("x-api-key", "good")],
        [("api-key", "good")],
        [("Authorization", "Bearer none"), ("X-API-Key", "good")],
        [("Authorization", "Basic good"), ("Authorization", "Bearer good")],
    ],
)
def test_every_way_to_send_a_key(headers: list[tuple[str, str]]) -> None:
    assert identify(Access(load_settings({"api_keys": "good"})), *headers) is not None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "good")],
        [("Authorization", "Basic good")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer good,good")],
        [("X-API-Key", "")],
        [("X-API-Key", "\xff")],
        [("X-API-Key", f"wrong {number}") for number in range(4)] + [("X-API-Key", "good")],
    ],
)
def test_everything_else_is_refused(headers: list[tuple[str, str]]) -> None:
    assert identify(Access(load_settings({"api_keys": "good"})), *headers) is None


def test_a_bad_proxy_is_a_bad_setting() -> None:
    with pytest.raises(SettingsError, match="trusted_proxies"):
        Access(load_settings({"trusted_proxies": "10.0.0.0/8 nonsense"}))
