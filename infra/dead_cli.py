"""`penstock dead`: what became of poisoned requests, for people and programs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.access import access_of
from infra.bus import Bus
from infra.dead_letters import DeadLetterError, DeadLetters, Letter
from infra.jetstream import JetStream
from infra.logs import configure_logs
from infra.settings import load_settings, redact, source_of
from infra.store import read_state
from schemas.dead import Tried
from schemas.errors import BrokerAway
from schemas.output import Cause, Failed, Handoff, Lease
from schemas.requests import RequestMeta

CONNECT_TIMEOUT_S = 5.0

dead_app = typer.Typer(
    no_args_is_help=True, help="Poisoned requests: look at them, send them again, drop them."
)

StoreOption = Annotated[Path | None, typer.Option("--store", help="Store directory of the `up` to ask.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
RidArgument = Annotated[str, typer.Argument(help="The request's id.", metavar="RID")]

T = TypeVar("T")

BECAUSE: dict[Cause, str] = {
    "first": "the first attempt",
    "worker_dead": "the worker before it died",
    "engine_error": "the engine raised before it",
    "hung": "the engine hung before it",
    "handoff": "handed over by a worker that stopped",
    "reconnect": "its worker was cut off and came back",
    "redelivered": "nobody had touched the request for too long",
}


class Row(msgspec.Struct, frozen=True):
    """A letter as `list --json` prints it. `klass`, `model` and `tenant` say where it was queued."""

    rid: str
    klass: str
    model: str
    tenant: str
    when: datetime
    reason: str
    message: str
    attempts: int
    tokens: int
    body_bytes: int


class Shown(msgspec.Struct, frozen=True):
    """A letter as `show --json` prints it."""

    letter: Row
    meta: RequestMeta
    history: list[Tried]


@dead_app.command("list")
def list_letters(
    limit: Annotated[int, typer.Option(help="At most so many, the newest first.", min=1, max=10_000)] = 20,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """What was given up, the newest first."""
    rows = [_row(letter) for letter in _ask(store, lambda letters: letters.newest(limit))]
    if as_json:
        print(msgspec.json.encode(rows).decode())
        return
    table = Table(
        "rid", "model", "tenant", "when", "reason", "attempts", "tokens", box=None, header_style="bold"
    )
    for row in rows:
        counts = (str(row.attempts), str(row.tokens))
        table.add_row(row.rid, row.model, row.tenant, _utc(row.when), row.reason, *counts)
    Console().print(table if rows else "no dead letters")


@dead_app.command("show")
def show(
    rid: RidArgument,
    body: Annotated[bool, typer.Option("--body", help="The request's body, and nothing else.")] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """One letter and its story; the body holds what the client asked, so it is shown only if asked for."""
    letter = _ask(store, lambda letters: letters.find(rid))
    if body:
        sys.stdout.buffer.write(letter.body)
        return
    row = _row(letter)
    if as_json:
        print(msgspec.json.encode(Shown(row, letter.meta, letter.told.history)).decode())
        return
    console = Console(highlight=False)
    console.print(f"[bold]{row.rid}[/]  {row.klass} request of {row.tenant} to {row.model}")
    console.print(f"{_utc(row.when)}  {row.reason}: {escape(row.message)}")
    console.print(
        f"{row.attempts} attempts, {row.tokens} tokens; its body has {row.body_bytes} bytes (--body)\n"
    )
    for tried in letter.told.history:
        console.print(escape(_story(tried)))


@dead_app.command("redrive")
def redrive(
    rid: RidArgument,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the letter where it is.")] = False,
    store: StoreOption = None,
) -> None:
    """Sends the request once more, as a new one, and prints its new id."""

    async def send(letters: DeadLetters) -> str:
        return await letters.redrive(await letters.find(rid), keep=keep)

    print(_ask(store, send))


@dead_app.command("drop")
def drop(rid: RidArgument, store: StoreOption = None) -> None:
    """Removes a letter for good."""

    async def remove(letters: DeadLetters) -> None:
        await letters.drop(await letters.find(rid))

    _ask(store, remove)


def _ask(store: Path | None, act: Callable[[DeadLetters], Awaitable[T]]) -> T:
    """Connects, acts, and disconnects."""

    url = _nats_url(store)
    access = access_of(load_settings({"nats_url": url}), "admin")
    failures: list[Exception] = []

    async def run() -> T:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                bus = await Bus.connect(url, name="penstock-dead", fail=failures.append, access=access)
        except TimeoutError:
            raise BrokerAway(f"no broker at {redact(url)} within {CONNECT_TIMEOUT_S:g} s") from None
        try:
            return await act(DeadLetters(JetStream(bus)))
        except BrokerAway as error:
            # Why nobody answers, if the connection has said so, tells more.
            raise (failures or [error])[0] from None
        finally:
            await bus.close()

    configure_logs(load_settings({"log_level": "error"}), role="cli", process_id="dead")
    return asyncio.run(run())


def _nats_url(store: Path | None) -> str:
    """The broker of the `up` that runs in the store, if one is named; else the one that the settings name, else that of
    the `up` that runs here."""
    settings = load_settings({} if store is None else {"store_dir": store})
    state = read_state(settings.store_dir)
    if store is not None:
        if state is None:
            raise DeadLetterError(f"nothing runs in {store}")
        return state.nats_url
    return settings.nats_url if state is None or source_of("nats_url") != "default" else state.nats_url


def _row(letter: Letter) -> Row:
    return Row(
        rid=letter.rid,
        klass=letter.origin.klass,
        model=letter.origin.model,
        tenant=letter.origin.tenant,
        when=letter.when,
        reason=letter.told.reason,
        message=letter.told.message,
        attempts=sum(isinstance(tried.record, Lease) for tried in letter.told.history),
        tokens=letter.told.tokens,
        body_bytes=len(letter.body),
    )


def _story(tried: Tried) -> str:
    match tried.record:
        case Lease(attempt=attempt, worker=worker, cause=cause):
            return f"delivery {attempt} ran on {worker}: {BECAUSE[cause]}"
        case Failed(error=error):
            return f"    the engine raised {error}"
        case Handoff(n=n):
            return f"    given back after {n} tokens"
        case end:
            return f"    ended: {end.reason or end.status}"


def _utc(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%SZ")
