"""`penstock keys`: who may ask, for people and programs."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from infra.keys import Key, KeyFileError, add_key, new_key, read_keys, remove_key
from infra.settings import load_settings
from schemas.requests import CLASSES, Klass

keys_app = typer.Typer(no_args_is_help=True, help="API keys: make, list and revoke them.")

FileOption = Annotated[
    Path | None, typer.Option("--file", help="The key file; default: the setting keys_file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LIFE = re.compile(r"([1-9][0-9]{0,5})([mhdw])")


class Made(msgspec.Struct, frozen=True):
    """A new key as `create --json` prints it: the only time that `key`, its text, is seen."""

    key: str
    id: str
    name: str
    tenant: str
    expires: datetime | None


class Shown(msgspec.Struct, frozen=True):
    """A key as `list --json` prints it."""

    id: str
    name: str
    tenant: str
    classes: tuple[Klass, ...]
    requests_per_min: int
    tokens_per_min: int
    streams_max: int
    created: datetime
    expires: datetime | None
    expired: bool


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who gets it.", metavar="NAME")],
    tenant: Annotated[
        str, typer.Option(help="Whose requests it may see and count for; default: made of the name.")
    ] = "",
    klass: Annotated[
        list[str] | None,
        typer.Option("--class", help="A class it may ask for; may be repeated. Default: all."),
    ] = None,
    rpm: Annotated[int, typer.Option(help="Requests a minute; 0: what the settings say.", min=0)] = 0,
    tpm: Annotated[int, typer.Option(help="Tokens a minute; 0: what the settings say.", min=0)] = 0,
    streams: Annotated[
        int, typer.Option(help="Answers open at the same time; 0: what the settings say.", min=0)
    ] = 0,
    expires: Annotated[str, typer.Option(help="A day, `2027-01-31`, or how long, `90d`, `12h`.")] = "",
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes a key and prints it, this once: only its SHA-256 is kept."""
    path = _path(file)
    key, text = new_key(
        name,
        tenant=tenant,
        classes=_classes(klass or []),
        requests_per_min=rpm,
        tokens_per_min=tpm,
        streams_max=streams,
        expires=_expiry(expires, datetime.now(UTC)),
    )
    add_key(path, key)
    if as_json:
        print(msgspec.json.encode(Made(text, key.id, key.name, key.tenant, key.expires)).decode())
        return
    print(f"key {key.id} of tenant {key.tenant}; it is not shown again:", file=sys.stderr)
    print(text)


@keys_app.command("list")
def list_keys(file: FileOption = None, as_json: JsonOption = False) -> None:
    """Every key, without its text: nobody has that but its owner."""
    now = datetime.now(UTC)
    keys = read_keys(_path(file))
    if as_json:
        print(msgspec.json.encode([_shown(key, now) for key in keys]).decode())
        return
    table = Table(
        "id", "name", "tenant", "classes", "rpm", "tpm", "streams", "expires", box=None, header_style="bold"
    )
    for key in keys:
        limits = [str(n or "") for n in (key.requests_per_min, key.tokens_per_min, key.streams_max)]
        classes = "all" if set(key.classes) == set(CLASSES) else " ".join(key.classes)
        until = "" if key.expires is None else key.expires.strftime("%Y-%m-%d %H:%MZ")
        until = f"{until} (over)" if key.is_expired(now) else until
        table.add_row(key.id, key.name, key.tenant, classes, *limits, until)
    Console().print(table if keys else "no keys")


@keys_app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="Its name or id.", metavar="NAME|ID")],
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Takes a key back: within two seconds no edge that reads this file takes it any more."""
    gone = remove_key(_path(file), key)
    if as_json:
        print(msgspec.json.encode(_shown(gone, datetime.now(UTC))).decode())
        return
    print(f"revoked {gone.id} ({gone.name})")


def _path(file: Path | None) -> Path:
    if file is not None:
        return file
    if not (name := load_settings().keys_file):
        raise KeyFileError("which key file? set keys_file (PENSTOCK_KEYS_FILE), or say --file")
    return Path(name)


def _classes(names: list[str]) -> tuple[Klass, ...]:
    chosen = tuple(klass for klass in CLASSES if klass in names)
    if len(chosen) < len(set(names)):
        raise KeyFileError(f"a class is one of {', '.join(CLASSES)}")
    return chosen or CLASSES


def _expiry(text: str, now: datetime) -> datetime | None:
    if not text:
        return None
    if match := _LIFE.fullmatch(text):
        return (now + timedelta(**{_UNITS[match[2]]: int(match[1])})).replace(microsecond=0)
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise KeyFileError(
            f"--expires {text}: a day such as 2027-01-31, or a time such as 90d or 12h"
        ) from None
    return day if day.tzinfo is not None else day.replace(tzinfo=UTC)


def _shown(key: Key, now: datetime) -> Shown:
    return Shown(
        id=key.id,
        name=key.name,
        tenant=key.tenant,
        classes=key.classes,
        requests_per_min=key.requests_per_min,
        tokens_per_min=key.tokens_per_min,
        streams_max=key.streams_max,
        created=key.created,
        expires=key.expires,
        expired=key.is_expired(now),
    )
