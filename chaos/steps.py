"""What the steps of a plan do to a world: commands of clients and operators, and faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chaos.cancels import Canceller
from chaos.clients import Letter, NatsClient, Reader, Wish
from chaos.network import Line
from chaos.plan import LETTER_MODEL
from chaos.virtual import unix_s
from schemas import subjects

if TYPE_CHECKING:
    from chaos.world import World

What = dict[str, Any]


def ask(world: World, what: What) -> None:
    """A client asks an edge."""
    for after_s, edge in what.get("again", ()):
        # As somebody does who has not got an answer, or does not know that there was one.
        world.count["asked again"] += 1
        world.later(after_s, ask, world, what | {"again": (), "edge": edge, "leave_after_s": None})
    wish = Wish(
        number=what["number"],
        klass=what["klass"],
        body=what["body"].encode(),
        dialect=what["dialect"],
        streams=what["streams"],
        leave_after_s=what["leave_after_s"],
        read_every_s=what["read_every_s"],
        on_disconnect=what.get("on_disconnect"),
        key=what.get("key"),
        comes_back=tuple(what.get("comes_back", ())),
        deadline_s=what.get("deadline_s"),
        tries_again=what.get("tries_again", 0),
        tried=what.get("tried", 0),
    )
    edges = [machine for machine in world.machines.values() if machine.role == "edge"]

    def was_lost(rid: str) -> bool:
        log = world.ledger.log_of(rid)
        return log is not None and log.was_lost

    def again() -> None:
        tried = {"tries_again": wish.tries_again - 1, "tried": wish.tried + 1}
        ask(world, what | {"again": (), **tried})

    reader = Reader(wish, edges, what["edge"], world.violated, world.tell, world.count, was_lost, again)
    world.readers.append(reader)
    reader.ask(Line(world.loop, world.randomness))


def cancel(world: World, what: What) -> None:
    """Somebody cancels one of the newest requests that are in the queue, or were."""
    logs = list(world.ledger.logs.values())[::-1]
    if logs:
        edge = world.machines[f"edge-{what['edge']}"]
        log = logs[what["nth"] % len(logs)]
        canceller = Canceller(log, edge, world.ledger, world.violated, world.tell, world.count)
        world.cancellers.append(canceller)
        canceller.ask(Line(world.loop, world.randomness))


def publish(world: World, what: What) -> None:
    """A program publishes a request by itself, and perhaps the same one again later."""
    rid = f"letter{what['number']:010}{world.plan.seed % 10**10:010}"
    subject = subjects.request(what["klass"], LETTER_MODEL, what["tenant"], rid)
    letter = Letter(what["number"], subject, what["tenant"], rid, what["headers"], what["body"].encode())
    for after_s in (0.0, *what["again_after_s"]):
        world.later(after_s, _send, world, letter)


def _send(world: World, letter: Letter) -> None:
    process = world.machines["publisher-0"].process
    client = None if process is None else process.parts.get("NatsClient")
    if process is not None and isinstance(client, NatsClient):
        call = client.publish(letter, world.tell)
        world.sending.append(world.loop.create_task(call, context=process.context.copy()))


def drain(world: World, what: What) -> None:
    """An operator ends a process, in good order, and a supervisor starts it again."""
    machine = world.machine(what["machine"])
    machine.restart_after_s = what["for_s"]
    if machine.process is not None and machine.process.alive:
        world.watcher.disturbed(machine.name)
        machine.process.terminate()


def crash(world: World, what: What) -> None:
    """kill -9, perhaps in the middle of what the process does at this moment."""
    machine = world.machine(what["machine"])
    machine.restart_after_s = what["for_s"]
    if machine.process is not None and machine.process.alive:
        machine.process.kill(after_callbacks=what["after_callbacks"])


def stop(world: World, what: What) -> None:
    """SIGSTOP, later SIGCONT."""
    process = world.machine(what["machine"]).process
    if process is not None:
        process.stop()
        world.seems_dead(process.machine)
        world.until(what["for_s"], process.go_on, process.machine.name)


def cut(world: World, what: What) -> None:
    """A process and the broker cannot reach each other."""
    machine = world.machine(what["machine"])
    line = machine.line
    line.cut()
    world.seems_dead(machine)
    world.until(what["for_s"], line.mend, machine.name)


def reset(world: World, what: What) -> None:
    """The connection between a process and the broker breaks; nothing keeps it from making a new one."""
    process = world.machine(what["machine"]).process
    if process is not None and process.alive:
        world.watcher.disturbed(process.machine.name)
        for transport in list(process.transports):
            transport.reset()


def delay(world: World, what: What) -> None:
    """Everything between a process and the broker takes longer."""
    machine = world.machine(what["machine"])
    machine.line.extra_s = what["extra_s"]

    def mend() -> None:
        machine.line.extra_s = 0.0

    world.until(what["for_s"], mend, machine.name)


def kill_broker(world: World, what: What) -> None:
    """kill -9 of the broker, and a start from its files."""
    if world.broker.up:
        world.broker.kill(forget_delivered=what["forget_delivered"])
        world.until(what["for_s"], world.broker.start)


def stop_broker(world: World, what: What) -> None:
    """SIGSTOP of the broker, later SIGCONT."""
    if world.broker.up:
        world.broker.pause()
        world.until(what["for_s"], world.broker.resume)


def outage(world: World, what: What) -> None:
    """A stream has no leader."""
    until = world.broker.faults.stream_unavailable_until
    stream = what["stream"]
    until[stream] = unix_s(world.loop) + what["for_s"]
    world.until(what["for_s"], lambda: until.pop(stream, None))


def lose_acks(world: World, what: What) -> None:
    """PubAcks of messages that were stored do not arrive."""
    _chance(world, "lose_acks", what)


def lose_live(world: World, what: What) -> None:
    """Republished records do not arrive."""
    _chance(world, "lose_live", what)


def lose_publishes(world: World, what: What) -> None:
    """Messages that ask for no answer do not arrive."""
    _chance(world, "lose_publishes", what)


def busy(world: World, what: What) -> None:
    """A replicated stream still works on a message with the same expectation."""
    _chance(world, "busy", what)


def redeliver(world: World, what: What) -> None:
    """The broker delivers requests again although somebody holds them."""
    world.watcher.disturbed(None)
    world.redeliver(what["count"])


def _chance(world: World, name: str, what: What) -> None:
    world.weather.chances[name] = what["chance"]
    deafens = name in ("lose_live", "lose_publishes")
    world.until(what["for_s"], lambda: world.weather.chances.pop(name, None), deafens=deafens)


Do = Callable[["World", What], None]

COMMANDS: dict[str, Do] = {"ask": ask, "cancel": cancel, "publish": publish, "drain": drain}

FAULTS: dict[str, Do] = {
    "crash": crash,
    "stop": stop,
    "cut": cut,
    "reset": reset,
    "delay": delay,
    "kill_broker": kill_broker,
    "stop_broker": stop_broker,
    "outage": outage,
    "lose_acks": lose_acks,
    "lose_live": lose_live,
    "lose_publishes": lose_publishes,
    "busy": busy,
    "redeliver": redeliver,
}
