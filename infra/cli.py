"""The `penstock` command. Every setting is an option of every command that starts something: `--itl-ms 5`.

The roles are started as `python -m edge | scheduler | workers`, so this module imports none of them.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import shlex
import signal
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.broker import Broker, BrokerError
from infra.broker_cli import broker_app
from infra.chat import ChatError, chat_once, chat_session
from infra.dead_cli import dead_app
from infra.engine_choice import NoEngine
from infra.engine_settings import REPEATABLE
from infra.keys_cli import keys_app
from infra.notices import Notices
from infra.setting_topics import Described, by_topic
from infra.settings import SettingsError, explain, hand_down, load_settings
from infra.status import StatusError, collect_status, print_status
from infra.store import StoreInUseError, lock_store, read_state
from infra.supervisor import EXIT_CONFIG, EXIT_ERROR, Role
from infra.trace_cli import trace
from infra.up import UpError, role_command, run_up
from schemas.errors import PenstockError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="LLM inference as a durable event pipeline on NATS JetStream.",
)
config_app = typer.Typer(no_args_is_help=True, help="Settings: where each value comes from.")
app.add_typer(config_app, name="config")
app.add_typer(broker_app, name="broker")
app.add_typer(dead_app, name="dead")
app.add_typer(keys_app, name="keys")
app.command()(trace)

# What people type; the name of the setting works as well.
ALIASES = {"nats_url": "--connect", "store_dir": "--store", "slots": "--max-concurrent-requests"}

StoreOption = Annotated[Path | None, typer.Option("--store", help="Store directory of the `up` to ask.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
Overrides = dict[str, str]


def main() -> None:
    """Entry point. What the user can mend is one line on stderr; anything else is a bug with its traceback."""
    try:
        app()
    except (SettingsError, BrokerError, StoreInUseError, NoEngine, UpError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except (ChatError, StatusError, PenstockError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command one option for each setting, after its own. Those that were used, by the setting's name, are its
    first argument."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        others = {parameter.name: options.pop(parameter.name) for parameter in own}
        given = {name: value for name, value in options.items() if value not in (None, [])}
        words = {
            name: shlex.join(value) if isinstance(value, list) else value for name, value in given.items()
        }
        command(words, **others)

    settings = [
        inspect.Parameter(
            setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(setting)
        )
        for topic in by_topic().values()
        for setting in topic
    ]
    parameters = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own), *settings]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__
    return run


def _option(setting: Described) -> Any:
    name = setting.name
    flags = [f"--{name.replace('_', '-')}", *([ALIASES[name]] if name in ALIASES else [])]
    repeatable = name in REPEATABLE
    words = f"{setting.meaning} May be repeated." if repeatable else setting.meaning
    option = typer.Option(
        *flags,
        help=escape(f"{words} [{setting.default}]" if setting.default else words),
        show_default=False,
        metavar="",
        rich_help_panel=setting.topic,
    )
    return Annotated[list[str] | None if repeatable else str | None, option]


@app.command()
@with_settings
def up(overrides: Overrides) -> None:
    """Everything in one terminal: broker, scheduler, workers and edges, restarted when they die."""
    sys.exit(run_up(overrides))


@app.command()
@with_settings
def doctor(overrides: Overrides, as_json: JsonOption = False) -> None:
    """What is installed, what is missing, which command gets it, and what `up` would run; 0 if it would work."""
    _become("worker", overrides, "--doctor", *(["--json"] if as_json else []))


@broker_app.callback(invoke_without_command=True)
@with_settings
def broker(overrides: Overrides, context: typer.Context) -> None:
    """The embedded nats-server alone, in the foreground; or one that lets in only whom it knows."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings(overrides)
    lock_store(settings.store_dir)
    server = Broker(settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: server.terminate())
    server.start(output=sys.stderr.buffer)
    Notices().ready()
    print(f"penstock: broker at {server.url}, monitoring at {server.monitor_url}", file=sys.stderr)
    sys.exit(server.wait())


@app.command()
@with_settings
def edge(overrides: Overrides) -> None:
    """One edge: HTTP in, event streams out."""
    _become("edge", overrides)


@app.command()
@with_settings
def scheduler(overrides: Overrides) -> None:
    """One scheduler; the first one leads, others stand by."""
    _become("scheduler", overrides)


@app.command()
@with_settings
def worker(overrides: Overrides) -> None:
    """One worker: one model on one engine."""
    _become("worker", overrides)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def chaos(context: typer.Context) -> None:
    """Break a system of real processes on purpose, check what came of it, write a report; from a checkout."""
    if importlib.util.find_spec("chaos") is None:
        sys.exit("penstock: chaos is not part of an installation: run it from a checkout of the repository")
    os.execv(sys.executable, [sys.executable, "-m", "chaos.real", *context.args])


@app.command()
def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="What to say; without it the chat is interactive.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Server; default: the one that `up` runs.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; default: the first one served.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.", min=1)] = None,
    store: StoreOption = None,
) -> None:
    """Talk to the model; the answer streams in."""
    url = url or _url_of(store)
    if prompt is None:
        chat_session(url, model, max_tokens)
    else:
        chat_once(url, model, max_tokens, prompt)


@app.command()
def status(
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """What runs, and how much waits."""
    report = collect_status(_store_dir(store))
    print_status(report, as_json=as_json)


@config_app.command("show")
@with_settings
def config_show(overrides: Overrides) -> None:
    """Every setting, its value and where it comes from; secrets are hidden."""
    table = Table("setting", "value", "source", box=None, header_style="bold")
    for name, value, source in explain(overrides):
        table.add_row(name, escape(value), source, style="dim" if source == "default" else "")
    Console().print(table)


@app.command("version")
def show_version() -> None:
    """The version of Penstock."""
    try:
        print(version("penstock"))
    except PackageNotFoundError:
        print("not installed: runs from a checkout")


def _become(role: Role, overrides: Overrides, *words: str) -> None:
    """Turns this process into one of the role's."""
    load_settings(overrides)
    handed = hand_down(overrides)
    command = role_command(role, [*words, *handed.words])
    os.execve(command[0], command, handed.environment)


def _store_dir(store: Path | None) -> Path:
    return load_settings({} if store is None else {"store_dir": store}).store_dir


def _url_of(store: Path | None) -> str:
    """The server that `up` runs in this store, else where the settings say that an edge listens."""
    settings = load_settings({} if store is None else {"store_dir": store})
    state = read_state(settings.store_dir)
    return state.url if state else f"http://{settings.host}:{settings.port}"


if __name__ == "__main__":
    main()
